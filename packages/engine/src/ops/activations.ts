import type { Tensor } from '../tensor.js';
import { add, div, mul, neg, sub } from './arithmetic.js';
import { greater, maximum, minimum, where } from './compare.js';
import { abs, exp, log, relu, sigmoid, tanh } from './elementwise.js';

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

/** clip(alpha x + beta, 0, 1), with ONNX's defaults; PyTorch's alpha is 1/6. */
export const hardSigmoid = (x: Tensor, alpha = 0.2, beta = 0.5): Tensor => clip(add(mul(x, alpha), beta), 0, 1);

/** Elements held between 0 and 6. */
export const relu6 = (x: Tensor): Tensor => clip(x, 0, 6);

/** Elements held between −1 and 1, or other bounds. */
export const hardTanh = (x: Tensor, low = -1, high = 1): Tensor => clip(x, low, high);

/** x / (1 + |x|). */
export const softsign = (x: Tensor): Tensor => div(x, add(abs(x), 1));

/** Scaled exponential linear unit. Klambauer et al. 2017, arXiv:1706.02515. */
export const selu = (x: Tensor): Tensor => mul(elu(x, 1.6732632423543772), 1.0507009873554805);

/** x where positive, else alpha (exp(x / alpha) − 1). Barron 2017, arXiv:1704.07483. */
export const celu = (x: Tensor, alpha = 1): Tensor =>
  where(greater(x, 0), x, mul(sub(exp(mul(minimum(x, 0), 1 / alpha)), 1), alpha));

/** x tanh(softplus(x)). Misra 2019, arXiv:1908.08681. */
export const mish = (x: Tensor): Tensor => mul(x, tanh(softplus(x)));

/**
 * x where positive, else slope · x, the slope being learned. He et al. 2015, arXiv:1502.01852.
 *
 * @param slope broadcasts against x; for one a channel of [batch, channels, ...sizes] give it [channels, 1, …]
 */
export const prelu = (x: Tensor, slope: Tensor): Tensor => where(greater(x, 0), x, mul(x, slope));

/** x where above alpha, else 0. */
export const thresholdedRelu = (x: Tensor, alpha = 1): Tensor => where(greater(x, alpha), x, 0);

/** −softplus(−x), the logarithm of the sigmoid. */
export const logSigmoid = (x: Tensor): Tensor => neg(softplus(neg(x)));

/** Elements held between two bounds; the gradient passes inside them. */
export const clip = (x: Tensor, low: number, high: number): Tensor => minimum(maximum(x, low), high);
