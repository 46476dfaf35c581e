/** Something whose single run is timed. */
export interface Contender {
  readonly name: string;
  /**
   * Milliseconds of each of `count` runs.
   *
   * @throws PeerFailed when it cannot run here
   */
  time(count: number): Promise<readonly number[]>;
  close(): Promise<void>;
}

/** Another contender, with what is expected of us beside it. */
export interface Rival {
  readonly name: string;
  /** As in `Row`; null where the figure only informs. */
  readonly target: string | null;
  /** Left out when it is not installed: `note` says so. */
  readonly contender?: Contender;
  readonly note?: string;
}

/** A peer that is there but cannot do what was asked; the row says so, the benchmark goes on. */
export class PeerFailed extends Error {}

/** Milliseconds of each of `count` calls. */
export async function timeEach(count: number, work: () => Promise<unknown>): Promise<number[]> {
  const milliseconds: number[] = [];
  for (let run = 0; run < count; run++) {
    const began = performance.now();
    await work();
    milliseconds.push(performance.now() - began);
  }
  return milliseconds;
}
