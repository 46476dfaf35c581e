import type { Random } from '../../data/random.js';

export interface BatchShape {
  /** Rows of a micro-batch. */
  readonly batchSize: number;
  /** Micro-batches of a step. */
  readonly accumulate: number;
  /** Whether batches are made of rows of like lengths. */
  readonly groupByLength: boolean;
}

/** Batches among which rows are sorted by length: enough for like lengths, few enough that batches differ each epoch. */
const batchesSorted = 8;

/** How many steps an epoch has. */
export const stepsOf = (rows: number, { batchSize, accumulate }: BatchShape): number =>
  Math.ceil(rows / (batchSize * accumulate));

/**
 * The steps of one epoch, in a new order: each a few micro-batches of rows, every row once. Only the last rows of an
 * epoch make a smaller step.
 *
 * @param lengths of each row, in tokens
 * @returns [step][micro-batch] -> indices into `lengths`
 */
export function epochBatches(lengths: readonly number[], shape: BatchShape, random: Random): number[][][] {
  const { batchSize, accumulate, groupByLength } = shape;
  const perStep = batchSize * accumulate;
  const byLength = (a: number, b: number) => lengths[a]! - lengths[b]! || a - b;
  const order = random.shuffle([...lengths.keys()]);
  const sorted = groupByLength ? chunks(order, batchesSorted * perStep).flatMap((part) => part.sort(byLength)) : order;
  const steps = chunks(sorted, perStep).map((rows) => chunks(rows, batchSize));
  return groupByLength ? random.shuffle(steps) : steps;
}

function chunks<T>(values: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(values.length / size) }, (_, i) => values.slice(i * size, (i + 1) * size));
}
