import type { Random } from '../../data/random.js';

export interface ClassBatchOptions {
  /** Classes in a batch; all of them if there are fewer. */
  readonly classes: number;
  /** Examples of each; a class with fewer gives all it has. */
  readonly perClass: number;
}

/**
 * Endless class-balanced batches of row indices: every class in turn, every example of a class in turn, both in an order
 * that is drawn anew after each round. It keeps one list a class, O(n) in all, and no list of pairs.
 */
export function* classBatches(labels: Int32Array, options: ClassBatchOptions, random: Random): Generator<number[]> {
  const members = new Map<number, number[]>();
  for (const [row, label] of labels.entries()) {
    const list = members.get(label);
    if (list) list.push(row);
    else members.set(label, [row]);
  }
  const nextClass = rounds([...members.keys()], random);
  const nextRow = new Map([...members].map(([label, rows]) => [label, rounds(rows, random)]));
  const width = Math.min(options.classes, members.size);
  for (;;) {
    const chosen = new Set<number>();
    while (chosen.size < width) chosen.add(nextClass());
    const batch: number[] = [];
    for (const label of chosen) {
      const take = Math.min(options.perClass, members.get(label)!.length);
      const rows = new Set<number>();
      while (rows.size < take) rows.add(nextRow.get(label)!());
      batch.push(...rows);
    }
    yield batch;
  }
}

/** The values one after the other, round after round, each round shuffled. */
function rounds(values: readonly number[], random: Random): () => number {
  let order: number[] = [];
  return () => {
    if (order.length === 0) order = random.shuffle([...values]);
    return order.pop()!;
  };
}
