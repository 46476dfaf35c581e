import type { Row } from './report.js';

/** What the command line asks of every benchmark. */
export interface Options {
  readonly quick: boolean;
  readonly resume: boolean;
  /** False with --no-peers. */
  readonly peers: boolean;
  readonly fullPeers: boolean;
  readonly methods?: readonly string[];
  readonly shots?: readonly number[];
  readonly draws?: number;
  /** Names of parts; all of them when left out. */
  readonly only?: readonly string[];
}

export interface Benchmark {
  readonly name: string;
  /** One line for the list. */
  readonly about: string;
  run(options: Options): Promise<{ rows: Row[]; seeds: readonly number[] }>;
}

/** Partial progress, on stderr. */
export function say(message: string): void {
  process.stderr.write(`${new Date().toISOString().slice(11, 19)} ${message}\n`);
}

/** `result` of `work` and the seconds it took. */
export async function timed<T>(work: () => Promise<T>): Promise<{ result: T; seconds: number }> {
  const began = performance.now();
  const result = await work();
  return { result, seconds: (performance.now() - began) / 1000 };
}
