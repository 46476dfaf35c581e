/**
 * How the weight gradient of a convolution is computed: Σ over images n and places p of dy[n, out, p] · x[n, in, p + tap].
 * What was measured stands in docs/decisions/0004-convolution.md.
 */
import type { Dim } from '../dims.js';
import type { HostTensor } from '../host-tensor.js';
import { hostTensor } from '../host-tensor.js';
import type { EmitContext, Node } from '../tensor.js';
import { emitGrouped } from './grouped-convolution.js';

export type Geometry = { strides: number[]; padding: number[]; dilations: number[]; group: number };
export type WeightGradient = Geometry & { kernel: number[] };

/** Up to so many products a weight row, patches are cheaper than the convolution (few columns make poor GEMMs). */
const fewTaps = 27;

/** Writes the nodes; the value is [out, in / groups, ...kernel]. */
export function emitWeightGradient(context: EmitContext, node: Node, x: string, dy: string): string[] {
  const { group, kernel } = node.attributes as WeightGradient;
  const taps = kernel.reduce((total, size) => total * size, node.outputs[0]!.shape[1] as number);
  // WebGPU has neither the right grouped convolution for patches nor a fused product.
  const few = context.backend !== 'webgpu' && group === 1 && taps <= fewTaps;
  return (few ? patches : imagesAsChannels)(context, node, x, dy);
}

/** Sizes, named. */
function sizesOf(node: Node) {
  const [x, dy] = node.inputs;
  const [batch, channels, ...size] = x!.shape as [Dim, number, ...number[]];
  const [, out, ...places] = dy!.shape as [Dim, number, ...number[]];
  return { batch, channels, size, out, places, ...(node.attributes as WeightGradient) };
}

const ints = (context: EmitContext, values: readonly number[]) =>
  context.constant(hostTensor('int64', [values.length], values));
const reshape = (context: EmitContext, x: string, shape: readonly number[]) =>
  context.node('Reshape', [x, ints(context, shape)])[0]!;
const transpose = (context: EmitContext, x: string, perm: readonly number[]) =>
  context.node('Transpose', [x], { perm })[0]!;
/** Of each axis from the third on, every `steps`-th of the first elements, up to `ends`. */
const cut = (
  context: EmitContext,
  x: string,
  size: readonly number[],
  ends: readonly number[],
  steps: readonly number[],
) => {
  const axes = size.flatMap((length, i) => (length === ends[i] && steps[i] === 1 ? [] : [i]));
  if (axes.length === 0) return x;
  const of = (values: readonly number[]) =>
    ints(
      context,
      axes.map((i) => values[i]!),
    );
  const [starts, at] = [axes.map(() => 0), axes.map((i) => i + 2)];
  return context.node('Slice', [x, ints(context, starts), of(ends), ints(context, at), of(steps)])[0]!;
};
const numbers = (count: number, from = 0) => Array.from({ length: count }, (_, i) => i + from);

/**
 * One convolution over one "image" whose channels are the batch and whose last axis holds places and channels together:
 * the input [1, n, ..., width · in], the kernel dy [out, n, ..., width'] with its elements `in` apart. Every place of the
 * result is then one tap of one channel, [1, out, ..., taps · in]: one matrix product as wide as the weight, with the
 * batch and all places summed inside, that never exists as patches in memory. The roles of stride and dilation change.
 * What no window reaches is left out of the image, so that no place is computed that is no tap.
 */
function imagesAsChannels(context: EmitContext, node: Node, whole: string, dy: string): string[] {
  const { channels, size, out, places, group, kernel, strides, padding, dilations } = sizesOf(node);
  const rank = size.length;
  const inner = channels / group;
  // Where one tap meets no padding, the others of its stride are not needed either.
  const sparse = kernel.map((taps, i) => (taps === 1 && padding[i] === 0 ? strides[i]! : 1));
  const apart = strides.map((stride, i) => stride / sparse[i]!);
  const reach = kernel.map((taps, i) => (places[i]! - 1) * strides[i]! + dilations[i]! * (taps - 1) + 1 - padding[i]!);
  const used = reach.map((end, i) => Math.min(end, size[i]!));
  const x = cut(context, whole, size, used, sparse);
  const kept = used.map((length, i) => Math.ceil(length / sparse[i]!));
  const split = group === 1 ? x : reshape(context, x, [0, group, inner, ...kept]);
  // [n, in, ...size] -> [n, ...size, in], or with groups -> [group, n, ...size, in / groups]
  const last = group === 1 ? [0, ...numbers(rank, 2), 1] : [1, 0, ...numbers(rank, 3), 2];
  const width = kept.at(-1)! * inner;
  const image = reshape(context, transpose(context, split, last), [1, -1, ...kept.slice(0, -1), width]);
  const filter = transpose(context, dy, [1, 0, ...numbers(rank, 2)]); // [out, n, ...places]
  const wide = (values: readonly number[], rest: readonly number[]) => [...rest.slice(0, -1), values.at(-1)! * inner];
  const after = reach.map((end, i) => end - used[i]!);
  const attributes = {
    strides: [...dilations.slice(0, -1), 1],
    dilations: wide(apart, apart),
    pads: [...wide(padding, padding), ...wide(after, after)],
    group,
  };
  const per = { in: Number(node.inputs[0]!.shape[0]), out: out / group };
  const [full] = emitGrouped(context, 'Conv', [image, filter], attributes, per);
  const taps = reshape(context, full!, [out, ...kernel, inner]);
  return [transpose(context, taps, [0, rank + 1, ...numbers(rank, 1)])];
}

/** The patches of every place, by a convolution with unit kernels, and one matrix product an image. */
function patches(context: EmitContext, node: Node, x: string, dy: string): string[] {
  const { channels, out, kernel, strides, padding, dilations } = sizesOf(node);
  const taps = kernel.reduce((total, size) => total * size, 1);
  const unit = context.constant(unitKernels(node, channels, kernel));
  const [columns] = context.node('Conv', [x, unit], {
    strides,
    dilations,
    pads: [...padding, ...padding],
    group: channels,
  });
  const left = reshape(context, dy, [0, out, -1]);
  const right = reshape(context, columns!, [0, channels * taps, -1]);
  const [each] = context.portable
    ? context.node('MatMul', [left, transpose(context, right, [0, 2, 1])])
    : context.node('FusedMatMul', [left, right], { transB: 1 }, { domain: 'com.microsoft' });
  const [total] = context.node('ReduceSum', [each!, ints(context, [0])], { keepdims: 0 });
  return [reshape(context, total!, [out, channels, ...kernel])];
}

const known = new Map<string, HostTensor>();

/** [channels · taps, 1, ...kernel], each with a single 1; one object a shape, so that a graph holds it once. */
function unitKernels(node: Node, channels: number, kernel: readonly number[]): HostTensor {
  const { dtype } = node.inputs[0]!;
  const key = `${dtype} ${channels} ${kernel}`;
  const found = known.get(key);
  if (found) return found;
  const taps = kernel.reduce((total, size) => total * size, 1);
  const values = numbers(channels * taps * taps).map((i) => Number(Math.floor(i / taps) % taps === i % taps));
  const made = hostTensor(dtype, [channels * taps, 1, ...kernel], values);
  known.set(key, made);
  return made;
}
