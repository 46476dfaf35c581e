import { createRandom } from '../data/random.js';

export interface BootstrapOptions {
  seed: number;
  /** Resamples drawn; 2000 by default, so that each tail of a 95 % interval holds 50. */
  resamples?: number;
}

/** Means of `resamples` draws of rows with replacement, ascending. */
function resampledMeans(values: ArrayLike<number>, { seed, resamples = 2000 }: BootstrapOptions): Float64Array {
  const random = createRandom(seed);
  const n = values.length;
  return Float64Array.from({ length: resamples }, () => {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += values[random.int(n)]!;
    return sum / n;
  }).sort();
}

/** Linear interpolation between order statistics, as NumPy's default. */
function quantile(sorted: Float64Array, q: number): number {
  const at = q * (sorted.length - 1);
  const low = Math.floor(at);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low]! + (at - low) * (sorted[high]! - sorted[low]!);
}

/**
 * 95 % percentile bootstrap interval of a mean, here of the accuracy. Efron and Tibshirani 1993, chapter 13. Where all
 * rows are right, or all wrong, resampling shows no spread at all; the exact binomial bound (Clopper and Pearson 1934)
 * stands in: five right of five is 47.8 % to 100 %.
 *
 * @param correct 1 for a right prediction, 0 for a wrong one; of no rows the interval is [0, 1]
 */
export function bootstrapInterval(correct: ArrayLike<number>, options: BootstrapOptions): [lo: number, hi: number] {
  const n = correct.length;
  if (n === 0) return [0, 1];
  const right = Array.from(correct).reduce((sum, one) => sum + one, 0);
  const bound = 0.025 ** (1 / n);
  if (right === n) return [bound, 1];
  if (right === 0) return [0, 1 - bound];
  const means = resampledMeans(correct, options);
  return [quantile(means, 0.025), quantile(means, 0.975)];
}

export interface PairedComparison {
  /** Accuracy of a less accuracy of b on the same rows. */
  readonly difference: number;
  readonly interval: readonly [lo: number, hi: number];
  /** Share of resamples in which a is ahead, ties counted half. */
  readonly probabilityAhead: number;
}

/** Bootstrap of the difference of two classifiers over the same rows: rows are drawn, so their pairing is kept. */
export function pairedBootstrap(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  options: BootstrapOptions,
): PairedComparison {
  const n = a.length;
  if (n === 0) return { difference: 0, interval: [-1, 1], probabilityAhead: 0.5 };
  const differences = Float64Array.from({ length: n }, (_, i) => a[i]! - b[i]!);
  const means = resampledMeans(differences, options);
  const ahead = means.reduce((sum, mean) => sum + (mean > 0 ? 1 : mean === 0 ? 0.5 : 0), 0);
  return {
    difference: differences.reduce((sum, one) => sum + one, 0) / n,
    interval: [quantile(means, 0.025), quantile(means, 0.975)],
    probabilityAhead: ahead / means.length,
  };
}
