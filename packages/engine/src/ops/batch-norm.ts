import type { Dim } from '../dims.js';
import { product } from '../dims.js';
import { hostTensor } from '../host-tensor.js';
import { withSource } from '../source.js';
import type { EmitContext, Op, Tensor } from '../tensor.js';
import { apply, applyAll, inFloat32 } from '../tensor.js';
import { add, div, mul, neg, sizeOf, sub, sum } from './arithmetic.js';
import { alignExample } from './batching.js';
import { sqrt } from './elementwise.js';
import { reshape, transpose } from './shape.js';

/** Every axis of [batch, channels, ...sizes] but the channels. */
const otherAxes = (x: Tensor) => x.shape.flatMap((_, axis) => (axis === 1 ? [] : [axis]));
/** One number a channel, laid out to broadcast over [batch, channels, ...sizes]. */
const perChannel = (y: Tensor, like: Tensor) => reshape(y, [1, like.shape[1]!, ...like.shape.slice(2).map(() => 1)]);
const sumChannels = (x: Tensor) => sum(x, { axes: otherAxes(x) });

/** [channels] of one value. */
function filled(context: EmitContext, { dtype, shape }: Tensor, value: number): string {
  return context.node('Expand', [context.constant(hostTensor(dtype, [1], [value])), context.shape([shape[1]!])])[0]!;
}

/**
 * x ∘ scale + shift, numbers a channel, in one pass: the runtime's normalisation by given statistics, mean 0 and
 * variance 1. (A product and a sum are two, and take twice as long.)
 */
const channelAffineOp: Op = {
  name: 'ChannelAffine',
  /** x [batch, channels, ...sizes], scale and shift [channels] */
  shape: ([x]) => x!,
  emit: (context, node, inputs) => {
    const all = (value: number) => filled(context, node.inputs[0]!, value);
    return context.node('BatchNormalization', [...inputs, all(0), all(1)], { epsilon: 0 });
  },
  vjp: ([x, scale], dy) => [mul(dy, perChannel(scale!, x!)), sumChannels(mul(dy, x!)), sumChannels(dy)],
  batch: ([x, scale, shift], { node, batched }) => {
    const [example] = node.inputs;
    const own = (y: Tensor, i: number) =>
      batched[i]
        ? alignExample(reshape(y, [y.shape[0]!, ...perChannel(node.inputs[i]!, example!).shape]), example!.rank)
        : perChannel(y, example!);
    return add(mul(x!, own(scale!, 1)), own(shift!, 2));
  },
};
const channelAffine = (x: Tensor, scale: Tensor, shift: Tensor): Tensor => apply(channelAffineOp, [x, scale, shift]);

