import { hostTensor, onnxType } from '../host-tensor.js';
import type { Op, Tensor } from '../tensor.js';
import { apply } from '../tensor.js';
import { elementwise } from './batching.js';

const stopGradientOp: Op = {
  name: 'StopGradient',
  shape: ([x]) => x!,
  emit: (_context, _node, inputs) => inputs,
  vjp: 'none',
  batch: elementwise,
};

/** The same value; no gradient passes. */
export function stopGradient(x: Tensor): Tensor {
  return apply(stopGradientOp, [x]);
}

const identityOp: Op = {
  name: 'Identity',
  acceptsBroadcastCotangent: true,
  shape: ([x]) => x!,
  emit: (_context, _node, inputs) => inputs,
  vjp: (_, dy) => [dy],
  batch: elementwise,
};

/** The same value as a tensor of its own. */
export function identity(x: Tensor): Tensor {
  return apply(identityOp, [x]);
}

/**
 * [x, after] -> x. Two computations of the same from the same are one, for us and for ONNX Runtime, and a computation may
 * run early. So 0 is taken from x, and it is made of `after < after`, which no runtime sees through and no NaN disturbs.
 */
const startAfterOp: Op = {
  name: 'StartAfter',
  acceptsBroadcastCotangent: true,
  shape: ([x]) => x!,
  emit: (context, node, [x, after]) => {
    const ints = (...values: number[]) => context.constant(hostTensor('int64', [values.length], values));
    const [flat] = context.node('Reshape', [after!, ints(-1)]);
    const [first] = context.node('Slice', [flat!, ints(0), ints(1), ints(0)]);
    const [never] = context.node('Less', [first!, first!]);
    const { dtype } = node.inputs[0]!;
    if (dtype === 'bool') return context.node('Or', [x!, never!]);
    const [zero] = context.node('Cast', [never!], { to: onnxType[dtype] });
    return context.node('Sub', [x!, zero!]);
  },
  vjp: (_, dy) => [dy, undefined],
  batch: (inputs) => apply(startAfterOp, inputs),
};

/** [x, after] -> x, by a shape that waits for `after`: unlike StartAfter it copies nothing. */
const viewAfterOp: Op = {
  name: 'ViewAfter',
  acceptsBroadcastCotangent: true,
  shape: ([x]) => x!,
  emit: (context, node, [x, after]) => {
    const ints = (values: readonly number[]) => context.constant(hostTensor('int64', [values.length], values));
    const [flat] = context.node('Reshape', [after!, ints([-1])]);
    const [first] = context.node('Slice', [flat!, ints([0]), ints([1]), ints([0])]);
    const [zero] = context.node('Cast', context.node('Less', [first!, first!]), { to: onnxType.int64 });
    const [shape] = context.node('Add', [context.shape(node.outputs[0]!.shape), zero!]);
    return context.node('Reshape', [x!, shape!]);
  },
  vjp: (_, dy) => [dy, undefined],
  batch: (inputs) => apply(viewAfterOp, inputs),
};

/** x, but nothing made from it before `after` (a float) has been computed, nor shared with an earlier x. */
export function viewAfter(x: Tensor, after: Tensor): Tensor {
  return apply(viewAfterOp, [x, after]);
}

/** x, of rank 1 or more, but not before `after` (a float) has been computed, and not shared with an earlier x. */
export function startAfter(x: Tensor, after: Tensor): Tensor {
  return apply(startAfterOp, [x, after]);
}
