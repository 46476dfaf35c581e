/** Picking and placing elements by indices. */
import { add, mul } from '../../ops/arithmetic.js';
import { shiftAxesOfAll } from '../../ops/batching.js';
import { normalizeAxis } from '../../ops/broadcast.js';
import { cast, greater, where } from '../../ops/compare.js';
import { gatherElements } from '../../ops/elements.js';
import { oneHot } from '../../ops/indexing.js';
import { transpose } from '../../ops/shape.js';
import type { Op, Tensor } from '../../tensor.js';
import { apply } from '../../tensor.js';
import type { NodeContext, OperatorTable } from './context.js';

/** Elements or rows by tuples of indices. */
const gatherNdOp: Op = {
  name: 'GatherND',
  shape: ([x, indices], { batch }) => {
    const from = (batch as number) + (indices!.shape.at(-1) as number);
    return { dtype: x!.dtype, shape: [...indices!.shape.slice(0, -1), ...x!.shape.slice(from)] };
  },
  emit: (context, node, inputs) => context.node('GatherND', inputs, { batch_dims: node.attributes.batch as number }),
  vjp: 'none',
  batch: shiftAxesOfAll('batch'),
};

function gatherNd(n: NodeContext): Tensor {
  const [x, indices] = [n.in(0), n.in(1)];
  const width = indices.shape.at(-1);
  const batch = n.int('batch_dims', 0);
  if (typeof width !== 'number' || batch + width > x.rank || batch >= indices.rank) {
    throw n.error('SHAPE_MISMATCH', `indices [${indices.shape}] into [${x.shape}]`);
  }
  return apply(gatherNdOp, [x, indices], { batch });
}

/** off + (on − off) · (class = index), the new axis in its place. */
function oneHotOf(n: NodeContext): Tensor {
  const classes = n.number(1, 'depth');
  const values = n.in(2);
  const indices = cast(n.in(0), 'int64');
  const [off, on] = n.numbers(2, 'values') as [number, number];
  const hot = oneHot(where(greater(0, indices), add(indices, classes), indices), classes, values.dtype);
  const axis = normalizeAxis(n.label, n.int('axis', -1), hot.rank);
  const order: number[] = Array.from({ length: hot.rank - 1 }, (_, i) => i);
  order.splice(axis, 0, hot.rank - 1);
  return transpose(add(mul(hot, on - off), off), order);
}

export const indexingOperators: OperatorTable = {
  GatherElements: {
    trace: (n) => gatherElements(n.in(0), cast(n.in(1), 'int64'), n.int('axis', 0)),
    note: 'indices are not negative',
  },
  GatherND: { trace: gatherNd, gradient: 'none' },
  OneHot: { trace: oneHotOf, gradient: 'none' },
};
