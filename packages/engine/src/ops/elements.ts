/** Picking along one axis, element by element: gatherElements, its transpose, and the largest k. */
import type { Dim } from '../dims.js';
import { isSymbolic, sameShape, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import { hostTensor } from '../host-tensor.js';
import type { Op } from '../tensor.js';
import { apply, applyAll, requireDtype, scalar, Tensor } from '../tensor.js';
import { expand } from './arithmetic.js';
import { shiftAxes, shiftAxesOfAll } from './batching.js';
import { normalizeAxis } from './broadcast.js';
import { slice } from './indexing.js';
import { wideSum } from './wide.js';

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

/**
 * Elements of `x` along an axis, at places of their own.
 *
 * @param indices int64, shaped as the result: as x but on the axis, or smaller, and then the rest of x is not looked at
 */
export function gatherElements(x: Tensor, indices: Tensor, axis: number): Tensor {
  requireDtype('gatherElements', indices, 'int64');
  const at = normalizeAxis('gatherElements', axis, x.rank);
  const read = indices.shape.reduce<Tensor>((y, size, i) => {
    const smaller = i !== at && typeof size === 'number' && size < (y.shape[i] as number);
    return smaller ? slice(y, i, 0, size) : y;
  }, x);
  return apply(gatherElementsOp, [read, indices], { axis: at });
}

const scatterElementsOp: Op = {
  name: 'ScatterElements',
  shape: ([updates, , base], { axis, size }) => {
    const shape = base?.shape ?? updates!.shape.map((dim, i) => (i === axis ? (size as Dim) : dim));
    return { dtype: updates!.dtype, shape };
  },
  emit: (context, node, [updates, indices, base]) => {
    const { axis, reduction } = node.attributes as { axis: number; reduction: string };
    return wideSum(context, node.inputs[0]!.dtype, base ? [updates!, base] : [updates!], ([values, onto], dtype) => {
      const zeros = () => {
        const zero = context.constant(hostTensor(dtype, [1], [0]));
        return context.node('Expand', [zero, context.shape(node.outputs[0]!.shape)])[0]!;
      };
      return context.node('ScatterElements', [onto ?? zeros(), indices!, values!], { axis, reduction });
    });
  },
  vjp: ([updates, indices, base], dy, { attributes }) => {
    const { axis, reduction } = attributes as { axis: number; reduction: 'none' | 'add' };
    const around = (): Tensor =>
      reduction === 'add'
        ? dy
        : scatterElements(expand(scalar(0, dy.dtype), updates!.shape), indices!, axis, dy, { reduction });
    return [gatherElements(dy, indices!, axis), undefined, base && around()];
  },
  batch: shiftAxesOfAll('axis'),
};

/**
 * The transpose of `gatherElements`: adds each element to its place along an axis of zeros, or of a given tensor; or
 * puts it there.
 *
 * @param updates   as `indices`
 * @param indices   int64
 * @param onto      the size of the axis of zeros, or the tensor
 * @param reduction 'none' puts the element in its place; the places must then be distinct
 */
export function scatterElements(
  updates: Tensor,
  indices: Tensor,
  axis: number,
  onto: Dim | Tensor,
  { reduction = 'add' }: { reduction?: 'none' | 'add' } = {},
): Tensor {
  const at = normalizeAxis('scatterElements', axis, updates.rank);
  if (!(onto instanceof Tensor))
    return apply(scatterElementsOp, [updates, indices], { axis: at, size: onto, reduction });
  const fits = onto.rank === updates.rank && sameShape(indices.shape, updates.shape) && onto.dtype === updates.dtype;
  if (!fits) {
    throw new EngineError(
      'SHAPE_MISMATCH',
      `scatterElements: updates ${showShape(updates.shape)} at ${showShape(indices.shape)} do not go into ${showShape(onto.shape)}`,
    );
  }
  return apply(scatterElementsOp, [updates, indices, onto], { axis: at, reduction });
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
