import { classMeans, type LabelledFeatures } from './class-means.js';
import { choleskySolveRows, hasSpread, shrunkCholesky, withinClassCovariance } from './covariance.js';

/** Rows [n, hidden] → rows times the inverse of a symmetric matrix. */
export type RowSolver = (rows: Float32Array) => Float64Array;

/**
 * Solver of Σ z = x for the shrunk covariance within classes, Σ = (1 − λ) S + λ (trace S / hidden) I, S as
 * {@link withinClassCovariance}. With fewer rows than dimensions S = Dᵀ D has low rank and the work is done on rows × rows
 * (Woodbury): Σ⁻¹ = (I − Dᵀ (c I + D Dᵀ)⁻¹ D) / ridge, ridge = λ trace S / hidden, c = ridge / (1 − λ). Without any spread
 * (a single row in every class) it is the identity.
 *
 * @param shrinkage λ, 0 to 1; near 0 it needs more rows than dimensions
 */
export function spreadSolver(data: LabelledFeatures, shrinkage: number): RowSolver {
  const { hidden, classes, features, labels } = data;
  const rows = labels.length;
  const freedom = Math.max(1, rows - new Set(labels).size);
  if (rows >= hidden) {
    const covariance = withinClassCovariance(data);
    if (!hasSpread(covariance, hidden)) return (x) => Float64Array.from(x);
    const lower = shrunkCholesky(covariance, hidden, shrinkage);
    return (x) => choleskySolveRows(lower, x, hidden);
  }
  const means = classMeans({ hidden, classes, features, labels }, false);
  const residuals = new Float64Array(rows * hidden); // D, scaled so that Dᵀ D = S
  let trace = 0;
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < hidden; j++) {
      const value = (features[i * hidden + j]! - means[labels[i]! * hidden + j]!) / Math.sqrt(freedom);
      residuals[i * hidden + j] = value;
      trace += value ** 2;
    }
  }
  if (trace < 1e-12) return (x) => Float64Array.from(x);
  const ridge = (shrinkage * trace) / hidden + 1e-9; // as in shrunkCholesky: λ = 0 is not refused
  if (shrinkage === 1) return (x) => Float64Array.from(x, (value) => value / ridge);
  const gram = gramRows(residuals, hidden);
  for (let i = 0; i < rows; i++) gram[i * rows + i]! += ridge / (1 - shrinkage);
  const lower = shrunkCholesky(gram, rows, 0);
  return (x) => {
    const projected = productRows(x, residuals, hidden); // x Dᵀ [n, rows]
    const solved = choleskySolveRows(lower, projected, rows);
    const out = Float64Array.from(x);
    for (let i = 0; i < out.length / hidden; i++) {
      for (let k = 0; k < rows; k++) {
        const share = solved[i * rows + k]!;
        for (let j = 0; j < hidden; j++) out[i * hidden + j]! -= share * residuals[k * hidden + j]!;
      }
    }
    for (let k = 0; k < out.length; k++) out[k]! /= ridge;
    return out;
  };
}

type Rows = Float32Array | Float64Array;

/** a bᵀ for rows of `inner` numbers, [rows of a, rows of b]. */
export function productRows(a: Rows, b: Rows, inner: number): Float64Array {
  const n = a.length / inner;
  const m = b.length / inner;
  const out = new Float64Array(n * m);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < m; k++) {
      let even = 0;
      let odd = 0;
      let j = 0;
      for (; j + 1 < inner; j += 2) {
        even += a[i * inner + j]! * b[k * inner + j]!;
        odd += a[i * inner + j + 1]! * b[k * inner + j + 1]!;
      }
      if (j < inner) even += a[i * inner + j]! * b[k * inner + j]!;
      out[i * m + k] = even + odd;
    }
  }
  return out;
}

/** a aᵀ, symmetric. */
export function gramRows(a: Rows, inner: number): Float64Array {
  const n = a.length / inner;
  const out = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k <= i; k++) {
      let sum = 0;
      for (let j = 0; j < inner; j++) sum += a[i * inner + j]! * a[k * inner + j]!;
      out[i * n + k] = sum;
      out[k * n + i] = sum;
    }
  }
  return out;
}

/** [rows, columns] as [columns, rows]. */
export function transposed(x: Float64Array, columns: number): Float64Array {
  const rows = x.length / columns;
  return Float64Array.from({ length: x.length }, (_, k) => x[(k % rows) * columns + Math.floor(k / rows)]!);
}
