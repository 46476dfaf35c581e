import type { LinearHead } from '../linear/logistic.js';
import { classMeans, type LabelledFeatures } from './class-means.js';

/** The directions in which the classes of one support set differ, classes − 1 of them at most. */
export interface SupportSubspace {
  readonly hidden: number;
  /** [hidden], the mean of the class means. */
  readonly centre: Float32Array;
  /** [rank, hidden], orthonormal. */
  readonly basis: Float32Array;
  readonly rank: number;
}

/** A direction shorter than this is rounding. */
const TINY = 1e-6;

/**
 * The space that the class means of a support set span, about their centre: hard attention over feature directions,
 * computed from the support of one episode alone. Distances to class means differ in this space as they do in the whole
 * (‖x − m‖² loses a term that is the same for every class), so the nearest mean stays the nearest; what goes is
 * variation that tells no class of this episode from another.
 *
 * It is the between-class space of linear discriminant analysis without its whitening, which few examples cannot carry.
 *
 * @param support every class with a row
 */
export function supportSubspace(support: LabelledFeatures): SupportSubspace {
  const { hidden, classes } = support;
  const means = classMeans(support, false);
  const centre = new Float64Array(hidden);
  means.forEach((value, i) => {
    centre[i % hidden]! += value / classes;
  });
  const directions: Float64Array[] = [];
  for (let c = 0; c < classes; c++) {
    const direction = Float64Array.from({ length: hidden }, (_, j) => means[c * hidden + j]! - centre[j]!);
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
  const basis = new Float32Array(directions.length * hidden);
  directions.forEach((direction, r) => {
    basis.set(direction, r * hidden);
  });
  return { hidden, centre: new Float32Array(centre), basis, rank: directions.length };
}

/** Rows [n, hidden] as coordinates [n, rank]. */
export function intoSubspace({ hidden, centre, basis, rank }: SupportSubspace, features: Float32Array): Float32Array {
  const rows = features.length / hidden;
  const out = new Float32Array(rows * rank);
  for (let i = 0; i < rows; i++) {
    for (let r = 0; r < rank; r++) {
      let sum = 0;
      for (let j = 0; j < hidden; j++) sum += (features[i * hidden + j]! - centre[j]!) * basis[r * hidden + j]!;
      out[i * rank + r] = sum;
    }
  }
  return out;
}

/**
 * The nearest class mean by Euclidean distance, in the whole space and, which is the same, in the support's subspace:
 * −‖x − m_c‖² without ‖x‖². Snell et al. 2017, equation 8, arXiv:1703.05175.
 */
export function euclideanPrototypeHead(support: LabelledFeatures): LinearHead {
  const { hidden, classes } = support;
  const means = classMeans(support, false);
  const bias = new Float32Array(classes);
  means.forEach((value, i) => {
    bias[Math.floor(i / hidden)]! -= value * value;
  });
  return { weight: means.map((value) => 2 * value), bias };
}

const norm = (values: Float64Array) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
