import type { Dim } from '../dims.js';
import { product } from '../dims.js';
import { EngineError } from '../errors.js';
import { hostTensor } from '../host-tensor.js';
import type { Tensor } from '../tensor.js';
import { constant } from '../tensor.js';
import { add, div, mul } from './arithmetic.js';
import { bitwiseXor, cast, less, minimum, where } from './compare.js';
import { arange } from './indexing.js';
import { reshape } from './shape.js';

const big = (value: bigint): Tensor =>
  constant({ dtype: 'int64', shape: [], data: BigInt64Array.of(BigInt.asIntN(64, value)) });
const whole = (value: number): Tensor => constant(hostTensor('int32', [], [value | 0]));

/** Two well-mixed words of a seed, by splitmix64 (Steele et al. 2014, OOPSLA, fig. 17): int32 scalars. */
function keysOf(seed: Tensor): [Tensor, Tensor] {
  const mix = (z: Tensor, shift: bigint, factor: bigint) => mul(bitwiseXor(z, div(z, big(1n << shift))), big(factor));
  let z = mul(add(seed, 1), big(0x9e3779b97f4a7c15n));
  z = mix(z, 30n, 0xbf58476d1ce4e5b9n);
  z = mix(z, 27n, 0x94d049bb133111ebn);
  // Below 2³¹ either way, so that the conversion is exact.
  return [cast(div(z, big(1n << 33n)), 'int32'), cast(div(mul(z, big(1n << 31n)), big(1n << 33n)), 'int32')];
}

/**
 * Uniform numbers in [0, 1) from a counter and a seed: the same seed gives the same numbers on every runtime, and
 * nothing is carried from step to step. The mixing is that of Widynski's counter-based "Squares" (2020,
 * arXiv:2004.06278) in 32 bits: square, add a key, change the halves' places. It needs nothing but what GPUs compute in
 * int32, with a division for the shift.
 *
 * @param seed int64 scalar; give each step, and each place of use, a seed of its own
 */
export function randomUniform(shape: readonly Dim[], seed: Tensor | number): Tensor {
  const [first, second] = keysOf(typeof seed === 'number' ? constant(hostTensor('int64', [], [seed])) : seed);
  const half = whole(1 << 16);
  const squareAdd = (z: Tensor, key: Tensor) => add(mul(z, z), key);
  const swapHalves = (z: Tensor) => add(div(z, half), mul(z, half));
  let z = add(mul(arange(product(shape), 'int32'), whole(0x9e3779b1)), first);
  z = swapHalves(squareAdd(z, second));
  z = swapHalves(squareAdd(z, first));
  z = squareAdd(z, second);
  // Signed, moved to 0..1; the largest would round to 1.
  const unit = add(mul(cast(z, 'float32'), 2 ** -32), 0.5);
  return reshape(minimum(unit, 1 - 2 ** -24), shape);
}

/**
 * Dropout: zeroes elements with probability `rate` and scales the rest by 1 / (1 − rate).
 * Srivastava et al. 2014, JMLR 15.
 */
export function dropout(x: Tensor, rate: number, seed: Tensor | number): Tensor {
  if (!(rate >= 0 && rate < 1)) throw new EngineError('ARGUMENT_INVALID', `dropout: rate ${rate} is not in 0..1`);
  if (rate === 0) return x;
  const dropped = less(randomUniform(x.shape, seed), rate);
  return mul(x, cast(where(dropped, 0, 1 / (1 - rate)), x.dtype));
}
