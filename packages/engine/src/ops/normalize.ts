import { knownSizes, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import { hostTensor } from '../host-tensor.js';
import type { Op, Tensor } from '../tensor.js';
import { apply, applyAll, inFloat32, scalar } from '../tensor.js';
import { add, div, expand, mul, sub, sum, sumTo } from './arithmetic.js';
import { alignExample, shiftAxes } from './batching.js';
import { normalizeAxis } from './broadcast.js';
import { maximum } from './compare.js';
import { exp, sqrt } from './elementwise.js';
import { mean } from './reduce.js';
import { reshape } from './shape.js';

const softmaxOp: Op = {
  name: 'Softmax',
  shape: ([x]) => x!,
  // dx = y ∘ (dy − Σ dy∘y)
  vjp: (_, dy, { outputs: [y], attributes }) => {
    const weighted = mul(dy, y!);
    return [sub(weighted, mul(y!, sum(weighted, { axes: [attributes.axis as number], keepDims: true })))];
  },
  batch: shiftAxes('axis'),
};

export function softmax(x: Tensor, axis = -1): Tensor {
  return apply(softmaxOp, [x], { axis: normalizeAxis('softmax', axis, x.rank) });
}

const logSoftmaxOp: Op = {
  name: 'LogSoftmax',
  shape: ([x]) => x!,
  emit: (context, node, [x]) => {
    const { axis } = node.attributes as { axis: number };
    if (context.backend !== 'webgpu') return context.node('LogSoftmax', [x!], { axis });
    const axes = context.constant(hostTensor('int64', [1], [axis]));
    const one = (type: string, ...inputs: string[]) => context.node(type, inputs)[0]!;
    const shifted = one('Sub', x!, one('ReduceMax', x!, axes)); // keepdims is ONNX's default
    return context.node('Sub', [shifted, one('Log', one('ReduceSum', one('Exp', shifted), axes))]);
  },
  // dx = dy − softmax(x) Σ dy
  vjp: (_, dy, { outputs: [y], attributes }) => [
    sub(dy, mul(exp(y!), sum(dy, { axes: [attributes.axis as number], keepDims: true }))),
  ],
  batch: shiftAxes('axis'),
};

export function logSoftmax(x: Tensor, axis = -1): Tensor {
  return apply(logSoftmaxOp, [x], { axis: normalizeAxis('logSoftmax', axis, x.rank) });
}

const lastSize = (x: Tensor) => knownSizes('layerNorm', [x.shape.at(-1)!], x.shape)[0]!;

/** Layer normalisation with its mean and inverse deviation as second and third output, as ONNX has it (opset 17). */
const layerNormOp: Op = {
  name: 'LayerNormalization',
  shape: ([x, scale, bias]) => {
    for (const [what, part] of [
      ['scale', scale],
      ['bias', bias],
    ] as const) {
      if (part!.rank !== 1 || part!.shape[0] !== x!.shape.at(-1)) {
        throw new EngineError(
          'SHAPE_MISMATCH',
          `layerNorm: ${what} ${showShape(part!.shape)} does not fit the last axis of ${showShape(x!.shape)}`,
        );
      }
    }
    const statistics = { dtype: x!.dtype, shape: [...x!.shape.slice(0, -1), 1] };
    return [{ dtype: x!.dtype, shape: x!.shape }, statistics, statistics];
  },
  emit: (context, node, inputs) => {
    const epsilon = node.attributes.epsilon as number;
    return context.node('LayerNormalization', inputs, { axis: -1, epsilon }, { outputs: 3 });
  },
  vjp: ([x, scale, bias], _, { outputs: [y, average, inverse], cotangents: [dy, dAverage, dInverse] }) => {
    const axes = [-1];
    const centred = sub(x!, average!);
    const normal = mul(centred, inverse!);
    let dx: Tensor | undefined;
    if (dy) {
      // With g = scale ∘ dy: dx = inverse (g − mean(g) − normal mean(g ∘ normal)).
      const g = mul(dy, scale!);
      const meanG = mean(g, { axes, keepDims: true });
      const projection = mean(mul(g, normal), { axes, keepDims: true });
      dx = mul(sub(sub(g, meanG), mul(normal, projection)), inverse!);
    }
    // The statistics have cotangents of their own under second order: they appear in the rule above.
    if (dAverage) {
      const part = mul(dAverage, 1 / lastSize(x!));
      dx = dx ? add(dx, part) : part;
    }
    if (dInverse) {
      // d(var + ε)^(-1/2)/dx = −inverse³ centred / n
      const cube = mul(inverse!, mul(inverse!, inverse!));
      const part = mul(mul(dInverse, cube), mul(centred, -1 / lastSize(x!)));
      dx = dx ? add(dx, part) : part;
    }
    return [dx, dy && sumTo(mul(dy, normal), scale!.shape, y!.shape), dy && sumTo(dy, bias!.shape, y!.shape)];
  },
  batch: ([x, scale, bias], { node, batched, full }) => {
    if (!batched[1] && !batched[2]) return applyAll(layerNormOp, [x!, scale!, bias!], node.attributes);
    // Scale and shift of an example's own are applied after a normalisation without any.
    const plain = [1, 0].map((value) => expand(scalar(value, x!.dtype), node.inputs[1]!.shape));
    const [normal, ...statistics] = applyAll(layerNormOp, [full(0), ...plain], node.attributes);
    const { rank } = node.inputs[0]!;
    const own = (part: Tensor, i: number) => (batched[i] ? alignExample(part, rank) : part);
    return [add(mul(normal!, own(scale!, 1)), own(bias!, 2)), ...statistics];
  },
};

/**
 * Layer normalisation over the last axis (Ba et al. 2016, arXiv:1607.06450).
 *
 * @param x     [..., n]; n must be a number
 * @param scale [n]
 * @param bias  [n]
 */
export function layerNorm(x: Tensor, scale: Tensor, bias: Tensor, epsilon = 1e-5): Tensor {
  // ONNX's operator keeps its statistics in float32: other precisions are written out.
  if (x.dtype === 'float32') return applyAll(layerNormOp, [x, scale, bias], { epsilon })[0]!;
  const centred = sub(x, mean(x, { axes: [-1], keepDims: true }));
  const variance = mean(mul(centred, centred), { axes: [-1], keepDims: true });
  return add(mul(div(centred, sqrt(add(variance, epsilon))), scale), bias);
}

/** Rows scaled to length 1: x / max(‖x‖₂, epsilon) over the last axis. */
export function l2Normalize(x: Tensor, epsilon = 1e-12): Tensor {
  return inFloat32(() => {
    const squared = sum(mul(x, x), { axes: [-1], keepDims: true });
    return div(x, maximum(sqrt(maximum(squared, epsilon * epsilon)), epsilon));
  });
}

/** x / √(mean(x²) + ε) ∘ scale over the last axis. Zhang & Sennrich 2019, arXiv:1910.07467. */
export function rmsNorm(x: Tensor, scale: Tensor, epsilon = 1e-6): Tensor {
  return inFloat32(() => mul(div(x, sqrt(add(mean(mul(x, x), { axes: [-1], keepDims: true }), epsilon))), scale));
}

/** (x − mean) / √(variance + ε) over axes, with the two statistics. */
function standardize(x: Tensor, axes: readonly number[], epsilon: number) {
  const average = mean(x, { axes, keepDims: true });
  const centred = sub(x, average);
  const variance = mean(mul(centred, centred), { axes, keepDims: true });
  return { normal: div(centred, sqrt(add(variance, epsilon))), average, variance };
}

/** One number a channel, laid out to broadcast over [batch, channels, ...sizes]. */
const perChannel = (x: Tensor, like: Tensor) => reshape(x, [1, x.shape[0]!, ...like.shape.slice(2).map(() => 1)]);

/**
 * Group normalisation (Wu & He 2018, arXiv:1803.08494); with as many groups as channels it is instance normalisation.
 *
 * @param x           [batch, channels, ...sizes]
 * @param scale, bias [channels]
 */
export function groupNorm(x: Tensor, groups: number, scale: Tensor, bias: Tensor, epsilon = 1e-5): Tensor {
  const [batch, channels, ...sizes] = x.shape;
  const grouped = reshape(x, [batch!, groups, knownSizes('groupNorm', [channels!], x.shape)[0]! / groups, ...sizes]);
  const axes = grouped.shape.slice(2).map((_, i) => i + 2);
  const { normal } = inFloat32(() => standardize(grouped, axes, epsilon));
  return add(mul(reshape(normal, x.shape), perChannel(scale, x)), perChannel(bias, x));
}

/** Group normalisation with every channel a group of its own. Ulyanov et al. 2016, arXiv:1607.08022. */
export const instanceNorm = (x: Tensor, scale: Tensor, bias: Tensor, epsilon = 1e-5): Tensor =>
  groupNorm(x, knownSizes('instanceNorm', [x.shape[1]!], x.shape)[0]!, scale, bias, epsilon);
