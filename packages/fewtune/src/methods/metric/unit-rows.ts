import { greater, mul, reciprocal, sqrt, sum, type Tensor, where } from '@fewtune/engine';

/** Below this length a row counts as zero: its square still is a float32 number. */
const least = 1e-15;

/**
 * Rows scaled to length 1 over the last axis. A row of zeros, as a ReLU may leave one, stays zero and passes no gradient
 * on; x / max(‖x‖, ε) would pass it on 1/ε times larger.
 */
export function unitRows(x: Tensor): Tensor {
  const squares = sum(mul(x, x), { axes: [-1], keepDims: true });
  const long = greater(squares, least * least);
  return mul(x, where(long, reciprocal(sqrt(where(long, squares, 1))), 0));
}
