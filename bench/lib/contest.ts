import { setTimeout } from 'node:timers/promises';
import { say } from './bench.js';
import { type Contender, PeerFailed, type Rival } from './contender.js';
import { type Row, row } from './report.js';
import { median } from './statistics.js';

export interface Contest {
  readonly what: string;
  readonly ours: Contender;
  /** The matrix products of what is timed, and nothing else: the limit of the machine. */
  readonly products?: { readonly contender: Contender; readonly target: string | null };
  readonly rivals: readonly Rival[];
  readonly rounds: number;
  /** Runs of each in a round. */
  readonly runs: number;
  readonly warmUp?: number;
  readonly note?: string;
}

/** Milliseconds after which threads that wait for more work of the one before no longer do so by taking up a core. */
const settling = 250;

/**
 * Times everyone in turn, round by round, so that a slow minute hits all of them, then closes them. Each figure stands
 * in two rows, the median and the lowest; every note says how far from its own matrix products it is.
 */
export async function contest(setting: Contest): Promise<Row[]> {
  const { what, ours, products, rounds, runs, warmUp = 2 } = setting;
  const failed = new Map<Contender, string>();
  const all = [ours, products?.contender, ...setting.rivals.map(({ contender }) => contender)].filter(
    (contender) => contender !== undefined,
  );
  const attempt = async (contender: Contender, count: number): Promise<readonly number[]> => {
    if (failed.has(contender)) return [];
    try {
      return await contender.time(count);
    } catch (error) {
      if (!(error instanceof PeerFailed)) throw error;
      failed.set(contender, error.message);
      say(`${contender.name} failed: ${error.message}`);
      return [];
    }
  };
  const times = new Map<Contender, number[]>(all.map((contender) => [contender, []]));
  try {
    for (const contender of all) await attempt(contender, warmUp);
    for (let round = 0; round < rounds; round++) {
      for (const contender of all) {
        await setTimeout(settling);
        times.get(contender)!.push(...(await attempt(contender, runs)));
      }
      say(`${what}, round ${round + 1} of ${rounds}: ${all.map((one) => show(one, times.get(one)!)).join(', ')}`);
    }
  } finally {
    for (const contender of all) await contender.close();
  }
  return rowsOf(setting, times, failed);
}

const lowest = (values: readonly number[]) => Math.min(...values);
const show = ({ name }: Contender, times: readonly number[]) =>
  `${name} ${times.length > 0 ? `${lowest(times).toFixed(times.length > 0 && lowest(times) < 20 ? 2 : 0)} ms` : 'failed'}`;

function rowsOf(
  { what, ours, products, rivals, rounds, runs, note }: Contest,
  times: ReadonlyMap<Contender, readonly number[]>,
  failed: ReadonlyMap<Contender, string>,
): Row[] {
  const figures = [
    ['median', median],
    ['lowest', lowest],
  ] as const;
  const own = times.get(ours)!;
  const limit = products && times.get(products.contender)!;
  const common = [`${rounds * runs} runs each, alternating`, note];
  const rowsAgainst = (
    rival: { name: string; target: string | null; times?: readonly number[] },
    notes: (of: (values: readonly number[]) => number) => (string | undefined)[],
  ) =>
    figures.map(([figure, of]) =>
      row({
        what: `${what}, ${figure}`,
        ours: of(own),
        unit: 'ms',
        peer: rival.times?.length ? of(rival.times) : null,
        peerName: rival.name,
        target: rival.target,
        note: notes(of).filter(Boolean).join('; '),
      }),
    );
  const fromLimit = (of: (values: readonly number[]) => number) =>
    limit && `${(of(own) / of(limit)).toFixed(2)}x its matrix products`;
  return [
    ...(products
      ? rowsAgainst({ name: 'its matrix products', target: products.target, times: limit }, () => [
          products.contender.name,
          ...common,
        ])
      : []),
    ...rivals.flatMap((rival) => {
      const failure = rival.contender && failed.get(rival.contender);
      const reason = failure ? `did not run here: ${failure}` : rival.note;
      const measured = rival.contender && times.get(rival.contender);
      return rowsAgainst({ ...rival, name: rival.contender?.name ?? rival.name, times: measured }, (of) => [
        fromLimit(of),
        reason,
        ...(measured?.length ? common : [note]),
      ]);
    }),
  ];
}