/** Normalisation by the batch's own statistics, with mean and variance [1, channels, 1, ...] as second and third output. */
const batchNormOp: Op = {
  name: 'BatchNormalization',
  /** x [batch, channels, ...sizes], scale and bias [channels] */
  shape: ([x]) => {
    const statistics = { dtype: x!.dtype, shape: x!.shape.map((dim, axis) => (axis === 1 ? dim : 1)) };
    return [{ dtype: x!.dtype, shape: x!.shape }, statistics, statistics];
  },
  emit: (context, node, [x, scale, bias]) => {
    const epsilon = node.attributes.epsilon as number;
    const flat = (y: string) => context.node('Reshape', [y, context.constant(hostTensor('int64', [1], [-1]))])[0]!;
    // Not the kernel's training mode: its results are wrong where others read its inputs, and WebGPU has none.
    const axes = context.constant(hostTensor('int64', [node.inputs[0]!.rank - 1], otherAxes(node.inputs[0]!)));
    const mean = (y: string) => context.node('ReduceMean', [y, axes], { keepdims: 1 })[0]!;
    const average = mean(x!);
    const [centred] = context.node('Sub', [x!, average]);
    const variance = mean(context.node('Mul', [centred!, centred!])[0]!);
    const [y] = context.node('BatchNormalization', [x!, scale!, bias!, flat(average), flat(variance)], { epsilon });
    return [y!, average, variance];
  },
  // With n elements a channel, c = x − mean, r = (variance + ε)^(-1/2), a = scale r:
  // dx = a dy − c (a r² Σ dy∘c) / n − a Σ dy / n, written so that dx is three passes and its own gradient few.
  vjp: ([x, scale], _, { outputs: [y, average, variance], cotangents: [dy, dAverage, dVariance], attributes }) => {
    const channels = x!.shape[1]!;
    const flat = (z: Tensor) => reshape(z, [channels]);
    const n = sizeOf(
      otherAxes(x!).map((axis) => x!.shape[axis]!),
      x!.dtype,
    );
    const centred = sub(x!, average!);
    const inverse = div(1, sqrt(add(flat(variance!), attributes.epsilon as number)));
    const a = mul(scale!, inverse);
    let [slope, shift]: (Tensor | undefined)[] = [];
    const gather = (sum: Tensor | undefined, part: Tensor) => (sum ? add(sum, part) : part);
    let [dScale, dBias]: (Tensor | undefined)[] = [];
    if (dy) {
      dBias = sumChannels(dy);
      dScale = mul(sumChannels(mul(dy, centred)), inverse);
      slope = neg(div(mul(mul(a, inverse), dScale), n));
      shift = neg(div(mul(a, dBias), n));
    }
    if (dAverage) shift = gather(shift, div(flat(dAverage), n));
    if (dVariance) slope = gather(slope, div(mul(flat(dVariance), 2), n));
    const zero = () => mul(a, 0);
    const inner = channelAffine(centred, slope ?? zero(), shift ?? zero());
    return [dy ? add(mul(dy, perChannel(a, y!)), inner) : inner, dScale, dBias];
  },
  // Every example's channels are channels of one larger batch.
  batch: (_, { node, size, full }) => {
    const [x, scale, bias] = [0, 1, 2].map(full) as [Tensor, Tensor, Tensor];
    const [n, channels, ...sizes] = node.inputs[0]!.shape as [Dim, Dim, ...Dim[]];
    const axes = sizes.map((_, i) => i + 3);
    const all = product([size, channels]);
    const images = reshape(transpose(x, [1, 0, 2, ...axes]), [n, all, ...sizes]);
    const parts = applyAll(batchNormOp, [images, reshape(scale, [all]), reshape(bias, [all])], node.attributes);
    return parts.map((part) => {
      const [rows, , ...rest] = part.shape as [Dim, Dim, ...Dim[]];
      return transpose(reshape(part, [rows, size, channels, ...rest]), [1, 0, 2, ...axes]);
    });
  },
};

export interface BatchStatistics {
  /** [channels] */
  readonly mean: Tensor;
  readonly variance: Tensor;
}

/**
 * Batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167): by the statistics of the batch, which are returned for a
 * running mean, or by given ones.
 *
 * @param x           [batch, channels, ...sizes]
 * @param scale, bias [channels]
 */
export function batchNorm(
  x: Tensor,
  scale: Tensor,
  bias: Tensor,
  { statistics, epsilon = 1e-5 }: { statistics?: BatchStatistics; epsilon?: number } = {},
): { y: Tensor; statistics: BatchStatistics } {
  if (statistics) {
    const { mean, variance } = statistics;
    const slope = () => div(scale, sqrt(add(variance, epsilon)));
    return { y: inFloat32(() => channelAffine(x, slope(), sub(bias, mul(mean, slope())))), statistics };
  }
  const { image, offset } = withoutOffset(x);
  const [y, mean, variance] = inFloat32(() => applyAll(batchNormOp, [image, scale, bias], { epsilon }));
  const flat = (z: Tensor) => reshape(z, [x.shape[1]!]);
  const centre = offset ? add(flat(mean!), offset) : flat(mean!);
  return { y: y!, statistics: { mean: centre, variance: flat(variance!) } };
}

/**
 * A convolution's bias is taken off again with the mean: it has no effect on the normalised images, and its gradient,
 * a sum over all of them, is zero. Neither is computed.
 */
function withoutOffset(x: Tensor): { image: Tensor; offset?: Tensor } {
  const { op, inputs, attributes, source, derived } = x.node;
  if (op.name !== 'Conv' || inputs.length < 3) return { image: x };
  return { image: withSource(source, () => apply(op, inputs.slice(0, 2), attributes), derived), offset: inputs[2]! };
}
