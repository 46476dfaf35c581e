import type { Dim } from '../dims.js';
import { isSymbolic, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import type { Attributes, Op, Tensor } from '../tensor.js';
import { apply } from '../tensor.js';
import { add } from './arithmetic.js';
import { batchConvolution } from './convolution-batching.js';
import { slice } from './indexing.js';
import { reshape, transpose } from './shape.js';

export interface ConvolutionOptions {
  /** One for every spatial axis, or one a axis; 1 when left out. */
  readonly stride?: number | readonly number[];
  /** Zeros on both sides; 0 when left out. */
  readonly padding?: number | readonly number[];
  readonly dilation?: number | readonly number[];
  readonly groups?: number;
}

type Geometry = { strides: number[]; padding: number[]; dilations: number[]; group: number };

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
  if (sizes.length === 0 || sizes.some(isSymbolic)) {
    throw new EngineError(
      'SHAPE_MISMATCH',
      `${what} takes [batch, channels, ...sizes] with known sizes, not ${showShape(x.shape)}`,
    );
  }
  return sizes as number[];
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
  /** x [n, in, ...size], w [out, in / groups, ...kernel] -> [n, out, ...] */
  shape: ([x, w], attributes) => {
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
    return { dtype: x!.dtype, shape: [x!.shape[0]!, out, ...sizes] };
  },
  emit: (context, node, inputs) => context.node('Conv', inputs, onnxAttributes(node.attributes as Geometry)),
  vjp: ([x, w], dy, { attributes }) => [
    transposed(dy, w!, attributes as Geometry, spatial('conv', x!)),
    weightGradient(x!, dy, attributes as Geometry, spatial('conv', w!)),
  ],
  batch: batchConvolution,
};

const transposeOp: Op = {
  name: 'ConvTranspose',
  /** x [n, in, ...], w [in, out / groups, ...kernel] -> [n, out, ...sizes] */
  shape: ([x, w], attributes) => {
    const { group, sizes } = attributes as Geometry & { sizes: number[] };
    return { dtype: x!.dtype, shape: [x!.shape[0]!, (w!.shape[1] as number) * group, ...sizes] };
  },
  emit: (context, node, inputs) => {
    const geometry = node.attributes as Geometry & { sizes: number[] };
    const [x, w] = node.inputs as [Tensor, Tensor];
    const from = spatial('convTranspose', x);
    const kernel = spatial('convTranspose', w);
    const extra = geometry.sizes.map((size, i) => size - smallest(geometry, from, kernel, i));
    return context.node('ConvTranspose', inputs, { ...onnxAttributes(geometry), output_padding: extra });
  },
  // The adjoint of a convolution: its gradients are that convolution, and that convolution's weight gradient.
  vjp: ([x, w], dy, { attributes }) => {
    const { sizes: _, ...geometry } = attributes as Geometry & { sizes: number[] };
    return [apply(convOp, [dy, w!], geometry), weightGradient(dy, x!, geometry, spatial('conv', w!))];
  },
  batch: batchConvolution,
};

/** The smallest size a transposed convolution can have: strides swallow up to stride − 1 elements more. */
function smallest({ strides, padding, dilations }: Geometry, from: number[], kernel: number[], i: number): number {
  return (from[i]! - 1) * strides[i]! - 2 * padding[i]! + dilations[i]! * (kernel[i]! - 1) + 1;
}

function transposed(x: Tensor, w: Tensor, geometry: Geometry, sizes: readonly number[]): Tensor {
  return apply(transposeOp, [x, w], { ...geometry, sizes });
}

/**
 * Σ over batch and places of input times cotangent: itself a convolution, with batch and channels changing places and
 * stride and dilation as well. Groups stay groups, so it is closed under differentiation for every geometry.
 *
 * @returns [out, in / groups, ...kernel]
 */
function weightGradient(
  x: Tensor,
  dy: Tensor,
  { strides, padding, dilations, group }: Geometry,
  kernel: readonly number[],
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

function withBias(y: Tensor, bias?: Tensor): Tensor {
  if (!bias) return y;
  return add(y, reshape(bias, [bias.shape[0]!, ...y.shape.slice(2).map(() => 1)]));
}

/**
 * Convolution over one or two spatial axes (more work as well).
 *
 * @param x      [batch, in, ...size]
 * @param weight [out, in / groups, ...kernel]
 * @param bias   [out]
 * @returns      [batch, out, ...size']
 * @throws EngineError SHAPE_MISMATCH
 */
export function conv(x: Tensor, weight: Tensor, bias?: Tensor, options: ConvolutionOptions = {}): Tensor {
  return withBias(apply(convOp, [x, weight], geometryOf(options, x.rank - 2) as Attributes), bias);
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
  return withBias(transposed(x, weight, geometry, sizes), bias);
}
