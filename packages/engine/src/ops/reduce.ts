import { product } from '../dims.js';
import { hostTensor } from '../host-tensor.js';
import type { Attributes, EmitContext, Node, Op, Tensor, TensorSpec } from '../tensor.js';
import { apply, inFloat32, scalar } from '../tensor.js';
import type { ReduceOptions } from './arithmetic.js';
import { add, div, dropAxes, mul, neg, reducedAxes, sizeOf, sub, sum } from './arithmetic.js';
import { shiftAxes } from './batching.js';
import { normalizeAxis } from './broadcast.js';
import { cast, equal, where } from './compare.js';
import { stopGradient } from './control.js';
import { abs, exp, log, sqrt } from './elementwise.js';
import { arange } from './indexing.js';
import { reshape, transpose } from './shape.js';

/** Mean over axes. */
export function mean(x: Tensor, options: ReduceOptions = {}): Tensor {
  const dims = reducedAxes('mean', x, options).map((axis) => x.shape[axis]!);
  const count = product(dims);
  const total = sum(x, options);
  return typeof count === 'number' ? mul(total, 1 / count) : div(total, sizeOf(dims, x.dtype));
}

function reducedShape([x]: readonly Tensor[], { axes }: Attributes): TensorSpec {
  const shape = x!.shape.map((dim, axis) => ((axes as number[]).includes(axis) ? 1 : dim));
  return { dtype: x!.dtype, shape };
}

function emitReduction(context: EmitContext, node: Node, [x]: readonly string[]): string[] {
  const axes = node.attributes.axes as number[];
  return context.node(node.op.name, [x!, context.constant(hostTensor('int64', [axes.length], axes))], { keepdims: 1 });
}

const maxOp: Op = {
  name: 'ReduceMax',
  acceptsBroadcastCotangent: true,
  shape: reducedShape,
  emit: emitReduction,
  // Equal maxima share the gradient, as PyTorch's amax does.
  vjp: ([x], dy, { outputs: [y], attributes }) => {
    const hit = cast(equal(x!, y!), x!.dtype);
    const hits = sum(hit, { axes: attributes.axes as number[], keepDims: true });
    return [mul(hit, div(dy, hits))];
  },
  batch: shiftAxes('axes'),
};

/** Largest element over axes. */
export function max(x: Tensor, options: ReduceOptions = {}): Tensor {
  const axes = reducedAxes('max', x, options);
  return dropAxes(apply(maxOp, [x], { axes }), axes, options.keepDims);
}

/** Smallest element over axes. */
export const min = (x: Tensor, options: ReduceOptions = {}): Tensor => neg(max(neg(x), options));

/** log Σ exp over axes, without overflow. */
export function logSumExp(x: Tensor, options: ReduceOptions = {}): Tensor {
  const axes = reducedAxes('logSumExp', x, options);
  const result = inFloat32(() => {
    const highest = stopGradient(max(x, { axes, keepDims: true }));
    return add(log(sum(exp(sub(x, highest)), { axes, keepDims: true })), highest);
  });
  return dropAxes(result, axes, options.keepDims);
}

const sumSquaresOp: Op = {
  name: 'ReduceSumSquare',
  acceptsBroadcastCotangent: true,
  shape: reducedShape,
  emit: emitReduction,
  vjp: ([x], dy) => [mul(mul(x!, 2), dy)],
  batch: shiftAxes('axes'),
};

/** Σ x² over axes, in one pass. */
export function sumSquares(x: Tensor, options: ReduceOptions = {}): Tensor {
  const axes = reducedAxes('sumSquares', x, options);
  return dropAxes(apply(sumSquaresOp, [x], { axes }), axes, options.keepDims);
}

/** √ Σ x² over axes; its gradient has no value where all elements are 0. */
export const l2Norm = (x: Tensor, options: ReduceOptions = {}): Tensor => sqrt(sumSquares(x, options));

/** Σ |x| over axes. */
export const l1Norm = (x: Tensor, options: ReduceOptions = {}): Tensor => sum(abs(x), options);

const prodOp: Op = {
  name: 'ReduceProd',
  acceptsBroadcastCotangent: true,
  /** x [..., n] -> [..., 1] */
  shape: reducedShape,
  emit: emitReduction,
  // dx_i = dy Π_{j ≠ i} x_j: one product for each element left out, so that zeros do no harm, in any order.
  vjp: ([x], dy) => {
    const n = x!.shape.at(-1)!;
    const own = equal(reshape(arange(n), [n, 1]), arange(n)); // [n, n]
    const others = where(own, scalar(1, x!.dtype), reshape(x!, [...x!.shape.slice(0, -1), 1, n])); // [..., n, n]
    return [mul(dy, reshape(prod(others, { axes: [-1] }), x!.shape))];
  },
  batch: shiftAxes('axes'),
};

/**
 * Product over axes. Its gradient is right where elements are 0, at the cost of n² products for n elements that are
 * multiplied.
 */
export function prod(x: Tensor, options: ReduceOptions = {}): Tensor {
  const axes = reducedAxes('prod', x, options);
  const kept = [...x.shape.keys()].filter((axis) => !axes.includes(axis));
  const dims = kept.map((axis) => x.shape[axis]!);
  const flat = reshape(transpose(x, [...kept, ...axes]), [...dims, product(axes.map((axis) => x.shape[axis]!))]);
  const result = apply(prodOp, [flat], { axes: [kept.length] });
  return reshape(result, options.keepDims ? x.shape.map((dim, axis) => (axes.includes(axis) ? 1 : dim)) : dims);
}

const argMaxOp: Op = {
  name: 'ArgMax',
  shape: ([x], { axis }) => ({ dtype: 'int64', shape: x!.shape.filter((_, i) => i !== axis) }),
  emit: (context, node, [x]) => context.node('ArgMax', [x!], { axis: node.attributes.axis as number, keepdims: 0 }),
  vjp: 'none',
  batch: shiftAxes('axis'),
};

/** Index (int64) of the first largest element along an axis, which is dropped. */
export function argMax(x: Tensor, axis = -1): Tensor {
  return apply(argMaxOp, [x], { axis: normalizeAxis('argMax', axis, x.rank) });
}

/** Index (int64) of the first smallest element along an axis, which is dropped. */
export const argMin = (x: Tensor, axis = -1): Tensor => argMax(neg(x), axis);
