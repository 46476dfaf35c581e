import { affineRows } from '../../../artifact/affine-rows.js';
import { FewtuneError } from '../../../errors.js';
import { softmaxRows } from '../../../evaluation/calibration.js';
import { checkCount } from '../../checks.js';
import { lbfgs } from '../../optimise/lbfgs.js';
import { classMeans, type LabelledFeatures } from '../class-means.js';
import { type BatchAnswer, queryBalance } from './query-balance.js';
import { prototypeProbabilities, requirePositive } from './soft-k-means.js';

export interface InformationMaximisationOptions {
  /** τ of p_c(x) ∝ exp(−τ ‖x − w_c‖² / 2). */
  readonly sharpness?: number;
  /** λ: weight of the support's cross-entropy. */
  readonly supportWeight?: number;
  /** α: weight of the entropy of each query's answer. */
  readonly conditionalWeight?: number;
  /**
   * How often classes occur among the queries: `balanced`, as in the paper; `estimated`, as often as the support alone
   * answers with them; or shares that sum to 1.
   */
  readonly prior?: 'balanced' | 'estimated' | readonly number[];
  readonly iterations?: number;
  readonly signal?: AbortSignal;
}

/** Weights and τ of the paper's code. */
export const informationMaximisationDefaults = {
  sharpness: 15,
  supportWeight: 0.1,
  conditionalWeight: 0.1,
  prior: 'balanced',
  iterations: 100,
} as const;

/**
 * Prototypes w moved so that the queries' answers say as much as they can about the queries: minimises
 * λ · crossEntropy(support) + KL(mean_j p_j ‖ π) + α · mean_j H(p_j), p_j = softmax_c(−τ ‖q_j − w_c‖² / 2), from the class means, by
 * L-BFGS. With π uniform it is TIM-GD, Boudiaf et al. 2020, equation 3, arXiv:2008.11297, up to a constant. That the
 * classes are equally frequent is an assumption, not a finding: where they are not it moves queries out of frequent
 * classes (Veilleux et al. 2021, arXiv:2106.04655), hence the warning and `prior`.
 *
 * @param support every class with a row
 * @param queries [queries, hidden]
 * @throws FewtuneError OPTION_INVALID for an option out of range, INTERRUPTED when `signal` was aborted
 */
export async function informationMaximisation(
  support: LabelledFeatures,
  queries: Float32Array,
  options: InformationMaximisationOptions = {},
): Promise<BatchAnswer> {
  const settings = { ...informationMaximisationDefaults, ...options };
  const { hidden, classes } = support;
  const { sharpness, iterations, signal } = settings;
  requirePositive('sharpness', sharpness);
  checkCount('iterations', iterations, 0);
  for (const name of ['supportWeight', 'conditionalWeight'] as const) {
    const value = settings[name];
    if (value >= 0 && value < Number.POSITIVE_INFINITY) continue;
    throw new FewtuneError('OPTION_INVALID', `${name} is 0 or more, not ${value}`);
  }
  const means = classMeans(support, false);
  const inductive = prototypeProbabilities(means, queries, hidden, sharpness);
  const { marginal, warnings } = queryBalance(inductive, classes);
  const prior = priorOf(settings.prior, marginal, queries.length / hidden);
  const objective = informationObjective(support, queries, { ...settings, prior });
  const { x } = await lbfgs(objective, Float64Array.from(means), {
    maxIterations: iterations,
    gradientTolerance: 1e-5,
    signal,
  });
  const probabilities = prototypeProbabilities(Float32Array.from(x), queries, hidden, sharpness);
  return { probabilities, marginal, warnings: settings.prior === 'balanced' ? warnings : [] };
}

/** Queries that are added to every class of an estimated prior, so that none is ruled out. */
const DOUBT = 0.1;

function priorOf(
  prior: 'balanced' | 'estimated' | readonly number[],
  marginal: Float64Array,
  queries: number,
): Float64Array {
  const classes = marginal.length;
  if (prior === 'balanced') return new Float64Array(classes).fill(1 / classes);
  if (prior === 'estimated') return marginal.map((share) => (share * queries + DOUBT) / (queries + DOUBT * classes));
  const total = prior.reduce((a, b) => a + b, 0);
  if (prior.length !== classes || !prior.every((share) => share > 0) || Math.abs(total - 1) > 1e-6) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `prior is ${classes} shares above 0 that sum to 1, not ${JSON.stringify(prior)}`,
    );
  }
  return Float64Array.from(prior);
}

interface ObjectiveSettings {
  readonly sharpness: number;
  readonly supportWeight: number;
  readonly conditionalWeight: number;
  readonly prior: Float64Array;
}

/** Value and gradient over the prototypes [classes, hidden]. */
export function informationObjective(
  { hidden, classes, features, labels }: LabelledFeatures,
  queries: Float32Array,
  { sharpness, supportWeight, conditionalWeight, prior }: ObjectiveSettings,
): (x: Float64Array, gradient: Float64Array) => number {
  const shown = labels.length;
  const asked = queries.length / hidden;
  const rows = new Float32Array(features.length + queries.length);
  rows.set(features);
  rows.set(queries, features.length);
  return (x, gradient) => {
    const prototypes = Float32Array.from(x);
    const lengths = new Float32Array(classes);
    for (let k = 0; k < x.length; k++) lengths[Math.floor(k / hidden)]! -= (sharpness * x[k]! ** 2) / 2;
    const logits = new Float32Array((shown + asked) * classes);
    affineRows(
      rows,
      prototypes.map((value) => sharpness * value),
      lengths,
      hidden,
      logits,
    );
    const p = softmaxRows(logits, classes);
    const share = new Float64Array(classes);
    for (let k = shown * classes; k < p.length; k++) share[k % classes]! += p[k]! / asked;

    // d loss / d logits, in place of p once it is used up
    const slope = new Float64Array(p.length);
    let value = 0;
    for (let i = 0; i < shown; i++) {
      const weight = supportWeight / shown;
      for (let c = 0; c < classes; c++) {
        slope[i * classes + c] = weight * (p[i * classes + c]! - (labels[i] === c ? 1 : 0));
      }
      value -= weight * Math.log(Math.max(p[i * classes + labels[i]!]!, 1e-30));
    }
    share.forEach((mean, c) => {
      if (mean > 0) value += mean * Math.log(mean / prior[c]!);
    });
    for (let i = shown; i < shown + asked; i++) {
      let centre = 0;
      const own = (c: number) => {
        const q = Math.max(p[i * classes + c]!, 1e-30);
        return Math.log(Math.max(share[c]!, 1e-30) / prior[c]!) - conditionalWeight * Math.log(q);
      };
      for (let c = 0; c < classes; c++) {
        const q = p[i * classes + c]!;
        centre += q * own(c);
        value -= (conditionalWeight / asked) * q * Math.log(Math.max(q, 1e-30));
      }
      for (let c = 0; c < classes; c++) slope[i * classes + c] = (p[i * classes + c]! / asked) * (own(c) - centre);
    }
    // logit_c = τ (x · w_c − ‖w_c‖² / 2) + …, so d w_c = τ Σ_i slope_ic (x_i − w_c)
    gradient.fill(0);
    for (let k = 0; k < slope.length; k++) {
      const step = sharpness * slope[k]!;
      if (Math.abs(step) < 1e-12) continue;
      const [row, at] = [Math.floor(k / classes) * hidden, (k % classes) * hidden];
      for (let j = 0; j < hidden; j++) gradient[at + j]! += step * (rows[row + j]! - x[at + j]!);
    }
    return value;
  };
}
