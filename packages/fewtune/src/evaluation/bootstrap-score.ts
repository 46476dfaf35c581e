import { createRandom } from '../data/random.js';

/**
 * 95 % percentile bootstrap interval of any score of rows (Efron and Tibshirani 1993, chapter 13): rows are drawn with
 * replacement and scored anew.
 *
 * @param score of some rows, each perhaps several times
 */
export function bootstrapScore(
  rows: number,
  score: (rows: Int32Array) => number,
  { seed, resamples = 1000 }: { seed: number; resamples?: number },
): [lo: number, hi: number] {
  if (rows === 0) return [0, 0];
  const random = createRandom(seed);
  const drawn = new Int32Array(rows);
  const values = Float64Array.from({ length: resamples }, () => {
    for (let i = 0; i < rows; i++) drawn[i] = random.int(rows);
    return score(drawn);
  }).sort();
  const at = (share: number): number => values[Math.round(share * (resamples - 1))]!;
  return [at(0.025), at(0.975)];
}
