/** Windows that slide over an image: sizes, strides, paddings and dilations of their own along each axis. */
import { knownSizes, product, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import { hostTensor } from '../host-tensor.js';
import type { Op, Tensor } from '../tensor.js';
import { applyAll, constant } from '../tensor.js';
import { mul, sub } from './arithmetic.js';
import { conv } from './convolution.js';
import { scatterAdd, tableStarts } from './indexing.js';
import type { Padding } from './padding.js';
import { paddingOf, padZeros } from './padding.js';
import { reshape } from './shape.js';
import { largestOf, placesOf } from './window-places.js';

export interface PoolingOptions {
  /** One for every spatial axis, or one an axis. */
  readonly kernel: number | readonly number[];
  /** The kernel's size when left out. */
  readonly stride?: number | readonly number[];
  /** On both sides, or [before, after] for each axis; 0 when left out. */
  readonly padding?: Padding;
  /** 1 when left out. */
  readonly dilation?: number | readonly number[];
  /** A last window that hangs over the end counts, if it begins before it. */
  readonly ceilMode?: boolean;
}

/** The options of a pooling for a given input, one number an axis; plain lists, so that they can be attributes. */
export type Windows = {
  kernel: number[];
  stride: number[];
  before: number[];
  /** Padding that windows reach into: as much as was asked for, or more or less. */
  after: number[];
  dilation: number[];
  /** How many windows. */
  count: number[];
};

/** @throws EngineError SHAPE_MISMATCH, SIZE_UNKNOWN, ARGUMENT_INVALID */
export function windowsOf(what: string, x: Tensor, options: PoolingOptions): Windows {
  if (x.rank < 3) {
    throw new EngineError('SHAPE_MISMATCH', `${what} takes [batch, channels, ...sizes], not ${showShape(x.shape)}`);
  }
  const sizes = knownSizes(what, x.shape.slice(2), x.shape);
  const each = (value: number | readonly number[]) => (typeof value === 'number' ? sizes.map(() => value) : [...value]);
  const kernel = each(options.kernel);
  const [stride, dilation] = [each(options.stride ?? kernel), each(options.dilation ?? 1)];
  const pads = paddingOf(options.padding ?? 0, sizes.length);
  const before = pads.map(([first]) => first);
  const span = kernel.map((size, i) => dilation[i]! * (size - 1) + 1);
  const count = sizes.map((size, i) => {
    const room = size + pads[i]![0] + pads[i]![1] - span[i]!;
    const all = (options.ceilMode ? Math.ceil(room / stride[i]!) : Math.floor(room / stride[i]!)) + 1;
    return options.ceilMode && (all - 1) * stride[i]! >= size + before[i]! ? all - 1 : all;
  });
  const lists = [kernel, stride, dilation, pads];
  if (lists.some((list) => list.length !== sizes.length) || !count.every((windows) => windows >= 1)) {
    throw new EngineError(
      'ARGUMENT_INVALID',
      `${what}: windows of ${JSON.stringify(options)} do not fit ${showShape(x.shape)}`,
    );
  }
  const after = sizes.map((size, i) => Math.max(0, (count[i]! - 1) * stride[i]! + span[i]! - size - before[i]!));
  return { kernel, stride, before, after, dilation, count };
}

/** [p, p] is p. */
const evened = (pad: unknown): unknown => (Array.isArray(pad) && pad[0] === pad[1] ? pad[0] : pad);

/** The options in the form that most poolings have: the same along every axis, without dilation. */
export function squareOf(options: PoolingOptions): { kernel: number; stride: number; padding: number } | undefined {
  const same = (value: number | readonly unknown[] | undefined, fallback: number) => {
    const list = typeof value === 'object' ? value.map(evened) : [value ?? fallback];
    return list.every((one) => one === list[0]) && typeof list[0] === 'number' ? list[0] : undefined;
  };
  const kernel = same(options.kernel, 1);
  const stride = same(options.stride, kernel ?? 1);
  const padding = same(options.padding, 0);
  if (kernel === undefined || stride === undefined || padding === undefined) return undefined;
  return same(options.dilation, 1) === 1 && !options.ceilMode ? { kernel, stride, padding } : undefined;
}

const maxPoolOp: Op = {
  name: 'MaxPool',
  shape: ([x], { count }) => {
    const shape = [...x!.shape.slice(0, 2), ...(count as number[])];
    return [
      { dtype: x!.dtype, shape },
      { dtype: 'int64', shape },
    ];
  },
  emit: (context, node, inputs) => {
    const { kernel, stride, before, after, dilation } = node.attributes as Windows;
    const attributes = { kernel_shape: kernel, strides: stride, pads: [...before, ...after], dilations: dilation };
    if (context.backend !== 'webgpu') return context.node('MaxPool', inputs, attributes, { outputs: 2 });
    // WebGPU's kernel is for images without dilation, and never says the places.
    const native = kernel.length === 2 && dilation.every((step) => step === 1);
    const values = native
      ? context.node('MaxPool', inputs, attributes)[0]!
      : largestOf(context, node, inputs[0]!, node.attributes as Windows);
    return [values, placesOf(context, node, inputs[0]!, values, node.attributes as Windows)];
  },
  // Ties go to the first, as the runtime and PyTorch decide them.
  vjp: ([x], dy, { outputs: [, places] }) => {
    const flat = scatterAdd(reshape(dy, [-1]), reshape(places!, [-1]), product(x!.shape));
    return [reshape(flat, x!.shape)];
  },
  batch: ([x], { node, size }) => {
    const { shape } = node.outputs[0]!;
    const images = reshape(x!, [product(x!.shape.slice(0, 2)), ...x!.shape.slice(2)]);
    const [values, places] = applyAll(maxPoolOp, [images], node.attributes).map((y) => reshape(y, [size, ...shape]));
    // Places are counted over all images; each example counts its own.
    return [values!, sub(places!, tableStarts(size, product(node.inputs[0]!.shape), shape.length))];
  },
};

/** Largest element of any windows; `maxPool` calls it where its fast ways do not serve. */
export const maxOfWindows = (x: Tensor, windows: Windows): Tensor => applyAll(maxPoolOp, [x], windows)[0]!;

/** Mean of any windows: their sums as a convolution, over the number of elements inside. */
export function meanOfWindows(x: Tensor, windows: Windows, options: PoolingOptions, countIncludePad: boolean): Tensor {
  const { kernel, stride, before, after, dilation, count } = windows;
  const [batch, channels, ...sizes] = x.shape as [number, number, ...number[]];
  const asked = paddingOf(options.padding ?? 0, sizes.length);
  const inside = sizes.map((size, i) => (countIncludePad ? [-asked[i]![0], size + asked[i]![1]] : [0, size]));
  // How many elements of each window count, axis by axis.
  const counts = count.map((windowCount, i) =>
    Array.from({ length: windowCount }, (_, window) => {
      const start = window * stride[i]! - before[i]!;
      const taps = Array.from({ length: kernel[i]! }, (_, tap) => start + tap * dilation[i]!);
      return taps.filter((at) => at >= inside[i]![0]! && at < inside[i]![1]!).length;
    }),
  );
  const shares = counts.reduce<number[]>((all, list) => all.flatMap((a) => list.map((b) => a * b)), [1]);
  const full = kernel.reduce((a, b) => a * b, 1);
  const even = shares.every((share) => share === shares[0]);
  const weight = hostTensor(x.dtype, [1, 1, ...kernel], Array(full).fill(even ? 1 / shares[0]! : 1));
  // Every channel is an image of its own.
  const images = padZeros(reshape(x, [-1, 1, ...sizes]), before, after);
  const sums = conv(images, constant(weight), undefined, { stride, dilation });
  const means = even
    ? sums
    : mul(
        sums,
        constant(
          hostTensor(
            x.dtype,
            [1, 1, ...count],
            shares.map((share) => 1 / Math.max(share, 1)),
          ),
        ),
      );
  return reshape(means, [batch, channels, ...count]);
}
