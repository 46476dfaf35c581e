import { classMeans, type LabelledFeatures } from './class-means.js';

/**
 * Pooled covariance within classes [hidden, hidden], symmetric: Σ_i (x_i − m_y)(x_i − m_y)ᵀ / (rows − classes present).
 */
export function withinClassCovariance(data: LabelledFeatures): Float64Array {
  const { hidden, features, labels } = data;
  const means = classMeans(data, false);
  const covariance = new Float64Array(hidden * hidden);
  const residuals = new Float64Array(4 * hidden);
  for (let i = 0; i < labels.length; i += 4) {
    residuals.fill(0);
    for (let r = 0; r < Math.min(4, labels.length - i); r++) {
      const row = (i + r) * hidden;
      const mean = labels[i + r]! * hidden;
      for (let j = 0; j < hidden; j++) residuals[r * hidden + j] = features[row + j]! - means[mean + j]!;
    }
    for (let a = 0; a < hidden; a++) {
      const r0 = residuals[a]!;
      const r1 = residuals[hidden + a]!;
      const r2 = residuals[2 * hidden + a]!;
      const r3 = residuals[3 * hidden + a]!;
      const at = a * hidden;
      for (let b = a; b < hidden; b++) {
        covariance[at + b]! +=
          r0 * residuals[b]! +
          r1 * residuals[hidden + b]! +
          (r2 * residuals[2 * hidden + b]! + r3 * residuals[3 * hidden + b]!);
      }
    }
  }
  const freedom = Math.max(1, labels.length - new Set(labels).size);
  for (let a = 0; a < hidden; a++) {
    for (let b = a; b < hidden; b++) {
      const value = covariance[a * hidden + b]! / freedom;
      covariance[a * hidden + b] = value;
      covariance[b * hidden + a] = value;
    }
  }
  return covariance;
}

/** Lower triangle L with L Lᵀ = (1 − shrinkage) · S + shrinkage · (trace S / hidden) · I. */
export function shrunkCholesky(covariance: Float64Array, hidden: number, shrinkage: number): Float64Array {
  let trace = 0;
  for (let j = 0; j < hidden; j++) trace += covariance[j * hidden + j]!;
  // Identical examples have no spread at all: a tiny ridge keeps the matrix invertible.
  const ridge = shrinkage * (trace / hidden) + 1e-9;
  const lower = new Float64Array(hidden * hidden);
  for (let i = 0; i < hidden; i++) {
    const row = i * hidden;
    for (let j = 0; j <= i; j++) {
      const other = j * hidden;
      let s0 = 0;
      let s1 = 0;
      let k = 0;
      for (; k + 1 < j; k += 2) {
        s0 += lower[row + k]! * lower[other + k]!;
        s1 += lower[row + k + 1]! * lower[other + k + 1]!;
      }
      if (k < j) s0 += lower[row + k]! * lower[other + k]!;
      const value = (1 - shrinkage) * covariance[row + j]! + (i === j ? ridge : 0) - s0 - s1;
      lower[row + j] = i === j ? Math.sqrt(Math.max(value, 1e-12)) : value / lower[other + j]!;
    }
  }
  return lower;
}

/** Solves (L Lᵀ) x = b for each row b of [rows, hidden]. */
export function choleskySolveRows(
  lower: Float64Array,
  rows: Float32Array | Float64Array,
  hidden: number,
): Float64Array {
  const out = new Float64Array(rows);
  for (let start = 0; start < out.length; start += hidden) {
    const row = out.subarray(start, start + hidden);
    solveLower(lower, row);
    solveUpper(lower, row);
  }
  return out;
}

/** b ← L⁻¹ b, L lower triangular [n, n]. */
export function solveLower(lower: Float64Array, b: Float64Array): void {
  const n = b.length;
  for (let i = 0; i < n; i++) {
    let sum = b[i]!;
    for (let k = 0; k < i; k++) sum -= lower[i * n + k]! * b[k]!;
    b[i] = sum / lower[i * n + i]!;
  }
}

/** b ← L⁻ᵀ b, by columns of Lᵀ, which are rows of L: memory is walked in order. */
export function solveUpper(lower: Float64Array, b: Float64Array): void {
  const n = b.length;
  for (let i = n - 1; i >= 0; i--) {
    const value = b[i]! / lower[i * n + i]!;
    b[i] = value;
    for (let k = 0; k < i; k++) b[k]! -= lower[i * n + k]! * value;
  }
}

/** Whether rows spread about their class means at all: a single row in every class does not. */
export function hasSpread(covariance: Float64Array, hidden: number): boolean {
  let trace = 0;
  for (let j = 0; j < hidden; j++) trace += covariance[j * hidden + j]!;
  return trace >= 1e-12;
}
