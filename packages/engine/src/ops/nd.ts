/** Picking and placing rows by tuples of indices. */
import type { Dim } from '../dims.js';
import { isSymbolic, sameShape, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import { hostTensor } from '../host-tensor.js';
import type { Op, Tensor } from '../tensor.js';
import { apply, constant, requireDtype } from '../tensor.js';
import { expand } from './arithmetic.js';
import { arange, concat } from './indexing.js';
import { reshape } from './shape.js';
import { wideSum } from './wide.js';

/** The length of the tuples, the last axis of `indices`. */
function tupleLength(operation: string, x: Tensor, indices: Tensor): number {
  requireDtype(operation, indices, 'int64');
  const length = indices.shape.at(-1);
  if (length === undefined || isSymbolic(length) || length < 1 || length > x.rank) {
    throw new EngineError(
      'SHAPE_MISMATCH',
      `${operation}: indices ${showShape(indices.shape)} are no tuples into ${showShape(x.shape)}`,
    );
  }
  return length;
}

/** Puts the number of the batch in front of every tuple: [batch, ..., q] -> [batch, ..., 1 + q]. */
function withBatch(indices: Tensor): Tensor {
  const [batch, ...rest] = indices.shape as [Dim, ...Dim[]];
  const column = reshape(arange(batch), [batch, ...rest.map(() => 1)]);
  return concat([expand(column, [batch, ...rest.slice(0, -1), 1]), indices], indices.rank - 1);
}

const gatherNdOp: Op = {
  name: 'GatherND',
  shape: ([x, indices]) => ({
    dtype: x!.dtype,
    shape: [...indices!.shape.slice(0, -1), ...x!.shape.slice(tupleLength('gatherNd', x!, indices!))],
  }),
  vjp: ([x, indices], dy) => [scatterNd(zerosOf(x!), indices!, dy, { reduction: 'add' }), undefined],
  batch: ([x, indices], { batched, full }) => (batched[0] ? gatherNd(x!, withBatch(full(1))) : gatherNd(x!, indices!)),
};

function zerosOf(x: Tensor): Tensor {
  return expand(constant(hostTensor(x.dtype, [], [0])), x.shape);
}

/**
 * Rows (or elements) of `x` by tuples of indices.
 *
 * @param x         [...]
 * @param indices   int64 [..., q]: the last axis holds an index for each of the first q axes of x
 * @param batchDims how many leading axes x and indices share: there each picks from its own
 * @returns         [...indices without the last axis, ...the axes of x that are left]
 * @throws EngineError SHAPE_MISMATCH
 */
export function gatherNd(x: Tensor, indices: Tensor, { batchDims = 0 }: { batchDims?: number } = {}): Tensor {
  if (batchDims === 0) return apply(gatherNdOp, [x, indices]);
  if (!sameShape(x.shape.slice(0, batchDims), indices.shape.slice(0, batchDims)) || batchDims >= indices.rank) {
    throw new EngineError(
      'SHAPE_MISMATCH',
      `gatherNd: ${showShape(x.shape)} and indices ${showShape(indices.shape)} do not share ${batchDims} leading axes`,
    );
  }
  // The numbers of the shared axes are indices as well.
  const lead = indices.shape.slice(0, batchDims);
  const columns = lead.map((dim, axis) => {
    const column = reshape(
      arange(dim),
      indices.shape.map((_, i) => (i === axis ? dim : 1)),
    );
    return expand(column, [...indices.shape.slice(0, -1), 1]);
  });
  return apply(gatherNdOp, [x, concat([...columns, indices], indices.rank - 1)]);
}

const scatterNdOp: Op = {
  name: 'ScatterND',
  shape: ([base, updates, indices]) => {
    const wanted = [...indices!.shape.slice(0, -1), ...base!.shape.slice(tupleLength('scatterNd', base!, indices!))];
    if (!sameShape(updates!.shape, wanted) || updates!.dtype !== base!.dtype) {
      throw new EngineError(
        'SHAPE_MISMATCH',
        `scatterNd: updates are ${updates!.dtype} ${showShape(updates!.shape)}, not ${base!.dtype} ${showShape(wanted)}`,
      );
    }
    return { dtype: base!.dtype, shape: base!.shape };
  },
  emit: (context, node, [base, updates, indices]) => {
    const reduction = node.attributes.reduction as string;
    return wideSum(context, node.inputs[0]!.dtype, [base!, updates!], ([onto, values]) =>
      context.node('ScatterND', [onto!, indices!, values!], { reduction }),
    );
  },
  vjp: ([, updates, indices], dy, { attributes }) => [
    attributes.reduction === 'add' ? dy : scatterNd(dy, indices!, zerosOf(updates!)),
    gatherNd(dy, indices!),
    undefined,
  ],
  batch: (_, { node, full }) =>
    apply(scatterNdOp, [full(0), full(1), withBatch(full(2))], { reduction: node.attributes.reduction }),
};

/**
 * `base` with rows (or elements) replaced, or added to.
 *
 * @param indices int64 [..., q], as in `gatherNd`; to replace, they must be distinct, or which one wins is not defined
 * @param updates [...indices without the last axis, ...the axes of base after the first q]
 * @throws EngineError SHAPE_MISMATCH
 */
export function scatterNd(
  base: Tensor,
  indices: Tensor,
  updates: Tensor,
  { reduction = 'none' }: { reduction?: 'none' | 'add' } = {},
): Tensor {
  return apply(scatterNdOp, [base, updates, indices], { reduction });
}
