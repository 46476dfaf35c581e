import { FewtuneError } from '../errors.js';

/** Rows and the class of each, 0 to classes − 1. */
export interface LabelledRows {
  readonly hidden: number;
  readonly classes: number;
  /** [rows, hidden] */
  readonly features: Float32Array;
  readonly labels: Int32Array;
}

/** How tightly classes lie together and how far apart, on rows of unit length. */
export interface ClassDistances {
  /** Mean over rows of ‖x − mean of its class‖. */
  readonly intra: number;
  /** Mean over pairs of classes of ‖mean − mean'‖. */
  readonly inter: number;
  /** inter / intra; Infinity when every row sits on its class mean. */
  readonly ratio: number;
  /** Mean silhouette (Rousseeuw 1987), −1 to 1, higher is better; 0 for a class of one row, as in scikit-learn. */
  readonly silhouette: number;
  /** Davies and Bouldin 1979, lower is better. */
  readonly daviesBouldin: number;
}

/** Rows [n, hidden] scaled to unit length; a row of zeros stays. */
export function unitRows(features: Float32Array, hidden: number): Float32Array {
  const out = new Float32Array(features.length);
  for (let start = 0; start < features.length; start += hidden) {
    let squares = 0;
    for (let j = start; j < start + hidden; j++) squares += features[j]! ** 2;
    const scale = squares > 0 ? 1 / Math.sqrt(squares) : 0;
    for (let j = start; j < start + hidden; j++) out[j] = features[j]! * scale;
  }
  return out;
}

/**
 * Distances between and within classes. Rows are L2-normalised first: otherwise the scale of an encoder would pass for
 * separation. Classes without rows are left out. The silhouette takes every pair of rows: n² · hidden operations.
 *
 * @throws FewtuneError OPTION_INVALID with fewer than two classes that have rows, or when shapes disagree
 */
export function classDistances(data: LabelledRows): ClassDistances {
  const { hidden, labels, classes } = data;
  if (data.features.length !== labels.length * hidden) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `distances: ${data.features.length} numbers are not ${labels.length} rows of ${hidden}`,
    );
  }
  const counts = new Float64Array(classes);
  for (const label of labels) counts[label]!++;
  const present = [...counts.keys()].filter((c) => counts[c]! > 0);
  if (present.length < 2) {
    throw new FewtuneError('OPTION_INVALID', `distances need rows of two classes; there are rows of ${present.length}`);
  }
  const features = unitRows(data.features, hidden);
  const means = new Float64Array(classes * hidden);
  labels.forEach((label, i) => {
    for (let j = 0; j < hidden; j++) means[label * hidden + j]! += features[i * hidden + j]! / counts[label]!;
  });

  const spread = new Float64Array(classes); // mean distance of a class's rows to its mean
  let total = 0;
  labels.forEach((label, i) => {
    const d = distance(features, i, means, label, hidden);
    total += d;
    spread[label]! += d / counts[label]!;
  });
  const intra = total / labels.length;

  let between = 0;
  let daviesBouldin = 0;
  for (const c of present) {
    let worst = 0;
    for (const k of present) {
      if (k === c) continue;
      const d = distance(means, c, means, k, hidden);
      between += d;
      worst = Math.max(worst, (spread[c]! + spread[k]!) / d);
    }
    daviesBouldin += worst / present.length;
  }
  const inter = between / (present.length * (present.length - 1));
  return { intra, inter, ratio: inter / intra, silhouette: silhouette(features, data, counts, present), daviesBouldin };
}

/** Mean over rows of (b − a) / max(a, b): a to the own class, b to the nearest other one. */
function silhouette(
  features: Float32Array,
  { hidden, classes, labels }: LabelledRows,
  counts: Float64Array,
  present: readonly number[],
): number {
  const sums = new Float64Array(labels.length * classes); // distance of each row to all rows of each class
  for (let i = 0; i < labels.length; i++) {
    for (let k = 0; k < i; k++) {
      const d = distance(features, i, features, k, hidden);
      sums[i * classes + labels[k]!]! += d;
      sums[k * classes + labels[i]!]! += d;
    }
  }
  let total = 0;
  labels.forEach((label, i) => {
    if (counts[label] === 1) return;
    const own = sums[i * classes + label]! / (counts[label]! - 1);
    const other = Math.min(...present.flatMap((c) => (c === label ? [] : [sums[i * classes + c]! / counts[c]!])));
    const larger = Math.max(own, other);
    if (larger > 0) total += (other - own) / larger;
  });
  return total / labels.length;
}

type Rows = Float32Array | Float64Array;

function distance(a: Rows, row: number, b: Rows, other: number, hidden: number): number {
  let squares = 0;
  for (let j = 0; j < hidden; j++) squares += (a[row * hidden + j]! - b[other * hidden + j]!) ** 2;
  return Math.sqrt(squares);
}
