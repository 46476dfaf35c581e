import type { Dim } from '../dims.js';
import { isSymbolic, product, quotient, sameShape, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import type { Attributes, EmitContext, Op, Tensor } from '../tensor.js';
import { apply } from '../tensor.js';
import { normalizeAxis } from './broadcast.js';

const reshapeOp: Op = {
  name: 'Reshape',
  shape: ([x], { shape }) => ({ dtype: x!.dtype, shape: shape as readonly Dim[] }),
  emit: (context, node, [x]) => {
    const [from, to] = [node.inputs[0]!.shape, node.outputs[0]!.shape];
    return context.node('Reshape', [x!, reshapeTarget(context, from, to)]);
  },
  vjp: ([x], dy) => [reshape(dy, x!.shape)],
  batch: ([x], { node, size }) => reshape(x!, [size, ...node.outputs[0]!.shape]),
};

/** 0 copies the size at the same place and -1 is inferred, so most symbolic targets need no computation. */
function reshapeTarget(context: EmitContext, from: readonly Dim[], to: readonly Dim[]): string {
  let inferred = false;
  const plain: number[] = [];
  for (const [axis, dim] of to.entries()) {
    if (!isSymbolic(dim)) plain.push(dim);
    else if (from[axis] === dim) plain.push(0);
    else if (!inferred) {
      inferred = true;
      plain.push(-1);
    } else return context.shape(to);
  }
  if (plain.includes(0) && to.some((dim) => dim === 0)) return context.shape(to);
  return context.constant({ dtype: 'int64', shape: [plain.length], data: BigInt64Array.from(plain, BigInt) });
}

/**
 * The same elements in another shape; one size may be -1 and is inferred.
 *
 * @throws EngineError SHAPE_MISMATCH when the numbers of elements differ
 */
export function reshape(x: Tensor, shape: readonly Dim[]): Tensor {
  const total = product(x.shape);
  const known = product(shape.filter((dim) => dim !== -1));
  const inferred = shape.includes(-1) ? quotient(total, known) : undefined;
  const target = shape.map((dim) => (dim === -1 && inferred !== undefined ? inferred : dim));
  if (target.includes(-1) || product(target) !== total) {
    throw new EngineError(
      'SHAPE_MISMATCH',
      `reshape: ${showShape(x.shape)} has ${total} elements and cannot become ${showShape(shape)}`,
    );
  }
  if (sameShape(x.shape, target)) return x;
  // A reshape of a reshape is one reshape.
  const source = x.node.op === reshapeOp ? x.node.inputs[0]! : x;
  return sameShape(source.shape, target) ? source : apply(reshapeOp, [source], { shape: target });
}

/** The tensor before a reshape, if `x` is one. */
export const beforeReshape = (x: Tensor): Tensor | undefined =>
  x.node.op === reshapeOp ? x.node.inputs[0] : undefined;

/** Adds axes of size 1, counted in the result. */
export function unsqueeze(x: Tensor, ...axes: number[]): Tensor {
  const rank = x.rank + axes.length;
  const added = new Set(axes.map((axis) => normalizeAxis('unsqueeze', axis, rank)));
  const rest = [...x.shape];
  return reshape(
    x,
    Array.from({ length: rank }, (_, axis) => (added.has(axis) ? 1 : rest.shift()!)),
  );
}

const transposeOp: Op = {
  name: 'Transpose',
  shape: ([x], { perm }) => ({ dtype: x!.dtype, shape: (perm as number[]).map((axis) => x!.shape[axis]!) }),
  vjp: (_, dy, { attributes }) => [transpose(dy, inverse(attributes.perm as number[]))],
  batch: ([x], { node }) => transpose(x!, [0, ...(node.attributes.perm as number[]).map((axis) => axis + 1)]),
};

function inverse(perm: readonly number[]): number[] {
  const result: number[] = [];
  for (const [to, from] of perm.entries()) result[from] = to;
  return result;
}

/** Permutes axes; without `perm` the last two are swapped. */
export function transpose(x: Tensor, perm?: readonly number[]): Tensor {
  const order = perm ?? swapLast(x.rank);
  if ([...order].sort((a, b) => a - b).some((axis, i) => axis !== i) || order.length !== x.rank) {
    throw new EngineError('ARGUMENT_INVALID', `transpose: [${order}] is no permutation of ${x.rank} axes`);
  }
  if (order.every((axis, i) => axis === i)) return x;
  if (x.node.op === transposeOp) {
    const inner = x.node.attributes.perm as number[];
    return transpose(
      x.node.inputs[0]!,
      order.map((axis) => inner[axis]!),
    );
  }
  return apply(transposeOp, [x], { perm: order });
}

function swapLast(rank: number): number[] {
  if (rank < 2) throw new EngineError('ARGUMENT_INVALID', `transpose: a tensor of rank ${rank} has no two last axes`);
  return [...Array(rank - 2).keys(), rank - 1, rank - 2];
}

/** The tensor before a swap of the last two axes, if `x` is one: matrix products take it transposed instead. */
export function beforeSwap(x: Tensor): Tensor | undefined {
  if (x.node.op !== transposeOp) return undefined;
  const perm = (x.node.attributes as Attributes).perm as number[];
  return perm.length >= 2 && swapLast(perm.length).every((axis, i) => axis === perm[i]) ? x.node.inputs[0] : undefined;
}
