import type { Dim } from '../dims.js';
import { product } from '../dims.js';
import { EngineError } from '../errors.js';
import { hostTensor } from '../host-tensor.js';
import type { Tensor } from '../tensor.js';
import { constant } from '../tensor.js';
import { add, div, mul } from './arithmetic.js';
import { bitwiseXor, cast, less, where } from './compare.js';
import { arange } from './indexing.js';
import { reshape } from './shape.js';

const big = (value: bigint): Tensor =>
  constant({ dtype: 'int64', shape: [], data: BigInt64Array.of(BigInt.asIntN(64, value)) });

/**
 * Uniform numbers in [0, 1) from a counter and a seed: the same seed gives the same numbers on every runtime, and
 * nothing is carried from step to step. The mixing is splitmix64's (Steele et al. 2014, OOPSLA, "Fast splittable
 * pseudorandom number generators", fig. 17), its shifts written as divisions, which integers of every backend have.
 *
 * @param seed int64 scalar; give each step, and each place of use, a seed of its own
 */
export function randomUniform(shape: readonly Dim[], seed: Tensor | number): Tensor {
  const key = typeof seed === 'number' ? constant(hostTensor('int64', [], [seed])) : seed;
  const mix = (z: Tensor, shift: bigint, factor: bigint) => mul(bitwiseXor(z, div(z, big(1n << shift))), big(factor));
  const start = mul(add(key, 1), big(0x9e3779b97f4a7c15n));
  let z = add(mul(arange(product(shape)), big(0xd1342543de82ef95n)), start);
  z = mix(z, 30n, 0xbf58476d1ce4e5b9n);
  z = mix(z, 27n, 0x94d049bb133111ebn);
  // The upper 24 bits, signed, moved to 0..1: exactly what a float32 can hold.
  const top = cast(div(z, big(1n << 40n)), 'float32');
  return reshape(add(mul(top, 2 ** -24), 0.5), shape);
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
