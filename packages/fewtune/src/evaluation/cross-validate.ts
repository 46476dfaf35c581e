import { rowsByClass, stratifiedFolds } from '../data/split.js';

export interface CrossValidation {
  /** Out-of-fold logits [rows, classes], row-major: each row predicted by a model that never saw it. */
  readonly logits: Float32Array;
  /** Fold of each row. */
  readonly folds: Int32Array;
  readonly foldCount: number;
}

/** Folds that leave every class something to learn from: at most five, at most the smallest class. */
export function foldCountFor(labels: Int32Array, most = 5): number {
  const sizes = rowsByClass(labels).flatMap((rows) => (rows.length > 0 ? [rows.length] : []));
  return Math.min(most, ...sizes);
}

/**
 * Stratified cross-validation. `fitPredict` learns from the rows `train` and returns logits for the rows `test`.
 * @throws RangeError when a class has a single row, so that it could be in training or in testing only
 */
export async function crossValidate(
  labels: Int32Array,
  classes: number,
  fitPredict: (train: Int32Array, test: Int32Array, fold: number) => Promise<Float32Array> | Float32Array,
  options: { seed: number; folds?: number },
): Promise<CrossValidation> {
  const foldCount = options.folds ?? foldCountFor(labels);
  if (foldCount < 2) {
    throw new RangeError(`cross-validation needs 2 rows of every class and 2 folds, found ${foldCount}`);
  }
  const folds = stratifiedFolds(labels, foldCount, options.seed);
  const rows = Int32Array.from(labels.keys());
  const logits = new Float32Array(labels.length * classes);
  for (let fold = 0; fold < foldCount; fold++) {
    const test = rows.filter((row) => folds[row] === fold);
    const found = await fitPredict(
      rows.filter((row) => folds[row] !== fold),
      test,
      fold,
    );
    test.forEach((row, i) => {
      logits.set(found.subarray(i * classes, (i + 1) * classes), row * classes);
    });
  }
  return { logits, folds, foldCount };
}
