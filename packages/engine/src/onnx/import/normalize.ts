/** Normalisations. */
import type { Dim } from '../../dims.js';
import { product } from '../../dims.js';
import { hostTensor } from '../../host-tensor.js';
import { add, div, mul, sub, sum } from '../../ops/arithmetic.js';
import { batchNorm } from '../../ops/batch-norm.js';
import { normalizeAxis } from '../../ops/broadcast.js';
import { reciprocal, sqrt } from '../../ops/elementwise.js';
import { groupNorm, layerNorm, rmsNorm } from '../../ops/normalize.js';
import { mean } from '../../ops/reduce.js';
import { reshape } from '../../ops/shape.js';
import type { Tensor } from '../../tensor.js';
import { constant } from '../../tensor.js';
import type { NodeContext, OperatorRule, OperatorTable } from './context.js';

/** Over the axes from `axis` on; all but the last are joined to one for the engine's operator. */
function normalizedFrom(
  n: NodeContext,
  normalize: (x: Tensor, scale: Tensor, bias: Tensor | undefined) => Tensor,
): Tensor {
  const [x, scale, bias] = [n.in(0), n.in(1), n.optional(2)];
  const axis = normalizeAxis(n.label, n.int('axis', -1), x.rank);
  if (axis === x.rank - 1 && scale.rank === 1) return normalize(x, scale, bias);
  const width: Dim = product(x.shape.slice(axis));
  const flat = (y: Tensor) => reshape(y, [width]);
  const joined = reshape(x, [...x.shape.slice(0, axis), width]);
  return reshape(normalize(joined, flat(scale), bias && flat(bias)), x.shape);
}

/** Mean and inverse deviation over the normalised axes: what a fused operator gives beside its result. */
function statisticsOf(n: NodeContext, centred: boolean): Tensor[] {
  const x = n.in(0);
  const from = normalizeAxis(n.label, n.int('axis', -1), x.rank);
  const axes = Array.from({ length: x.rank - from }, (_, i) => from + i);
  const average = mean(x, { axes, keepDims: true });
  const rest = centred ? sub(x, average) : x;
  const square = mean(mul(rest, rest), { axes, keepDims: true });
  return [average, reciprocal(sqrt(add(square, n.float('epsilon', 1e-5))))];
}

function layerNormalization(n: NodeContext): Tensor {
  const epsilon = n.float('epsilon', 1e-5);
  return normalizedFrom(n, (x, scale, bias) => {
    if (bias) return layerNorm(x, scale, bias, epsilon);
    const centred = sub(x, mean(x, { axes: [-1], keepDims: true }));
    const variance = mean(mul(centred, centred), { axes: [-1], keepDims: true });
    return mul(div(centred, sqrt(add(variance, epsilon))), scale);
  });
}

/** x / √(mean(x²) + ε) · scale: RMSNormalization (opset 23), and the runtime's own operator of the other name. */
export const rmsRule: OperatorRule = {
  trace: (n) => {
    const epsilon = n.float('epsilon', 1e-5);
    const y = normalizedFrom(n, (x, scale, bias) => {
      const y = rmsNorm(x, scale, epsilon);
      return bias ? add(y, bias) : y;
    });
    return n.outputCount > 1 ? [y, statisticsOf(n, false)[1]!] : y;
  },
};

function batchNormalization(n: NodeContext): Tensor {
  const [x, scale, bias] = [n.in(0), n.in(1), n.in(2)];
  const epsilon = n.float('epsilon', 1e-5);
  if (n.options.training || n.int('training_mode', 0) !== 0) return batchNorm(x, scale, bias, { epsilon }).y;
  return batchNorm(x, scale, bias, { statistics: { mean: n.in(3), variance: n.in(4) }, epsilon }).y;
}

/** One scale a group (opset 18) or a channel (21). */
function groupNormalization(n: NodeContext): Tensor {
  const x = n.in(0);
  const groups = n.int('num_groups');
  const channels = x.shape[1];
  if (typeof channels !== 'number' || groups < 1 || channels % groups !== 0) {
    throw n.error('ONNX_INVALID', `${groups} groups do not fit [${x.shape}]`);
  }
  const each = (y: Tensor) => {
    if (y.shape[0] === channels) return y;
    const column = reshape(y, [groups, 1]);
    const ones = Array<number>(channels / groups).fill(1);
    return reshape(mul(column, fromNumbers(ones, column)), [channels]);
  };
  return groupNorm(x, groups, each(n.in(1)), each(n.in(2)), n.float('epsilon', 1e-5));
}

function fromNumbers(values: readonly number[], like: Tensor): Tensor {
  return constant(hostTensor(like.dtype, [1, values.length], values));
}

export const normalizeOperators: OperatorTable = {
  LayerNormalization: {
    // Outputs that nothing reads are not written.
    trace: (n) => (n.outputCount > 1 ? [layerNormalization(n), ...statisticsOf(n, true)] : layerNormalization(n)),
  },
  RMSNormalization: rmsRule,
  BatchNormalization: { trace: batchNormalization, note: 'by running statistics, or by the batch with `training`' },
  InstanceNormalization: {
    trace: (n) => groupNorm(n.in(0), channelsOf(n), n.in(1), n.in(2), n.float('epsilon', 1e-5)),
  },
  GroupNormalization: { trace: groupNormalization },
  MeanVarianceNormalization: {
    trace: (n) => {
      const x = n.in(0);
      const axes = n.ints('axes') ?? [0, 2, 3];
      const centred = sub(x, mean(x, { axes, keepDims: true }));
      return div(centred, add(sqrt(mean(mul(centred, centred), { axes, keepDims: true })), 1e-9));
    },
  },
  LpNormalization: {
    trace: (n) => {
      if (n.int('p', 2) !== 2) throw n.unsupported(`p = ${n.int('p', 2)}`);
      const x = n.in(0);
      const axes = [n.int('axis', -1)];
      return div(x, sqrt(sum(mul(x, x), { axes, keepDims: true })));
    },
    note: 'p = 2',
  },
};

function channelsOf(n: NodeContext): number {
  const channels = n.value(0).shape[1];
  if (typeof channels !== 'number')
    throw n.error('SIZE_UNKNOWN', `its number of channels is symbolic; ${n.advice(channels)}`);
  return channels;
}
