import { FewtuneError } from '../../../errors.js';
import { softmaxRows } from '../../../evaluation/calibration.js';
import { checkCount } from '../../checks.js';
import { classMeans, type LabelledFeatures } from '../class-means.js';
import { gramRows } from '../spread-solver.js';
import { type BatchAnswer, queryBalance } from './query-balance.js';
import { prototypeProbabilities, requirePositive } from './soft-k-means.js';

export interface LaplacianShotOptions {
  /** s of the prototypes' softmax(−s ‖x − p_c‖² / 2). */
  readonly sharpness?: number;
  /** λ: how much a query listens to its neighbours. */
  readonly smoothness?: number;
  /** Neighbours of each query. */
  readonly neighbours?: number;
  readonly iterations?: number;
}

export const laplacianShotDefaults: Required<LaplacianShotOptions> = {
  sharpness: 15,
  smoothness: 0.5,
  neighbours: 3,
  iterations: 20,
};

/**
 * Queries that are neighbours get like answers: minimises Σ_j y_j · a_j + Σ_j y_j · log y_j − λ/2 Σ_jk w_jk y_j · y_k over distributions y,
 * a_jc = s ‖q_j − p_c‖² / 2, w the symmetrised graph of nearest neighbours (1 each way, ½ one way), by the updates
 * y_j ← softmax(−a_j + λ Σ_k w_jk y_k). LaplacianShot: Ziko et al. 2020, section 2, arXiv:2006.15486 (without its
 * prototype rectification). It expects nothing of how often classes occur.
 *
 * @param support every class with a row
 * @param queries [queries, hidden]
 * @throws FewtuneError OPTION_INVALID for an option out of range
 */
export function laplacianShot(
  support: LabelledFeatures,
  queries: Float32Array,
  options: LaplacianShotOptions = {},
): BatchAnswer {
  const { sharpness, smoothness, neighbours, iterations } = { ...laplacianShotDefaults, ...options };
  requirePositive('sharpness', sharpness);
  if (!(smoothness >= 0 && smoothness < Number.POSITIVE_INFINITY))
    throw new FewtuneError('OPTION_INVALID', `smoothness is 0 or more, not ${smoothness}`);
  checkCount('neighbours', neighbours, 0);
  checkCount('iterations', iterations, 0);
  const { hidden, classes } = support;
  const graph = neighbourGraph(queries, hidden, neighbours);
  const inductive = prototypeProbabilities(classMeans(support, false), queries, hidden, sharpness);
  const unary = inductive.map((p) => Math.log(Math.max(p, 1e-30))); // −a up to a shift of each row
  let probabilities = inductive;
  for (let step = 0; step < iterations; step++) {
    const scores = Float32Array.from(unary);
    for (const [j, k, weight] of graph) {
      for (let c = 0; c < classes; c++) {
        scores[j * classes + c]! += smoothness * weight * probabilities[k * classes + c]!;
        scores[k * classes + c]! += smoothness * weight * probabilities[j * classes + c]!;
      }
    }
    probabilities = softmaxRows(scores, classes);
  }
  return { probabilities, ...queryBalance(inductive, classes) };
}

/** Pairs j < k of queries with their weight: ½ for each of the two that has the other among its nearest by Euclid. */
export function neighbourGraph(
  queries: Float32Array,
  hidden: number,
  neighbours: number,
): readonly (readonly [j: number, k: number, weight: number])[] {
  const count = queries.length / hidden;
  const gram = gramRows(Float64Array.from(queries), hidden);
  const weights = new Map<number, number>();
  for (let j = 0; j < count; j++) {
    // ‖q_j − q_k‖² less ‖q_j‖², which is the same for every k
    const distance = (k: number) => gram[k * count + k]! - 2 * gram[j * count + k]!;
    const others = [...Array(count).keys()].filter((k) => k !== j).sort((a, b) => distance(a) - distance(b) || a - b);
    for (const k of others.slice(0, neighbours)) {
      const pair = Math.min(j, k) * count + Math.max(j, k);
      weights.set(pair, (weights.get(pair) ?? 0) + 0.5);
    }
  }
  return [...weights].map(([pair, weight]) => [Math.floor(pair / count), pair % count, weight] as const);
}
