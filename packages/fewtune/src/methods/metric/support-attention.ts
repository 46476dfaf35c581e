import { affineRows } from '../../artifact/affine-rows.js';
import { unitRows } from '../../evaluation/distances.js';
import { classMeans, type LabelledFeatures } from './class-means.js';

/**
 * How far each support row stands for each class, [rows, classes], 0 to 1: row i carries r[i, c] of a whole example into
 * the prototype of class c. With labels believed it is 1 at the label and 0 elsewhere.
 */
export type Responsibilities = Float64Array;

/** Rows of a class from which the others can outvote one; below it labels are believed. */
const QUORUM = 3;

export function labelResponsibilities({ classes, labels }: LabelledFeatures): Responsibilities {
  const out = new Float64Array(labels.length * classes);
  labels.forEach((label, i) => {
    out[i * classes + label] = 1;
  });
  return out;
}

export interface MarginAttentionOptions {
  /** τ: smaller takes more weight from an outlier. */
  readonly temperature: number;
  /** δ: margins above −δ keep their whole weight. */
  readonly slack: number;
}

/**
 * Attention over the support by margin: r[i, y_i] = exp(min(0, margin_i + δ) / τ), margin_i = cosine of row i to the mean
 * of the others of its class − its largest cosine to the mean of another class. An example that lies nearer another class
 * loses weight; it is not moved there. In a class of one or two rows nobody can be outvoted: whole weights.
 *
 * @param data features of unit length
 */
export function marginAttention(
  data: LabelledFeatures,
  { temperature, slack }: MarginAttentionOptions,
): Responsibilities {
  const { classes, labels } = data;
  const out = labelResponsibilities(data);
  if (classes < 2) return out;
  const cosines = cosinesWithoutOneself(data, out, undefined, 0);
  const sizes = classSizes(data);
  labels.forEach((label, i) => {
    if (sizes[label]! < QUORUM) return;
    let other = Number.NEGATIVE_INFINITY;
    for (let c = 0; c < classes; c++) if (c !== label) other = Math.max(other, cosines[i * classes + c]!);
    const margin = cosines[i * classes + label]! - other;
    out[i * classes + label] = Math.exp(Math.min(0, margin + slack) / temperature);
  });
  return out;
}

export interface ReassignmentOptions {
  /** s: how sharply a class is told by cosine; the concentration of a von Mises-Fisher distribution. */
  readonly sharpness: number;
  /**
   * ε: share of labels that is expected to be wrong, spread evenly over the other classes; `estimated`: what the support
   * itself says, so that right labels are hardly doubted.
   */
  readonly mislabelled: number | 'estimated';
  readonly iterations: number;
}

/** An estimated ε begins here, and is drawn towards it as if a quarter as many rows as there are had said so. */
const PRIOR_RATE = 0.1;
const PRIOR_WEIGHT = 0.25;
/** Beyond it labels would say less than none. */
const MOST_WRONG = 0.5;

/**
 * Expectation maximisation over "is this label right": r[i, c] ∝ π(c | y_i) · exp(s · cos(x_i, p_c without i)), with
 * π = 1 − ε at the label and ε / (classes − 1) elsewhere, and p_c = Σ_i r[i, c] x_i (+ the label's name). A mislabelled
 * example does not only lose weight, it moves to the class where it belongs. Cosines leave the row itself out: otherwise
 * it would vote for itself. An estimated ε is after each round the mean of 1 − r[i, y_i], drawn towards a prior: it is small
 * where labels and features agree, and with it goes the doubt. Mixture of von Mises-Fisher distributions: Banerjee et al. 2005, JMLR 6; the label noise
 * model: Lawrence and Schölkopf 2001. Rows of classes of one or two rows keep their labels.
 *
 * @param data features of unit length
 * @param names [classes, hidden] of unit length: a vector of each class that is never doubted
 * @param nameWeight examples that a name counts for
 */
