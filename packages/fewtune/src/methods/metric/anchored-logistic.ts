import { gramRows, productRows } from './spread-solver.js';

/** Rows that stand for classes in part: target[i, c] ≥ 0, whose sum is what row i counts for. */
export interface SoftRows {
  readonly hidden: number;
  readonly classes: number;
  /** [rows, hidden], of unit length. */
  readonly features: Float32Array;
  /** [rows, classes] */
  readonly targets: Float64Array;
}

/** Largest gradient entry at which it stops, for rows that count once; far below what moves an answer. */
const TOLERANCE = 1e-3;
const MOST_STEPS = 300;

/**
 * Multinomial logistic regression that is drawn towards given weights instead of 0: minimises
 * Σ_i crossEntropy(target_i, W x_i) + ‖W − A‖² / (2C) (a Gaussian prior at A, as in Chelba and Acero 2004, EMNLP). W − A is a
 * combination of rows, so the work is done on rows × classes, by Nesterov's accelerated gradient for strongly convex
 * functions (Introductory Lectures, 2.2.11). No intercept, no randomness.
 *
 * @param anchor A, [classes, hidden]
 * @param strength C, above 0; 0 in the limit gives A back
 * @returns W, [classes, hidden]
 */
export function anchoredLogistic(rows: SoftRows, anchor: Float32Array, strength: number): Float32Array {
  const { hidden, classes, features, targets } = rows;
  const count = features.length / hidden;
  const gram = gramRows(Float64Array.from(features), hidden);
  const given = productRows(features, anchor, hidden);
  const weights = Float64Array.from({ length: count }, (_, i) =>
    targets.subarray(i * classes, (i + 1) * classes).reduce((sum, value) => sum + value, 0),
  );
  // The second derivative of a softmax is at most a half.
  const curvature = 0.5 * Math.max(...weights) * largestEigenvalue(gram, count) + 1 / strength;
  const root = Math.sqrt(1 / (strength * curvature));
  const momentum = (1 - root) / (1 + root);
  let shares = new Float64Array(count * classes); // W = A + sharesᵀ · features
  let before = shares;
  const gradient = new Float64Array(shares.length);
  for (let step = 0; step < MOST_STEPS; step++) {
    const [now, last] = [shares, before];
    const ahead = now.map((value, k) => value + momentum * (value - last[k]!));
    const logits = symmetricProduct(gram, ahead, count, classes);
    let largest = 0;
    for (let i = 0; i < count; i++) {
      const at = i * classes;
      let most = Number.NEGATIVE_INFINITY;
      for (let c = 0; c < classes; c++) {
        logits[at + c]! += given[at + c]!;
        most = Math.max(most, logits[at + c]!);
      }
      let total = 0;
      for (let c = 0; c < classes; c++) {
        logits[at + c] = Math.exp(logits[at + c]! - most);
        total += logits[at + c]!;
      }
      for (let c = 0; c < classes; c++) {
        const residual = (weights[i]! * logits[at + c]!) / total - targets[at + c]!;
        gradient[at + c] = residual + ahead[at + c]! / strength;
        largest = Math.max(largest, Math.abs(gradient[at + c]!));
      }
    }
    before = shares;
    shares = ahead.map((value, k) => value - gradient[k]! / curvature);
    if (largest <= TOLERANCE) break;
  }
  const out = Float64Array.from(anchor);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < classes; c++) {
      const share = shares[i * classes + c]!;
      for (let j = 0; j < hidden; j++) out[c * hidden + j]! += share * features[i * hidden + j]!;
    }
  }
  return Float32Array.from(out);
}

/** G x of a symmetric matrix [n, n] and [n, columns]. */
function symmetricProduct(matrix: Float64Array, x: Float64Array, n: number, columns: number): Float64Array {
  const out = new Float64Array(x.length);
  for (let i = 0; i < n; i++) {
    const to = i * columns;
    let k = 0;
    // Four rows at a time: each sum is read and written once for them.
    for (; k + 4 <= n; k += 4) {
      const [p, q, r, t] = [k * columns, (k + 1) * columns, (k + 2) * columns, (k + 3) * columns];
      const at = i * n + k;
      const [v, w, y, z] = [matrix[at]!, matrix[at + 1]!, matrix[at + 2]!, matrix[at + 3]!];
      for (let c = 0; c < columns; c++) out[to + c]! += v * x[p + c]! + w * x[q + c]! + y * x[r + c]! + z * x[t + c]!;
    }
    for (; k < n; k++) {
      const value = matrix[i * n + k]!;
      for (let c = 0; c < columns; c++) out[to + c]! += value * x[k * columns + c]!;
    }
  }
  return out;
}

/** Of a matrix without negative eigenvalues, from above: the power method, and a tenth for what it has not reached yet. */
function largestEigenvalue(matrix: Float64Array, n: number): number {
  let vector = new Float64Array(n).fill(1 / Math.sqrt(n)).map((value, i) => value * (1 + 0.1 * Math.sin(i)));
  let length = 0;
  for (let step = 0; step < 30; step++) {
    const next = symmetricProduct(matrix, vector, n, 1);
    length = Math.hypot(...next);
    if (length === 0) return 0;
    vector = next.map((value) => value / length);
  }
  return 1.1 * length;
}
