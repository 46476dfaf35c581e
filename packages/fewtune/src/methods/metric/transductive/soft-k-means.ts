import { FewtuneError } from '../../../errors.js';
import { softmaxRows } from '../../../evaluation/calibration.js';
import { checkCount } from '../../checks.js';
import { headLogits } from '../../linear/logistic.js';
import { classMeans, type LabelledFeatures } from '../class-means.js';
import { type BatchAnswer, queryBalance } from './query-balance.js';

export interface SoftKMeansOptions {
  /** s of softmax(−s ‖x − p_c‖² / 2). */
  readonly sharpness?: number;
  /** Rounds of assigning queries and moving prototypes. */
  readonly iterations?: number;
}

export const softKMeansDefaults: Required<SoftKMeansOptions> = { sharpness: 15, iterations: 3 };

/**
 * Prototypes refined by the queries: z_jc = softmax_c(−s ‖q_j − p_c‖² / 2), p_c = (Σ support of c + Σ_j z_jc q_j) / (n_c + Σ_j z_jc), a few
 * times. Ren et al. 2018, section 3.1, equation 3, arXiv:1803.00676, where the unlabelled rows are others than the
 * queries and one round is taken.
 *
 * @param support every class with a row
 * @param queries [queries, hidden]
 * @throws FewtuneError OPTION_INVALID for an option out of range
 */
export function softKMeans(
  support: LabelledFeatures,
  queries: Float32Array,
  options: SoftKMeansOptions = {},
): BatchAnswer {
  const { sharpness, iterations } = { ...softKMeansDefaults, ...options };
  requirePositive('sharpness', sharpness);
  checkCount('iterations', iterations, 0);
  const { hidden, classes, labels } = support;
  const means = classMeans(support, false);
  const sizes = new Float64Array(classes);
  for (const label of labels) sizes[label]!++;
  const inductive = prototypeProbabilities(means, queries, hidden, sharpness);
  let probabilities = inductive;
  for (let step = 0; step < iterations; step++) {
    const sums = Float64Array.from(means, (value, k) => value * sizes[Math.floor(k / hidden)]!);
    const masses = Float64Array.from(sizes);
    for (let k = 0; k < probabilities.length; k++) {
      const [query, c] = [Math.floor(k / classes), k % classes];
      masses[c]! += probabilities[k]!;
      for (let j = 0; j < hidden; j++) sums[c * hidden + j]! += probabilities[k]! * queries[query * hidden + j]!;
    }
    const moved = Float32Array.from(sums, (value, k) => value / masses[Math.floor(k / hidden)]!);
    probabilities = prototypeProbabilities(moved, queries, hidden, sharpness);
  }
  return { probabilities, ...queryBalance(inductive, classes) };
}

/** softmax_c(−s ‖q_j − p_c‖² / 2) [queries, classes]. */
export function prototypeProbabilities(
  prototypes: Float32Array,
  queries: Float32Array,
  hidden: number,
  sharpness: number,
): Float32Array {
  const classes = prototypes.length / hidden;
  const bias = new Float32Array(classes); // −‖p_c‖²; ‖q_j‖² is the same for every class
  for (let k = 0; k < prototypes.length; k++) bias[Math.floor(k / hidden)]! -= prototypes[k]! ** 2;
  const head = { weight: prototypes.map((value) => 2 * value), bias };
  return softmaxRows(headLogits(head, queries), classes, 2 / sharpness);
}

export function requirePositive(name: string, value: number): void {
  if (!(value > 0 && value < Number.POSITIVE_INFINITY)) {
    throw new FewtuneError('OPTION_INVALID', `${name} is above 0, not ${value}`);
  }
}
