import { createRandom } from './random.js';

/** Row indices of each class, in order; labels are 0..classes-1. */
export function rowsByClass(labels: Int32Array): number[][] {
  const rows: number[][] = [];
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i]!;
    while (rows.length <= label) rows.push([]);
    rows[label]!.push(i);
  }
  return rows;
}

/**
 * Deals each class's shuffled rows round the folds, going on where the last class stopped, so that folds differ by at
 * most one row in size and, within a class, too. With k >= 2 no class of two or more rows lies in one fold alone.
 *
 * @returns fold (0..k-1) of each row
 */
export function stratifiedFolds(labels: Int32Array, k: number, seed: number): Int32Array {
  const random = createRandom(seed);
  const folds = new Int32Array(labels.length);
  let fold = 0;
  for (const rows of rowsByClass(labels)) {
    for (const row of random.shuffle(rows)) {
      folds[row] = fold;
      fold = (fold + 1) % k;
    }
  }
  return folds;
}

export interface Split {
  /** Ascending row indices. */
  readonly train: Int32Array;
  readonly test: Int32Array;
}

/**
 * Puts about `fraction` of the rows aside for testing, the same fraction of every class (largest remainders first).
 * Every class keeps at least one row to train on.
 */
export function stratifiedSplit(labels: Int32Array, fraction: number, seed: number): Split {
  const random = createRandom(seed);
  const classes = rowsByClass(labels).map((rows) => ({ rows: random.shuffle(rows), tie: random.next() }));
  const quotas = classes.map(({ rows, tie }) => {
    const exact = rows.length * fraction;
    const count = Math.min(Math.floor(exact), Math.max(0, rows.length - 1));
    return { count, rest: exact - count, room: Math.max(0, rows.length - 1 - count), tie };
  });
  let missing = Math.round(labels.length * fraction) - quotas.reduce((sum, { count }) => sum + count, 0);
  for (const quota of [...quotas].sort((a, b) => b.rest - a.rest || a.tie - b.tie)) {
    if (missing <= 0) break;
    if (quota.room === 0) continue;
    quota.count++;
    missing--;
  }
  const isTest = new Uint8Array(labels.length);
  classes.forEach(({ rows }, c) => {
    for (let i = 0; i < quotas[c]!.count; i++) isTest[rows[i]!] = 1;
  });
  const pick = (wanted: number) => Int32Array.from(isTest.keys()).filter((row) => isTest[row] === wanted);
  return { train: pick(0), test: pick(1) };
}

/** Folds that leave every class something to learn from: at most five, at most the smallest class. */
export function foldCountFor(labels: Int32Array, most = 5): number {
  const sizes = rowsByClass(labels).flatMap((rows) => (rows.length > 0 ? [rows.length] : []));
  return Math.min(most, ...sizes);
}
