import type { Dim } from '../dims.js';
import { knownSizes, product, quotient, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import { hostTensor } from '../host-tensor.js';
import type { Attributes, Op, Tensor } from '../tensor.js';
import { apply } from '../tensor.js';
import { sum } from './arithmetic.js';
import { batchConvolution, batchWeightGradient } from './convolution-batching.js';
import { emitGrouped } from './grouped-convolution.js';
import { slice } from './indexing.js';
import type { Padding } from './padding.js';
import { evenPadding } from './padding.js';
import { reshape, transpose } from './shape.js';
import type { Geometry, WeightGradient } from './weight-gradient.js';
import { emitWeightGradient } from './weight-gradient.js';

export interface ConvolutionOptions {
  /** One for every spatial axis, or one a axis; 1 when left out. */
  readonly stride?: number | readonly number[];
  /** Zeros on both sides; 0 when left out. */
  readonly padding?: number | readonly number[];
  readonly dilation?: number | readonly number[];
  readonly groups?: number;
}

function geometryOf(options: ConvolutionOptions, axes: number): Geometry {
  const each = (value: number | readonly number[] | undefined, fallback: number) =>
    typeof value === 'object' ? [...value] : Array<number>(axes).fill(value ?? fallback);
  return {
    strides: each(options.stride, 1),
    padding: each(options.padding, 0),
    dilations: each(options.dilation, 1),
    group: options.groups ?? 1,
  };
}

function spatial(what: string, x: Tensor): number[] {
  const sizes = x.shape.slice(2);
  if (sizes.length === 0) {
    throw new EngineError('SHAPE_MISMATCH', `${what} takes [batch, channels, ...sizes], not ${showShape(x.shape)}`);
  }
  return knownSizes(what, sizes, x.shape);
}

/** What ONNX calls these numbers. */
const onnxAttributes = ({ strides, padding, dilations, group }: Geometry) => ({
  strides,
  pads: [...padding, ...padding],
  dilations,
  group,
});

const convOp: Op = {
  name: 'Conv',
  /** x [n, in, ...size], w [out, in / groups, ...kernel], bias [out] if any -> [n, out, ...] */
  shape: ([x, w, bias], attributes) => {
    const { strides, padding, dilations, group } = attributes as Geometry;
    const kernel = spatial('conv', w!);
    const [out, inner] = [w!.shape[0]!, w!.shape[1]!];
    const sizes = spatial('conv', x!).map((size, i) => {
      const span = dilations[i]! * (kernel[i]! - 1) + 1;
      return Math.floor((size + 2 * padding[i]! - span) / strides[i]!) + 1;
    });
    const channels = x!.shape[1]!;
    const fits = typeof inner === 'number' && typeof channels === 'number' ? channels === inner * group : true;
    if (x!.rank !== w!.rank || !fits || sizes.some((size) => size < 1)) {
      throw new EngineError(
        'SHAPE_MISMATCH',
        `conv: input ${showShape(x!.shape)} and weight ${showShape(w!.shape)} do not fit with ${JSON.stringify(attributes)}`,
      );
    }
    requireBias('conv', bias, out);
    return { dtype: x!.dtype, shape: [x!.shape[0]!, out, ...sizes] };
  },
  emit: (context, node, inputs) => {
    const attributes = onnxAttributes(node.attributes as Geometry);
    const [out, inner] = node.inputs[1]!.shape as [number, number];
    return emitGrouped(context, 'Conv', inputs, attributes, { in: inner, out: out / attributes.group });
  },
  vjp: ([x, w, bias], dy, { attributes }) => [
    transposed(dy, w!, attributes as Geometry, spatial('conv', x!)),
    weightGradient(x!, dy, attributes as Geometry, spatial('conv', w!)),
    bias && biasGradient(dy),
  ],
  batch: batchConvolution,
};

const transposeOp: Op = {
  name: 'ConvTranspose',
  /** x [n, in, ...], w [in, out / groups, ...kernel], bias [out] if any -> [n, out, ...sizes] */
  shape: ([x, w, bias], attributes) => {
    const { group, sizes } = attributes as Geometry & { sizes: number[] };
    const out = (w!.shape[1] as number) * group;
    requireBias('convTranspose', bias, out);
    return { dtype: x!.dtype, shape: [x!.shape[0]!, out, ...sizes] };
  },
  emit: (context, node, inputs) => {
    const geometry = node.attributes as Geometry & { sizes: number[] };
    const [x, w] = node.inputs as [Tensor, Tensor];
    const from = spatial('convTranspose', x);
    const kernel = spatial('convTranspose', w);
    const extra = geometry.sizes.map((size, i) => size - smallest(geometry, from, kernel, i));
    const attributes = { ...onnxAttributes(geometry), output_padding: extra };
    const [rows, out] = w.shape as [number, number];
    return emitGrouped(context, 'ConvTranspose', inputs, attributes, { in: rows / geometry.group, out });
  },
  // The adjoint of a convolution: its gradients are that convolution, and that convolution's weight gradient.
  vjp: ([x, w, bias], dy, { attributes }) => {
    const { sizes: _, ...geometry } = attributes as Geometry & { sizes: number[] };
    return [
      apply(convOp, [dy, w!], geometry),
      weightGradient(dy, x!, geometry, spatial('conv', w!)),
      bias && biasGradient(dy),
    ];
  },
  batch: batchConvolution,
};

/** The smallest size a transposed convolution can have: strides swallow up to stride − 1 elements more. */
function smallest({ strides, padding, dilations }: Geometry, from: number[], kernel: number[], i: number): number {
  return (from[i]! - 1) * strides[i]! - 2 * padding[i]! + dilations[i]! * (kernel[i]! - 1) + 1;
}

/**
 * The adjoint of a convolution. With stride 1 it is a convolution as well, by mirrored weights: the runtime's kernel for
 * that is up to three times as fast as its transposed one (see docs/decisions/0004-convolution.md).
 */
function transposed(
  x: Tensor,
  w: Tensor,
  geometry: Geometry,
  sizes: readonly number[],
  ...bias: readonly Tensor[]
): Tensor {
  const { strides, dilations, padding, group } = geometry;
  const around = spatial('conv', w).map((size, i) => dilations[i]! * (size - 1) - padding[i]!);
  if (strides.some((stride) => stride !== 1) || around.some((pad) => pad < 0)) {
    return apply(transposeOp, [x, w, ...bias], { ...geometry, sizes });
  }
  const mirrored = apply(mirrorOp, [w], { rows: (w.shape[0] as number) / group });
  return apply(convOp, [x, mirrored, ...bias], { ...geometry, padding: around });
}

const mirrorOp: Op = {
  name: 'MirrorWeight',
  /** The weight of the adjoint, `rows` outputs a group: [groups · rows, in, ...] -> [groups · in, rows, ...back to front] */
  shape: ([w], { rows }) => {
    const [out, inner, ...kernel] = w!.shape as [Dim, number, ...number[]];
    const groups = quotient(out, rows as number)!;
    return { dtype: w!.dtype, shape: [product([groups, inner]), rows as number, ...kernel] };
  },
  emit: (context, node, [w]) => {
    const rows = node.attributes.rows as number;
    const [, inner, ...kernel] = node.inputs[0]!.shape as number[];
    const taps = kernel.reduce((total, size) => total * size, 1);
    const whole = (...values: number[]) => context.constant(hostTensor('int64', [values.length], values));
    const swap = (x: string) => context.node('Transpose', [x], { perm: [0, 2, 1] })[0]!;
    // Two swaps of whole matrices, and rows taken back to front between them: the runtime has quick ways for both, but
    // not for turning the short runs of taps about where they stand.
    const columns = swap(context.node('Reshape', [w!, whole(-1, rows, inner! * taps)])[0]!);
    const [tapped] = context.node('Reshape', [columns, whole(-1, taps, rows)]);
    const backwards = whole(...Array.from({ length: taps }, (_, tap) => taps - 1 - tap));
    const [turned] = taps === 1 ? [tapped] : context.node('Gather', [tapped!, backwards], { axis: 1 });
    const swapped = swap(turned!);
    return context.node('Reshape', [swapped, whole(-1, rows, ...kernel)]);
  },
  vjp: ([w], dy) => [apply(mirrorOp, [dy], { rows: w!.shape[1]! })],
  batch: ([w], { node, size }) => {
    const merged = reshape(w!, [product(w!.shape.slice(0, 2)), ...w!.shape.slice(2)]);
    return reshape(apply(mirrorOp, [merged], node.attributes), [size, ...node.outputs[0]!.shape]);
  },
};

const weightGradientOp: Op = {
  name: 'ConvWeightGradient',
  /** x [n, in, ...size], dy [n, out, ...] -> [out, in / groups, ...kernel] */
  shape: ([x, dy], attributes) => {
    const { group, kernel } = attributes as WeightGradient;
    return { dtype: x!.dtype, shape: [dy!.shape[1]!, (x!.shape[1] as number) / group, ...kernel] };
  },
  emit: (context, node, [x, dy]) => emitWeightGradient(context, node, x!, dy!),
  // Linear in both: the convolution's own two other gradients.
  vjp: ([x, dy], dw, { attributes }) => {
    const { kernel: _, ...geometry } = attributes as WeightGradient;
    return [transposed(dy!, dw, geometry, spatial('conv', x!)), apply(convOp, [x!, dw], geometry)];
  },
  batch: batchWeightGradient(batchAndChannelsSwapped),
};

/**
 * Σ over batch and places of input times cotangent: the gradient of a convolution to its weight. An operator by itself,
 * so that however it is computed, its own gradients are plain convolutions again.
 *
 * @returns [out, in / groups, ...kernel]
 */
function weightGradient(x: Tensor, dy: Tensor, geometry: Geometry, kernel: number[]): Tensor {
  const { padding, dilations } = geometry;
  const besideImage = kernel.some((taps, i) => padding[i]! > dilations[i]! * (taps - 1)); // some windows meet padding only
  if (dilations.at(-1) !== 1 || besideImage) return batchAndChannelsSwapped(x, dy, { ...geometry, kernel });
  return apply(weightGradientOp, [x, dy], { ...geometry, kernel });
}

/** The weight gradient as a convolution with batch and channels changing places, and stride and dilation as well. */
function batchAndChannelsSwapped(
  x: Tensor,
  dy: Tensor,
  { strides, padding, dilations, group, kernel }: WeightGradient,
): Tensor {
  const [n, channels, ...sizes] = x.shape as [Dim, number, ...number[]];
  const axes = sizes.map((_, i) => i + 3);
  const split = reshape(x, [n, group, channels / group, ...sizes]);
  const images = transpose(split, [2, 1, 0, ...axes]); // [in / groups, groups, n, ...]
  const swapped = reshape(images, [channels / group, group === 1 ? n : -1, ...sizes]);
  const kernels = transpose(dy, [1, 0, ...sizes.map((_, i) => i + 2)]); // [out, n, ...]
  const full = apply(convOp, [swapped, kernels], { strides: dilations, padding, dilations: strides, group });
  const cut = kernel.reduce((y, size, i) => slice(y, i + 2, 0, size), full);
  return transpose(cut, [1, 0, ...sizes.map((_, i) => i + 2)]);
}

/** Σ over batch and places, one number a channel. */
function biasGradient(dy: Tensor): Tensor {
  return sum(dy, { axes: dy.shape.flatMap((_, axis) => (axis === 1 ? [] : [axis])) });
}

function requireBias(what: string, bias: Tensor | undefined, out: Dim): void {
  if (bias && (bias.rank !== 1 || bias.shape[0] !== out)) {
    throw new EngineError('SHAPE_MISMATCH', `${what}: bias ${showShape(bias.shape)} does not fit ${out} channels`);
  }
}

/**
 * Convolution over one or two spatial axes (more work as well).
 *
 * @param x      [batch, in, ...size]
 * @param weight [out, in / groups, ...kernel]
 * @param bias   [out]
 * @param options.padding as well [before, after] for each axis, where the two differ
 * @returns      [batch, out, ...size']
 * @throws EngineError SHAPE_MISMATCH
 */
export function conv(
  x: Tensor,
  weight: Tensor,
  bias?: Tensor,
  options: Omit<ConvolutionOptions, 'padding'> & { readonly padding?: Padding } = {},
): Tensor {
  const { x: input, padding } = evenPadding(x, options.padding ?? 0);
  const geometry = geometryOf({ ...options, padding }, x.rank - 2);
  return apply(convOp, bias ? [input, weight, bias] : [input, weight], geometry as Attributes);
}

/**
 * Transposed convolution: the adjoint of `conv` with the same options.
 *
 * @param weight [in, out / groups, ...kernel]
 * @param options.outputPadding elements more at the end of each axis; 0 when left out
 */
export function convTranspose(
  x: Tensor,
  weight: Tensor,
  bias?: Tensor,
  options: ConvolutionOptions & { readonly outputPadding?: number } = {},
): Tensor {
  const geometry = geometryOf(options, x.rank - 2);
  const from = spatial('convTranspose', x);
  const kernel = spatial('convTranspose', weight);
  const sizes = from.map((_, i) => smallest(geometry, from, kernel, i) + (options.outputPadding ?? 0));
  return transposed(x, weight, geometry, sizes, ...(bias ? [bias] : []));
}
