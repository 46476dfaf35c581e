import type { Dim } from '../dims.js';
import { isSymbolic, product, sameShape, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import type { DType } from '../host-tensor.js';
import { hostTensor, onnxType } from '../host-tensor.js';
import type { EmitContext, Op, Tensor, Vjp } from '../tensor.js';
import { apply, scalar, scalarValue } from '../tensor.js';
import { alignExample, elementwise, shiftAxes } from './batching.js';
import { broadcastShapes, normalizeAxis } from './broadcast.js';
import { beforeReshape, reshape } from './shape.js';
import { wideSum } from './wide.js';

/** What arithmetic takes: a traced value, or a number of the other operand's dtype. */
export type Operand = Tensor | number;

/** An elementwise operator of two operands that broadcast. */
export function binaryOp(name: string, vjp: Vjp | 'none', result?: DType): Op {
  return {
    name,
    acceptsBroadcastCotangent: true,
    batch: elementwise,
    shape: ([a, b]) => {
      if (a!.dtype !== b!.dtype) {
        throw new EngineError(
          'DTYPE_MISMATCH',
          `${name} takes two tensors of one dtype, not ${a!.dtype} and ${b!.dtype}`,
        );
      }
      return { dtype: result ?? a!.dtype, shape: broadcastShapes(name, a!.shape, b!.shape) };
    },
    vjp,
  };
}

/** Both operands as tensors of one dtype. */
export function operands(a: Operand, b: Operand): [Tensor, Tensor] {
  if (typeof a === 'number') return typeof b === 'number' ? [scalar(a), scalar(b)] : [scalar(a, b.dtype), b];
  return [a, typeof b === 'number' ? scalar(b, a.dtype) : b];
}

// y = a + b  =>  da = dy, db = dy; sumTo folds broadcast axes back.
const addOp = binaryOp('Add', ([a, b], dy, { outputs: [y] }) => [
  sumTo(dy, a!.shape, y!.shape),
  sumTo(dy, b!.shape, y!.shape),
]);
const subOp = binaryOp('Sub', ([a, b], dy, { outputs: [y] }) => [
  sumTo(dy, a!.shape, y!.shape),
  sumTo(neg(dy), b!.shape, y!.shape),
]);
const mulOp = binaryOp('Mul', ([a, b], dy, { outputs: [y] }) => [
  sumTo(mul(dy, b!), a!.shape, y!.shape),
  sumTo(mul(dy, a!), b!.shape, y!.shape),
]);
// y = a / b  =>  da = dy / b, db = -dy y / b
const divOp = binaryOp('Div', ([a, b], dy, { outputs: [y] }) => [
  sumTo(div(dy, b!), a!.shape, y!.shape),
  sumTo(neg(div(mul(dy, y!), b!)), b!.shape, y!.shape),
]);
const negOp: Op = {
  name: 'Neg',
  acceptsBroadcastCotangent: true,
  batch: elementwise,
  shape: ([x]) => x!,
  vjp: (_, dy) => [neg(dy)],
};

export function add(a: Operand, b: Operand): Tensor {
  const [x, y] = operands(a, b);
  if (scalarValue(y) === 0) return x;
  if (scalarValue(x) === 0) return y;
  return apply(addOp, [x, y]);
}

export function sub(a: Operand, b: Operand): Tensor {
  const [x, y] = operands(a, b);
  return scalarValue(y) === 0 ? x : apply(subOp, [x, y]);
}

export function mul(a: Operand, b: Operand): Tensor {
  const [x, y] = operands(a, b);
  if (scalarValue(y) === 1) return x;
  if (scalarValue(x) === 1) return y;
  return apply(mulOp, [x, y]);
}

/** `x` as a product with a scalar, also through a reshape; undefined if it is none. */
export function scaledByScalar(x: Tensor): { rest: Tensor; factor: Tensor } | undefined {
  const source = beforeReshape(x) ?? x;
  if (source.node.op !== mulOp) return undefined;
  const [a, b] = source.node.inputs as [Tensor, Tensor];
  if (a.rank > 0 === b.rank > 0) return undefined;
  const [rest, factor] = b.rank === 0 ? [a, b] : [b, a];
  return { rest: reshape(rest, x.shape), factor };
}

export function div(a: Operand, b: Operand): Tensor {
  const [x, y] = operands(a, b);
  return scalarValue(y) === 1 ? x : apply(divOp, [x, y]);
}

export function neg(x: Tensor): Tensor {
  return x.node.op === negOp ? x.node.inputs[0]! : apply(negOp, [x]);
}

const expandOp: Op = {
  name: 'Expand',
  shape: ([x], { shape }) => ({ dtype: x!.dtype, shape: shape as readonly Dim[] }),
  emit: (context, node, [x]) => context.node('Expand', [x!, context.shape(node.outputs[0]!.shape)]),
  vjp: ([x], dy, { outputs: [y] }) => [sumTo(dy, x!.shape, y!.shape)],
  batch: ([x], { node, size }) => {
    const shape = node.outputs[0]!.shape;
    return expand(alignExample(x!, shape.length), [size, ...shape]);
  },
};

/** Repeats axes of size 1, and adds leading ones, up to `shape`. */
export function expand(x: Tensor, shape: readonly Dim[]): Tensor {
  if (!sameShape(broadcastShapes('expand', x.shape, shape), shape)) {
    throw new EngineError('SHAPE_MISMATCH', `expand: ${showShape(x.shape)} does not broadcast to ${showShape(shape)}`);
  }
  return sameShape(x.shape, shape) ? x : apply(expandOp, [x], { shape });
}

/** Rows added up as a product with ones: the runtime's own sum over the first axis is slower, and slows with threads. */
function sumOfRows(context: EmitContext, x: Tensor, name: string): string[] {
  const one = context.constant(hostTensor('float32', [1], [1]));
  const [ones] = context.node('Expand', [one, context.shape([1, x.shape[0]!])]);
  return context.node('MatMul', [ones!, name]);
}

const sumOp: Op = {
  name: 'ReduceSum',
  acceptsBroadcastCotangent: true,
  shape: ([x], { axes }) => ({
    dtype: x!.dtype,
    shape: x!.shape.map((dim, axis) => ((axes as number[]).includes(axis) ? 1 : dim)),
  }),
  emit: (context, node, [x]) => {
    const axes = node.attributes.axes as number[];
    const over = context.constant(hostTensor('int64', [axes.length], axes));
    const [from] = node.inputs as [Tensor];
    if (!context.portable && from.dtype === 'float32' && from.rank === 2 && axes.length === 1 && axes[0] === 0) {
      return sumOfRows(context, from, x!);
    }
    return wideSum(context, node.inputs[0]!.dtype, [x!], ([value]) =>
      context.node('ReduceSum', [value!, over], { keepdims: 1 }),
    );
  },
  // The cotangent keeps its size 1 on the summed axes: it stands for its broadcast, and nothing is expanded.
  vjp: (_, dy) => [dy],
  batch: shiftAxes('axes'),
};

export interface ReduceOptions {
  /** Every axis when left out; negative ones count from the end. */
  readonly axes?: readonly number[];
  readonly keepDims?: boolean;
}

/** The axes of a reduction, sorted, from the front. */
export function reducedAxes(operation: string, x: Tensor, { axes }: ReduceOptions): number[] {
  const all = axes ?? [...x.shape.keys()];
  return [...new Set(all.map((axis) => normalizeAxis(operation, axis, x.rank)))].sort((a, b) => a - b);
}

/** Drops the reduced axes (of size 1) unless they are to be kept. */
export function dropAxes(reduced: Tensor, axes: readonly number[], keepDims = false): Tensor {
  return keepDims
    ? reduced
    : reshape(
        reduced,
        reduced.shape.filter((_, axis) => !axes.includes(axis)),
      );
}

/** Sum over axes. */
export function sum(x: Tensor, options: ReduceOptions = {}): Tensor {
  const axes = reducedAxes('sum', x, options);
  const effective = axes.filter((axis) => x.shape[axis] !== 1);
  return dropAxes(effective.length === 0 ? x : apply(sumOp, [x], { axes: effective }), axes, options.keepDims);
}

const sizeOp: Op = {
  name: 'Size',
  shape: (_, { dtype }) => ({ dtype: dtype as DType, shape: [] }),
  emit: (context, node) => {
    const size = context.dim(node.attributes.dim as Dim);
    const [cast] = context.node('Cast', [size], { to: onnxType[node.attributes.dtype as DType] });
    return context.node('Reshape', [cast!, context.constant(hostTensor('int64', [0], []))]);
  },
  vjp: 'none',
};

/** The number of elements `dims` stand for, as a scalar; a constant unless a size is symbolic. */
export function sizeOf(dims: readonly Dim[], dtype: DType = 'float32'): Tensor {
  const dim = product(dims);
  return isSymbolic(dim) ? apply(sizeOp, [], { dim, dtype }) : scalar(dim, dtype);
}

/**
 * Folds a cotangent of an output of shape `from` back to an operand of shape `to` that was broadcast to it. The
 * cotangent itself may have size 1 where `from` has not; such an axis counts as often as `from` is long.
 */
export function sumTo(cotangent: Tensor, to: readonly Dim[], from: readonly Dim[]): Tensor {
  if (sameShape(to, from)) return cotangent;
  const rank = from.length;
  const aligned = alignLeft(cotangent, rank);
  const folded: number[] = [];
  const repeated: Dim[] = [];
  for (let axis = 0; axis < rank; axis++) {
    const target = to[axis - rank + to.length] ?? 1;
    if (target !== 1 || from[axis] === 1) continue;
    if (aligned.shape[axis] === 1) repeated.push(from[axis]!);
    else folded.push(axis);
  }
  let result = folded.length === 0 ? aligned : sum(aligned, { axes: folded, keepDims: true });
  if (repeated.length > 0) result = mul(result, sizeOf(repeated, result.dtype));
  return reshape(result, result.shape.slice(rank - to.length));
}

/** Leading axes of size 1 up to `rank`. */
export function alignLeft(x: Tensor, rank: number): Tensor {
  return x.rank >= rank ? x : reshape(x, [...Array<number>(rank - x.rank).fill(1), ...x.shape]);
}
