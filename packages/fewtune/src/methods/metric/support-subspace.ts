import { FewtuneError } from '../../errors.js';
import type { LinearHead } from '../linear/logistic.js';
import { classMeans, type LabelledFeatures } from './class-means.js';
import { hasSpread, shrunkCholesky, solveLower, solveUpper, withinClassCovariance } from './covariance.js';

/** Coordinates in which the classes of one support set differ, classes − 1 of them at most. */
export interface SupportSubspace {
  readonly hidden: number;
  /** [hidden], the mean of the class means. */
  readonly centre: Float32Array;
  /** [rank, hidden]: coordinates of x are map (x − centre). */
  readonly map: Float32Array;
  readonly rank: number;
}

/** Share of the identity in the covariance of a support set of few examples. */
const SHRINKAGE = 0.8;
/** A direction shorter than this is rounding. */
const TINY = 1e-6;

/**
 * Linear discriminant analysis on the support of one episode: a metric and attention over directions at once. Rows are
 * whitened by the covariance within classes, shrunk towards the identity (Friedman 1989), then projected on the space
 * that the class means span about their centre (Fisher's). In it distances to class means differ as they do before the
 * projection, as ‖x − m‖² loses a term that is the same for every class; what goes is variation that tells no class of
 * this episode from another.
 *
 * Every label is believed: a wrong one makes the spread point from class to class, and whitening then hides what tells
 * them apart. For labels that may be wrong there is `attentionPrototypeHead`, or `shrinkage` 1.
 *
 * @param support every class with a row; with a single row in every class there is no spread, and nothing is whitened
 * @param shrinkage above 0 to 1; 1 leaves the whitening out, and with few rows it should be near 1
 * @throws FewtuneError OPTION_INVALID for a shrinkage outside that
 */
export function supportSubspace(support: LabelledFeatures, shrinkage = SHRINKAGE): SupportSubspace {
  if (!(shrinkage > 0 && shrinkage <= 1)) {
    throw new FewtuneError('OPTION_INVALID', `shrinkage is above 0 to 1, not ${shrinkage}`);
  }
  const { hidden, classes } = support;
  const means = classMeans(support, false);
  const centre = new Float64Array(hidden);
  means.forEach((value, i) => {
    centre[i % hidden]! += value / classes;
  });
  const covariance = shrinkage < 1 ? withinClassCovariance(support) : undefined;
  const lower = covariance && hasSpread(covariance, hidden) ? shrunkCholesky(covariance, hidden, shrinkage) : undefined;
  const directions: Float64Array[] = [];
  for (let c = 0; c < classes; c++) {
    const direction = Float64Array.from({ length: hidden }, (_, j) => means[c * hidden + j]! - centre[j]!);
    if (lower) solveLower(lower, direction);
    const before = norm(direction);
    // Modified Gram-Schmidt, twice: once more takes away what rounding left (Giraud et al. 2005).
    for (let pass = 0; pass < 2; pass++) {
      for (const other of directions) {
        let along = 0;
        for (let j = 0; j < hidden; j++) along += direction[j]! * other[j]!;
        for (let j = 0; j < hidden; j++) direction[j]! -= along * other[j]!;
      }
    }
    const length = norm(direction);
    if (length > TINY * Math.max(1, before)) directions.push(direction.map((value) => value / length));
  }
  const map = new Float32Array(directions.length * hidden);
  directions.forEach((direction, r) => {
    if (lower) solveUpper(lower, direction); // v · L⁻¹x = L⁻ᵀv · x
    map.set(direction, r * hidden);
  });
  return { hidden, centre: new Float32Array(centre), map, rank: directions.length };
}

/** Rows [n, hidden] as coordinates [n, rank]. */
export function intoSubspace({ hidden, centre, map, rank }: SupportSubspace, features: Float32Array): Float32Array {
  const rows = features.length / hidden;
  const out = new Float32Array(rows * rank);
  for (let i = 0; i < rows; i++) {
    for (let r = 0; r < rank; r++) {
      let sum = 0;
      for (let j = 0; j < hidden; j++) sum += (features[i * hidden + j]! - centre[j]!) * map[r * hidden + j]!;
      out[i * rank + r] = sum;
    }
  }
  return out;
}

/**
 * The nearest class mean by Euclidean distance in the support's subspace: score_c(x) = −‖z − p_c‖² + ‖z‖², z the
 * coordinates of x. Linear in x, so it is a head like any other. With `shrinkage` 1 it is the prototype of Snell et al. 2017
 * (equation 8, arXiv:1703.05175). Labels are believed, as {@link supportSubspace} says.
 *
 * @throws FewtuneError OPTION_INVALID for a shrinkage that is not above 0 to 1
 */
export function subspacePrototypeHead(support: LabelledFeatures, shrinkage = SHRINKAGE): LinearHead {
  const { hidden, classes } = support;
  const space = supportSubspace(support, shrinkage);
  const prototypes = intoSubspace(space, classMeans(support, false)); // [classes, rank]
  const weight = new Float32Array(classes * hidden);
  const bias = new Float32Array(classes);
  for (let c = 0; c < classes; c++) {
    for (let r = 0; r < space.rank; r++) {
      const p = prototypes[c * space.rank + r]!;
      bias[c]! -= p * p;
      for (let j = 0; j < hidden; j++) {
        const w = 2 * p * space.map[r * hidden + j]!;
        weight[c * hidden + j]! += w;
        bias[c]! -= w * space.centre[j]!;
      }
    }
  }
  return { weight, bias };
}

const norm = (values: Float64Array) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
