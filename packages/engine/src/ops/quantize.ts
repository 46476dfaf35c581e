import type { Tensor } from '../tensor.js';
import { clip } from './activations.js';
import { add, div, mul, sub } from './arithmetic.js';
import { cast, maximum } from './compare.js';
import { stopGradient } from './control.js';
import { abs, round } from './elementwise.js';
import { max } from './reduce.js';

/**
 * Whole numbers times a scale: the value of a quantised weight. The weight is frozen; whatever is multiplied by it gets its
 * gradient as usual.
 *
 * @param values int8 or uint8
 * @param scale  float32, broadcasts against `values`
 */
export function dequantize(values: Tensor, scale: Tensor, zeroPoint?: Tensor): Tensor {
  const whole = cast(values, 'float32');
  return mul(zeroPoint ? sub(whole, cast(zeroPoint, 'float32')) : whole, scale);
}

/**
 * Rounds to `bits` as a quantised weight would be (symmetric, one scale for each row of the last axis), and lets the
 * gradient pass as if it had not: the straight-through estimator. Bengio et al. 2013, arXiv:1308.3432.
 */
export function fakeQuantize(x: Tensor, bits = 8): Tensor {
  const steps = 2 ** (bits - 1) - 1;
  const scale = maximum(div(max(abs(x), { axes: [-1], keepDims: true }), steps), 1e-12);
  const rounded = mul(clip(round(div(x, scale)), -steps, steps), scale);
  return add(x, stopGradient(sub(rounded, x)));
}
