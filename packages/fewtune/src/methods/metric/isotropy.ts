/** Regularisers that spread embeddings over their space. Zhang et al. 2022 (NAACL), section 4. */
import {
  add,
  arange,
  cast,
  div,
  equal,
  logSoftmax,
  matMul,
  mean,
  mul,
  neg,
  relu,
  reshape,
  sqrt,
  sub,
  sum,
  type Tensor,
} from '@fewtune/engine';
import { unitRows } from './unit-rows.js';

/**
 * CL-Reg: each row must find its own second view among those of all rows, −log softmax(⟨z_i, v_j⟩ / τ)_i, averaged. The
 * views differ in what was dropped. SimCSE: Gao et al. 2021, equation 1, arXiv:2104.08821.
 *
 * @param z     [rows, dim]
 * @param views [rows, dim], the same rows seen otherwise
 */
export function viewContrast(z: Tensor, views: Tensor, temperature: number): Tensor {
  const logits = matMul(unitRows(z), unitRows(views), { transposeB: true, alpha: 1 / temperature });
  const numbers = [arange(z.shape[0]!), arange(views.shape[0]!)] as const;
  const own = cast(equal(reshape(numbers[0], [-1, 1]), reshape(numbers[1], [1, -1])), 'float32'); // [rows, rows]
  return neg(mean(sum(mul(logSoftmax(logits), own), { axes: [1] })));
}

/**
 * Cor-Reg: ‖Σ − I‖, Frobenius norm, Σ the correlations of the embedding's dimensions over the rows: they should say
 * different things.
 *
 * @param z [rows, dim]
 */
export function correlationPenalty(z: Tensor): Tensor {
  const centred = sub(z, mean(z, { axes: [0], keepDims: true }));
  const deviation = sqrt(add(sum(mul(centred, centred), { axes: [0], keepDims: true }), 1e-8));
  const unit = div(centred, deviation); // columns of length 1: their products are correlations
  const correlations = matMul(unit, unit, { transposeA: true }); // [dim, dim]
  // ‖Σ − I‖² = Σ of squares off the diagonal, which is 1 where a dimension varies at all.
  const squares = sub(sum(mul(correlations, correlations)), sum(mul(unit, unit)));
  return sqrt(add(relu(squares), 1e-12));
}
