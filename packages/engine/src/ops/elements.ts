/** Picking along one axis, element by element: gatherElements, its transpose, and the largest k. */
import type { Dim } from '../dims.js';
import { isSymbolic, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import { hostTensor } from '../host-tensor.js';
import type { Op, Tensor } from '../tensor.js';
import { apply, applyAll, requireDtype } from '../tensor.js';
import { shiftAxes, shiftAxesOfAll } from './batching.js';
import { normalizeAxis } from './broadcast.js';

const gatherElementsOp: Op = {
  name: 'GatherElements',
  shape: ([x, indices], { axis }) => {
    const fits = x!.rank === indices!.rank && x!.shape.every((dim, i) => i === axis || dim === indices!.shape[i]);
    if (!fits) {
      throw new EngineError(
        'SHAPE_MISMATCH',
        `gatherElements: indices ${showShape(indices!.shape)} must equal ${showShape(x!.shape)} but on axis ${axis}`,
      );
    }
    return { dtype: x!.dtype, shape: indices!.shape };
  },
  vjp: ([x, indices], dy, { attributes }) => {
    const axis = attributes.axis as number;
    return [scatterElements(dy, indices!, axis, x!.shape[axis]!), undefined];
  },
  batch: shiftAxesOfAll('axis'),
};

/** Elements of `x` along an axis, at places of their own: `indices` (int64) has the result's shape. */
export function gatherElements(x: Tensor, indices: Tensor, axis: number): Tensor {
  requireDtype('gatherElements', indices, 'int64');
  return apply(gatherElementsOp, [x, indices], { axis: normalizeAxis('gatherElements', axis, x.rank) });
}

const scatterElementsOp: Op = {
  name: 'ScatterElements',
  shape: ([updates], { axis, size }) => ({
    dtype: updates!.dtype,
    shape: updates!.shape.map((dim, i) => (i === axis ? (size as Dim) : dim)),
  }),
  emit: (context, node, [updates, indices]) => {
    const zero = context.constant(hostTensor(node.inputs[0]!.dtype, [1], [0]));
    const [zeros] = context.node('Expand', [zero, context.shape(node.outputs[0]!.shape)]);
    const attributes = { axis: node.attributes.axis as number, reduction: 'add' };
    return context.node('ScatterElements', [zeros!, indices!, updates!], attributes);
  },
  vjp: ([, indices], dy, { attributes }) => [gatherElements(dy, indices!, attributes.axis as number), undefined],
  batch: shiftAxesOfAll('axis'),
};

/** The transpose of `gatherElements`: adds each element to its place along an axis of `size` zeros. */
export function scatterElements(updates: Tensor, indices: Tensor, axis: number, size: Dim): Tensor {
  return apply(scatterElementsOp, [updates, indices], {
    axis: normalizeAxis('scatterElements', axis, updates.rank),
    size,
  });
}

const topKOp: Op = {
  name: 'TopK',
  shape: ([x], { k, axis }) => {
    const shape = x!.shape.map((dim, i) => (i === axis ? (k as number) : dim));
    return [
      { dtype: x!.dtype, shape },
      { dtype: 'int64', shape },
    ];
  },
  emit: (context, node, [x]) => {
    const { k, axis, largest } = node.attributes as { k: number; axis: number; largest: number };
    const count = context.constant(hostTensor('int64', [1], [k]));
    return context.node('TopK', [x!, count], { axis, largest }, { outputs: 2 });
  },
  vjp: ([x], dy, { outputs: [, places], attributes }) => {
    const axis = attributes.axis as number;
    return [scatterElements(dy, places!, axis, x!.shape[axis]!)];
  },
  batch: shiftAxes('axis'),
};

/** The `k` largest elements along an axis, in falling order, with their places (int64); the smallest if not `largest`. */
export function topK(
  x: Tensor,
  k: number,
  { axis = -1, largest = true }: { axis?: number; largest?: boolean } = {},
): { values: Tensor; indices: Tensor } {
  const at = normalizeAxis('topK', axis, x.rank);
  const size = x.shape[at]!;
  if (!isSymbolic(size) && k > size) throw new EngineError('ARGUMENT_INVALID', `topK: ${k} of ${size} elements`);
  const [values, indices] = applyAll(topKOp, [x], { k, axis: at, largest: Number(largest) });
  return { values: values!, indices: indices! };
}
