import type { Tensor } from '../tensor.js';
import { add, div, mul, neg, sub } from './arithmetic.js';
import { greater, maximum, minimum, where } from './compare.js';
import { abs, exp, log, relu, sigmoid } from './elementwise.js';

/** x σ(x), also called Swish. Elfwing et al. 2018, arXiv:1702.03118. */
export const silu = (x: Tensor): Tensor =>
  // ONNX Runtime fuses x σ(x) into a kernel that float64 does not have, and then stops.
  x.dtype === 'float64' ? div(x, add(exp(neg(x)), 1)) : mul(x, sigmoid(x));

/** log(1 + exp(x)), without overflow. */
export const softplus = (x: Tensor): Tensor => add(relu(x), log(add(exp(neg(abs(x))), 1)));

/** x where positive, else slope · x. */
export const leakyRelu = (x: Tensor, slope = 0.01): Tensor => where(greater(x, 0), x, mul(x, slope));

/** x where positive, else alpha (exp(x) − 1). */
export const elu = (x: Tensor, alpha = 1): Tensor => where(greater(x, 0), x, mul(sub(exp(minimum(x, 0)), 1), alpha));

/** x · clip(x / 6 + 1/2, 0, 1). Howard et al. 2019, arXiv:1905.02244. */
export const hardSwish = (x: Tensor): Tensor => mul(x, clip(add(mul(x, 1 / 6), 0.5), 0, 1));

/** Elements held between two bounds; the gradient passes inside them. */
export const clip = (x: Tensor, low: number, high: number): Tensor => minimum(maximum(x, low), high);
