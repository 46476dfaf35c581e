/** Reductions, softmax, and picking the largest. */
import type { Dim } from '../../dims.js';
import { product } from '../../dims.js';
import { sub, sum } from '../../ops/arithmetic.js';
import { normalizeAxis } from '../../ops/broadcast.js';
import { topK } from '../../ops/elements.js';
import { log } from '../../ops/elementwise.js';
import { cumSum } from '../../ops/indexing.js';
import { logSoftmax, softmax } from '../../ops/normalize.js';
import { argMax, argMin, l1Norm, l2Norm, logSumExp, max, mean, min, prod, sumSquares } from '../../ops/reduce.js';
import { reshape, unsqueeze } from '../../ops/shape.js';
import type { Tensor } from '../../tensor.js';
import type { NodeContext, OperatorRule, OperatorTable } from './context.js';
import { combineDims, foldReduce } from './fold.js';
import { axesOf } from './shape.js';

type Reduce = (x: Tensor, options: { axes: number[]; keepDims: boolean }) => Tensor;

/** Axes as attribute or as input (opset 18; 13 for ReduceSum); without any, all or (with the flag) none. */
function reduction(n: NodeContext): { axes: number[]; keepDims: boolean } {
  const rank = n.value(0).shape.length;
  const given = axesOf(n)?.map((axis) => normalizeAxis(n.label, axis, rank));
  const empty = n.int('noop_with_empty_axes', 0) === 1 ? [] : [...Array(rank).keys()];
  return { axes: given && given.length > 0 ? given : empty, keepDims: n.int('keepdims', 1) !== 0 };
}

function reduceRule(reduce: Reduce, combine?: (a: Dim, b: Dim) => Dim | undefined, start?: Dim): OperatorRule {
  return {
    trace: (n) => {
      const options = reduction(n);
      return options.axes.length === 0 && n.value(0).shape.length > 0 ? n.in(0) : reduce(n.in(0), options);
    },
    fold: combine
      ? ([x], n) => {
          const { axes, keepDims } = reduction(n);
          return foldReduce(x!, axes, keepDims, combine, start);
        }
      : undefined,
  };
}

/** Before opset 13 the axes from `axis` on were one. */
function softmaxRule(apply: (x: Tensor, axis?: number) => Tensor): OperatorRule {
  return {
    trace: (n) => {
      const x = n.in(0);
      if (n.opset >= 13) return apply(x, n.int('axis', -1));
      const axis = normalizeAxis(n.label, n.int('axis', 1), x.rank);
      if (axis === x.rank - 1) return apply(x, axis);
      const flat = reshape(x, [product(x.shape.slice(0, axis)), product(x.shape.slice(axis))]);
      return reshape(apply(flat, 1), x.shape);
    },
  };
}

function argRule(pick: (x: Tensor, axis: number) => Tensor): OperatorRule {
  return {
    trace: (n) => {
      if (n.int('select_last_index', 0) !== 0) throw n.unsupported('select_last_index');
      const axis = normalizeAxis(n.label, n.int('axis', 0), n.value(0).shape.length);
      const found = pick(n.in(0), axis);
      return n.int('keepdims', 1) !== 0 ? unsqueeze(found, axis) : found;
    },
    gradient: 'none',
  };
}

export const reduceOperators: OperatorTable = {
  ReduceSum: reduceRule(sum, combineDims.sum, 0),
  ReduceMean: reduceRule(mean),
  ReduceMax: reduceRule(max, combineDims.max),
  ReduceMin: reduceRule(min, combineDims.min),
  ReduceL1: reduceRule(l1Norm),
  ReduceL2: reduceRule(l2Norm),
  ReduceSumSquare: reduceRule(sumSquares),
  ReduceLogSum: reduceRule((x, options) => log(sum(x, options))),
  ReduceLogSumExp: reduceRule(logSumExp),
  ReduceProd: reduceRule(prod, combineDims.prod, 1),
  Softmax: softmaxRule(softmax),
  LogSoftmax: softmaxRule(logSoftmax),
  ArgMax: argRule(argMax),
  ArgMin: argRule(argMin),
  TopK: {
    trace: (n) => {
      const options = { axis: n.int('axis', -1), largest: n.int('largest', 1) !== 0 };
      const { values, indices } = topK(n.in(0), n.has(1) ? n.number(1, 'k') : n.int('k'), options);
      return [values, indices];
    },
  },
  CumSum: {
    trace: (n) => {
      const x = n.in(0);
      const running = cumSum(x, normalizeAxis(n.label, n.number(1, 'axis'), x.rank), n.int('reverse', 0) !== 0);
      return n.int('exclusive', 0) !== 0 ? sub(running, x) : running;
    },
  },
};
