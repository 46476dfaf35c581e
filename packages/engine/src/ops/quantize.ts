import { sameShape } from '../dims.js';
import type { Op, Tensor } from '../tensor.js';
import { apply } from '../tensor.js';
import { clip } from './activations.js';
import { add, div, mul, sub, sumTo } from './arithmetic.js';
import { cast, maximum } from './compare.js';
import { stopGradient } from './control.js';
import { abs, round } from './elementwise.js';
import { max } from './reduce.js';
import { reshape } from './shape.js';

/** The value in plain operators: scale and zero point broadcast against the whole numbers. */
function written(values: Tensor, scale: Tensor, zeroPoint?: Tensor): Tensor {
  const whole = cast(values, scale.dtype);
  return mul(zeroPoint ? sub(whole, cast(zeroPoint, scale.dtype)) : whole, scale);
}

/** values, scale [] or [n], zero point likewise if any; `axis` is the one of n. */
const dequantizeOp: Op = {
  name: 'DequantizeLinear',
  shape: ([values, scale]) => ({ dtype: scale!.dtype, shape: values!.shape }),
  emit: (context, node, inputs) =>
    context.node(
      'DequantizeLinear',
      inputs,
      node.inputs[1]!.rank === 0 ? {} : { axis: node.attributes.axis as number },
    ),
  // y = scale (q − z)  =>  dscale = Σ dy (q − z); the whole numbers are frozen.
  vjp: ([values, scale, zeroPoint], dy, { outputs: [y], attributes }) => {
    const laid = (x: Tensor) => alongAxis(x, values!.rank, attributes.axis as number);
    const whole = cast(values!, dy.dtype);
    const moved = zeroPoint ? sub(whole, laid(cast(zeroPoint, dy.dtype))) : whole;
    const dScale = reshape(sumTo(mul(dy, moved), laid(scale!).shape, y!.shape), scale!.shape);
    return [undefined, dScale, undefined];
  },
  batch: (inputs, { node, batched }) => {
    const { rank } = node.inputs[0]!;
    // Scale and zero point with the axes of one example, behind the batch if they have one.
    const [values, scale, zeroPoint] = inputs.map((x, i) => {
      if (i === 0) return x;
      const own = alongAxis(node.inputs[i]!, rank, node.attributes.axis as number).shape;
      return reshape(x, batched[i] ? [x.shape[0]!, ...Array<number>(rank - own.length).fill(1), ...own] : own);
    });
    return written(values!, scale!, zeroPoint);
  },
};

/** [n] as [1, …, n, …, 1] with `rank` axes. */
function alongAxis(x: Tensor, rank: number, axis: number): Tensor {
  return x.rank === 0
    ? x
    : reshape(
        x,
        Array.from({ length: rank }, (_, i) => (i === axis ? x.shape[0]! : 1)),
      );
}

/**
 * Whole numbers times a scale: the value of a quantised weight, scale · (values − zeroPoint). The whole numbers are frozen;
 * the scale, and whatever is multiplied by the result, get their gradients. A scale for all or along one axis stays an
 * operator of its own, so that the weight is held in its quantised form; anything else is written out.
 *
 * @param values    int8 or uint8
 * @param scale     float, broadcasts against `values`
 * @param zeroPoint of the type of `values`, as `scale`; 0 when left out
 * @returns         the shape of `values`, the type of `scale`
 */
export function dequantize(values: Tensor, scale: Tensor, zeroPoint?: Tensor): Tensor {
  const long = scale.shape.flatMap((dim, axis) => (dim === 1 ? [] : [axis]));
  const alike = !zeroPoint || (sameShape(zeroPoint.shape, scale.shape) && zeroPoint.dtype === values.dtype);
  const whole = values.dtype === 'int8' || values.dtype === 'uint8';
  const axis = long.length === 1 ? long[0]! + values.rank - scale.rank : 0;
  const fits = long.length === 0 || (long.length === 1 && scale.shape[long[0]!] === values.shape[axis]);
  if (!alike || !whole || !fits || scale.dtype !== 'float32' || scale.rank > values.rank) {
    return written(values, scale, zeroPoint);
  }
  const flat = (x: Tensor) => reshape(x, long.length === 0 ? [] : [scale.shape[long[0]!]!]);
  const inputs = [values, flat(scale), ...(zeroPoint ? [flat(zeroPoint)] : [])];
  return apply(dequantizeOp, inputs, { axis });
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
