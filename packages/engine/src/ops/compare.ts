import type { DType } from '../host-tensor.js';
import { onnxType } from '../host-tensor.js';
import type { Op, Tensor } from '../tensor.js';
import { apply, requireDtype } from '../tensor.js';
import type { Operand } from './arithmetic.js';
import { binaryOp, mul, operands, sumTo } from './arithmetic.js';
import { elementwise } from './batching.js';
import { broadcastShapes } from './broadcast.js';

const equalOp = binaryOp('Equal', 'none', 'bool');
const greaterOp = binaryOp('Greater', 'none', 'bool');
const lessOp = binaryOp('Less', 'none', 'bool');
const greaterOrEqualOp = binaryOp('GreaterOrEqual', 'none', 'bool');
const lessOrEqualOp = binaryOp('LessOrEqual', 'none', 'bool');
const orOp = binaryOp('Or', 'none', 'bool');
const logicalXorOp = binaryOp('Xor', 'none', 'bool');
const andOp = binaryOp('And', 'none', 'bool');
const xorOp = binaryOp('BitwiseXor', 'none');
const notOp: Op = { name: 'Not', shape: ([x]) => x!, vjp: 'none', batch: elementwise };

export const equal = (a: Operand, b: Operand): Tensor => apply(equalOp, operands(a, b));
export const greater = (a: Operand, b: Operand): Tensor => apply(greaterOp, operands(a, b));
export const less = (a: Operand, b: Operand): Tensor => apply(lessOp, operands(a, b));
export const greaterOrEqual = (a: Operand, b: Operand): Tensor => apply(greaterOrEqualOp, operands(a, b));
export const lessOrEqual = (a: Operand, b: Operand): Tensor => apply(lessOrEqualOp, operands(a, b));
export const logicalOr = (a: Tensor, b: Tensor): Tensor => apply(orOp, [a, b]);
export const logicalXor = (a: Tensor, b: Tensor): Tensor => apply(logicalXorOp, [a, b]);
export const logicalAnd = (a: Tensor, b: Tensor): Tensor => apply(andOp, [a, b]);
export const logicalNot = (x: Tensor): Tensor => apply(notOp, [x]);
/** Integer tensors only. */
export const bitwiseXor = (a: Operand, b: Operand): Tensor => apply(xorOp, operands(a, b));

const castOp: Op = {
  name: 'Cast',
  acceptsBroadcastCotangent: true,
  shape: ([x], { dtype }) => ({ dtype: dtype as DType, shape: x!.shape }),
  emit: (context, node, [x]) => context.node('Cast', [x!], { to: onnxType[node.attributes.dtype as DType] }),
  vjp: ([x], dy) => [isFloat(x!.dtype) ? cast(dy, x!.dtype) : undefined],
  batch: elementwise,
};

export function isFloat(dtype: DType): boolean {
  return dtype === 'float32' || dtype === 'float64' || dtype === 'float16';
}

/** Converts the elements; the gradient passes between float dtypes only. */
export function cast(x: Tensor, dtype: DType): Tensor {
  return x.dtype === dtype ? x : apply(castOp, [x], { dtype });
}

const whereOp: Op = {
  name: 'Where',
  acceptsBroadcastCotangent: true,
  shape: ([condition, a, b]) => ({
    dtype: a!.dtype,
    shape: broadcastShapes('where', condition!.shape, broadcastShapes('where', a!.shape, b!.shape)),
  }),
  vjp: ([condition, a, b], dy, { outputs: [y] }) => [
    undefined,
    sumTo(where(condition!, dy, 0), a!.shape, y!.shape),
    sumTo(where(condition!, 0, dy), b!.shape, y!.shape),
  ],
  batch: elementwise,
};

/** `a` where `condition` (bool) holds, else `b`. */
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  requireDtype('where', condition, 'bool');
  return apply(whereOp, [condition, ...operands(a, b)]);
}

// Ties: half the gradient to each side, as PyTorch's maximum does.
const maxOp = binaryOp('Max', ([a, b], dy, { outputs: [y] }) => extremum(a!, b!, dy, y!, greater));
const minOp = binaryOp('Min', ([a, b], dy, { outputs: [y] }) => extremum(a!, b!, dy, y!, less));

function extremum(a: Tensor, b: Tensor, dy: Tensor, y: Tensor, beats: (a: Tensor, b: Tensor) => Tensor) {
  const tie = where(equal(a, b), mul(dy, 0.5), 0);
  const share = (mine: Tensor, other: Tensor) => where(beats(mine, other), dy, tie);
  return [sumTo(share(a, b), a.shape, y.shape), sumTo(share(b, a), b.shape, y.shape)];
}

export const maximum = (a: Operand, b: Operand): Tensor => apply(maxOp, operands(a, b));
export const minimum = (a: Operand, b: Operand): Tensor => apply(minOp, operands(a, b));
