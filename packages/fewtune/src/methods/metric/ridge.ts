import { FewtuneError } from '../../errors.js';
import { fitTemperature } from '../../evaluation/calibration.js';
import type { LinearHead } from '../linear/logistic.js';
import type { LabelledFeatures } from './class-means.js';
import { choleskySolveRows, shrunkCholesky } from './covariance.js';
import { gramRows, productRows, transposed } from './spread-solver.js';

export interface RidgeFit {
  readonly head: LinearHead;
  readonly penalty: number;
  /** Scores of each row under the head fitted without it [rows, classes]. */
  readonly leaveOneOut: Float64Array;
  /** Mean square of what leave-one-out scores are off the 0/1 targets. */
  readonly error: number;
  /** Under which softmax(score / temperature) of the left-out rows is most likely right; the α of R2-D2 is its inverse. */
  readonly temperature: number;
}

/** Penalties that leave-one-out chooses from; rows have unit length. */
export const ridgePenalties: readonly number[] = [0.03, 0.1, 0.3, 1, 3, 10];

/**
 * Ridge regression onto one-hot labels, in closed form: minimises Σ_i ‖x_i Wᵀ + b − y_i‖² + λ ‖W‖², b without penalty. R2-D2,
 * Bertinetto et al. 2019, section 4, arXiv:1805.08136 (there without b, and with λ and the scale of the scores
 * meta-learned; here leave-one-out chooses them). With fewer rows than dimensions the inverse is rows × rows.
 *
 * The scores of left-out rows cost no further fit: y_i − e_i / (1 − h_ii), with e the residuals and H the hat matrix
 * (Allen 1974; scikit-learn's `RidgeCV`).
 *
 * @param penalty λ above 0, or those to choose from by the least leave-one-out error
 * @throws FewtuneError OPTION_INVALID for a penalty that is not above 0
 */
export function ridgeHead(data: LabelledFeatures, penalty: number | readonly number[] = ridgePenalties): RidgeFit {
  const penalties = typeof penalty === 'number' ? [penalty] : penalty;
  const wrong = penalties.find((value) => !(value > 0 && value < Number.POSITIVE_INFINITY));
  if (penalties.length === 0 || wrong !== undefined) {
    throw new FewtuneError('OPTION_INVALID', `a ridge penalty is above 0, not ${wrong}`);
  }
  const { hidden, classes, features, labels } = data;
  const rows = labels.length;
  const centre = columnMeans(features, hidden);
  const x = Float64Array.from(features, (value, k) => value - centre[k % hidden]!);
  const share = new Float64Array(classes);
  for (const label of labels) share[label]! += 1 / rows;
  // Classes stand as rows, because systems are solved row by row: targets [classes, rows].
  const targets = new Float64Array(classes * rows);
  for (let c = 0; c < classes; c++) {
    for (let i = 0; i < rows; i++) targets[c * rows + i] = (labels[i] === c ? 1 : 0) - share[c]!;
  }
  const solve = rows < hidden ? dualSolver(x, targets, hidden, rows) : primalSolver(x, targets, hidden, rows);
  let best: RidgeFit | undefined;
  for (const value of penalties) {
    const { weight, hat } = solve(value);
    const fitted = productRows(x, weight, hidden); // [rows, classes]
    const leaveOneOut = new Float64Array(rows * classes);
    let error = 0;
    for (let i = 0; i < rows; i++) {
      const free = Math.max(1e-9, 1 - 1 / rows - hat[i]!); // 1 / rows: the intercept
      for (let c = 0; c < classes; c++) {
        const off = (targets[c * rows + i]! - fitted[i * classes + c]!) / free;
        leaveOneOut[i * classes + c] = (labels[i] === c ? 1 : 0) - off;
        error += off ** 2 / (rows * classes);
      }
    }
    if (best !== undefined && error >= best.error) continue;
    const bias = Float32Array.from(share, (own, c) => {
      let shift = 0;
      for (let j = 0; j < hidden; j++) shift += weight[c * hidden + j]! * centre[j]!;
      return own - shift;
    });
    const temperature = fitTemperature(leaveOneOut, labels, classes);
    best = { head: { weight: Float32Array.from(weight), bias }, penalty: value, leaveOneOut, error, temperature };
  }
  return best!;
}

interface Solved {
  /** [classes, hidden] */
  readonly weight: Float64Array;
  /** Diagonal of the hat matrix of centred rows [rows]. */
  readonly hat: Float64Array;
}

type PenaltySolver = (penalty: number) => Solved;

/** W = Yᵀ (K + λ I)⁻¹ X, K = X Xᵀ; H = I − λ (K + λ I)⁻¹. */
function dualSolver(x: Float64Array, targets: Float64Array, hidden: number, rows: number): PenaltySolver {
  const gram = gramRows(x, hidden);
  return (penalty) => {
    const lower = shrunkCholesky(withDiagonal(gram, rows, penalty), rows, 0);
    const dual = choleskySolveRows(lower, targets, rows); // [classes, rows]
    const weight = productRows(dual, transposed(x, hidden), rows);
    const inverse = choleskySolveRows(lower, identity(rows), rows);
    return { weight, hat: Float64Array.from({ length: rows }, (_, i) => 1 - penalty * inverse[i * rows + i]!) };
  };
}

/** W = Yᵀ X (Xᵀ X + λ I)⁻¹; h_ii = x_iᵀ (Xᵀ X + λ I)⁻¹ x_i. */
function primalSolver(x: Float64Array, targets: Float64Array, hidden: number, rows: number): PenaltySolver {
  const columns = transposed(x, hidden); // [hidden, rows]
  const scatter = gramRows(columns, rows);
  const moments = productRows(targets, columns, rows); // [classes, hidden]
  return (penalty) => {
    const lower = shrunkCholesky(withDiagonal(scatter, hidden, penalty), hidden, 0);
    const solved = choleskySolveRows(lower, x, hidden);
    const hat = new Float64Array(rows);
    for (let k = 0; k < x.length; k++) hat[Math.floor(k / hidden)]! += x[k]! * solved[k]!;
    return { weight: choleskySolveRows(lower, moments, hidden), hat };
  };
}

function withDiagonal(matrix: Float64Array, size: number, value: number): Float64Array {
  const out = Float64Array.from(matrix);
  for (let i = 0; i < size; i++) out[i * size + i]! += value;
  return out;
}

function identity(size: number): Float64Array {
  return withDiagonal(new Float64Array(size * size), size, 1);
}

function columnMeans(features: Float32Array, hidden: number): Float64Array {
  const out = new Float64Array(hidden);
  for (let k = 0; k < features.length; k++) out[k % hidden]! += features[k]!;
  return out.map((value) => (value * hidden) / features.length);
}