export function reassignment(
  data: LabelledFeatures,
  { sharpness, mislabelled, iterations }: ReassignmentOptions,
  names?: Float32Array,
  nameWeight = 1,
): Responsibilities {
  const { classes, labels } = data;
  const out = labelResponsibilities(data);
  if (classes < 2 || mislabelled === 0) return out;
  const sizes = classSizes(data);
  const scores = new Float64Array(classes);
  let rate = mislabelled === 'estimated' ? PRIOR_RATE : mislabelled;
  for (let step = 0; step < iterations; step++) {
    const believed = Math.log(1 - rate);
    const doubted = Math.log(rate / (classes - 1));
    let [wrong, asked] = [0, 0];
    const cosines = cosinesWithoutOneself(data, out, names, nameWeight);
    labels.forEach((label, i) => {
      if (sizes[label]! < QUORUM) return;
      let largest = Number.NEGATIVE_INFINITY;
      for (let c = 0; c < classes; c++) {
        scores[c] = (c === label ? believed : doubted) + sharpness * cosines[i * classes + c]!;
        largest = Math.max(largest, scores[c]!);
      }
      let total = 0;
      for (let c = 0; c < classes; c++) total += Math.exp(scores[c]! - largest);
      for (let c = 0; c < classes; c++) out[i * classes + c] = Math.exp(scores[c]! - largest) / total;
      wrong += 1 - out[i * classes + label]!;
      asked++;
    });
    if (mislabelled !== 'estimated' || asked === 0) continue;
    rate = Math.min(MOST_WRONG, (PRIOR_WEIGHT * PRIOR_RATE + wrong / asked) / (PRIOR_WEIGHT + 1));
  }
  return out;
}

function classSizes({ classes, labels }: LabelledFeatures): Int32Array {
  const sizes = new Int32Array(classes);
  for (const label of labels) sizes[label]!++;
  return sizes;
}

/** Σ_i r[i, c] x_i + nameWeight · name_c, [classes, hidden]. */
export function classSums(
  { hidden, classes, features, labels }: LabelledFeatures,
  responsibilities: Responsibilities,
  names: Float32Array | undefined,
  nameWeight: number,
): Float64Array {
  const sums = new Float64Array(classes * hidden);
  if (names !== undefined) for (let k = 0; k < sums.length; k++) sums[k] = nameWeight * names[k]!;
  for (let i = 0; i < labels.length; i++) {
    for (let c = 0; c < classes; c++) {
      const share = responsibilities[i * classes + c]!;
      if (share < 1e-6) continue; // of no weight in float32
      for (let j = 0; j < hidden; j++) sums[c * hidden + j]! += share * features[i * hidden + j]!;
    }
  }
  return sums;
}

/**
 * cos(x_i, S_c − r[i, c] x_i) for every row and class [rows, classes], S_c the class sums. Rows of unit length, so
 * x·(S − r x) = x·S − r and ‖S − r x‖² = ‖S‖² − 2 r x·S + r²: no vector is built anew.
 */
export function cosinesWithoutOneself(
  data: LabelledFeatures,
  responsibilities: Responsibilities,
  names: Float32Array | undefined,
  nameWeight: number,
): Float32Array {
  const { hidden, classes, features, labels } = data;
  const sums = Float32Array.from(classSums(data, responsibilities, names, nameWeight));
  const squares = new Float64Array(classes);
  for (let k = 0; k < sums.length; k++) squares[Math.floor(k / hidden)]! += sums[k]! ** 2;
  const out = new Float32Array(labels.length * classes);
  affineRows(features, sums, new Float32Array(classes), hidden, out);
  for (let k = 0; k < out.length; k++) {
    const share = responsibilities[k]!;
    const product = out[k]!;
    const left = squares[k % classes]! - 2 * share * product + share ** 2;
    out[k] = left > 1e-6 ? (product - share) / Math.sqrt(left) : 0; // nothing is left of a class of this row alone
  }
  return out;
}

/** Rows less `centre`, of unit length: what the cosines above want. */
export function centredRows(features: Float32Array, centre: Float32Array): Float32Array {
  const { length: hidden } = centre;
  return unitRows(
    features.map((value, k) => value - centre[k % hidden]!),
    hidden,
  );
}

/** Mean of all rows [hidden]. */
export function supportMean({ hidden, features, labels }: LabelledFeatures): Float32Array {
  return classMeans({ hidden, classes: 1, features, labels: new Int32Array(labels.length) }, false);
}
