/** Picking and placing elements by indices. */
import { add, mul } from '../../ops/arithmetic.js';
import { normalizeAxis } from '../../ops/broadcast.js';
import { cast, greater, where } from '../../ops/compare.js';
import { gatherElements, scatterElements } from '../../ops/elements.js';
import { oneHot } from '../../ops/indexing.js';
import { gatherNd, scatterNd } from '../../ops/nd.js';
import { transpose } from '../../ops/shape.js';
import type { Tensor } from '../../tensor.js';
import type { NodeContext, OperatorTable } from './context.js';

/** What replaces, or is added to, the elements that are there. */
function reductionOf(n: NodeContext): { reduction: 'none' | 'add' } {
  const reduction = n.string('reduction', 'none');
  if (reduction !== 'none' && reduction !== 'add') throw n.unsupported(`reduction "${reduction}"`);
  return { reduction };
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

const scatterNote = 'replaces distinct places, or adds';

export const indexingOperators: OperatorTable = {
  GatherElements: {
    trace: (n) => gatherElements(n.in(0), cast(n.in(1), 'int64'), n.int('axis', 0)),
    note: 'indices are not negative',
  },
  GatherND: {
    trace: (n) => gatherNd(n.in(0), cast(n.in(1), 'int64'), { batchDims: n.int('batch_dims', 0) }),
    note: 'indices are not negative',
  },
  ScatterND: { trace: (n) => scatterNd(n.in(0), cast(n.in(1), 'int64'), n.in(2), reductionOf(n)), note: scatterNote },
  ScatterElements: {
    trace: (n) => scatterElements(n.in(2), cast(n.in(1), 'int64'), n.int('axis', 0), n.in(0), reductionOf(n)),
    note: scatterNote,
  },
  OneHot: { trace: oneHotOf, gradient: 'none' },
};
