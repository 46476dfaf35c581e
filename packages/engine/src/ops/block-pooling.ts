/** Pooling of windows that lie side by side, and cover nothing twice: what the gradient needs is elementwise. */
import type { Dim } from '../dims.js';
import { knownSizes, product } from '../dims.js';
import type { DType, HostTensor } from '../host-tensor.js';
import { hostTensor } from '../host-tensor.js';
import type { BatchRule, Node, Op, Tensor } from '../tensor.js';
import { apply, constant } from '../tensor.js';
import { mul, sub } from './arithmetic.js';
import { elementwise } from './batching.js';
import { stopGradient } from './control.js';
import { pad, slice } from './indexing.js';
import { reshape } from './shape.js';

type Window = { kernel: number; stride: number; padding: number };

/** [batch, channels, ...sizes] -> [batch, channels, ...windows] */
function windows(x: Tensor, { kernel, stride, padding }: Window): Dim[] {
  const sizes = knownSizes('maxPool', x.shape.slice(2), x.shape).map(
    (size) => Math.floor((size + 2 * padding - kernel) / stride) + 1,
  );
  return [...x.shape.slice(0, 2), ...sizes];
}

function poolAttributes(node: Node) {
  const { kernel, stride, padding } = node.attributes as Window;
  const axes = node.inputs[0]!.rank - 2;
  const each = (value: number, count = axes) => Array<number>(count).fill(value);
  return { kernel_shape: each(kernel), strides: each(stride), pads: each(padding, 2 * axes) };
}

/** Each image by itself: a batch of batches is one batch. */
const imageByImage: BatchRule = ([x], { node, size }) => {
  const images = reshape(x!, [product(x!.shape.slice(0, 2)), ...x!.shape.slice(2)]);
  return reshape(apply(node.op, [images], node.attributes), [size, ...node.outputs[0]!.shape]);
};

/**
 * Largest element of windows that lie side by side. The runtime finds maxima six times as fast without their places, and
 * the places come back from a comparison where a gradient asks for them.
 */
export const maxBlockOp: Op = {
  name: 'MaxBlock',
  shape: ([x], attributes) => ({ dtype: x!.dtype, shape: windows(x!, attributes as Window) }),
  emit: (context, node, inputs) => context.node('MaxPool', inputs, poolAttributes(node)),
  vjp: ([x], dy, { outputs: [y], attributes }) => {
    const { kernel } = attributes as Window;
    const covered = y!.shape.map((dim, axis) => (axis < 2 ? dim : (dim as number) * kernel));
    const inside = covered
      .slice(2)
      .reduce<Tensor>((z, size, i) => slice(z, i + 2, 0, size as number), stopGradient(x!));
    const dx = mul(firstMaxima(inside, stopGradient(y!), attributes as Window), repeatEach(dy, kernel));
    return [x!.shape.slice(2).reduce<Tensor>((z, size, i) => pad(z, i + 2, 0, size), dx)];
  },
  batch: imageByImage,
};

/** 1 at the first of the largest elements of each block of `x`, else 0; `y` are those largest elements. */
function firstMaxima(x: Tensor, y: Tensor, window: Window): Tensor {
  const { kernel } = window;
  // 1 where z reaches what it is compared with, 0 below: the one in a single pass over their difference.
  const reaches = (z: Tensor, top: Tensor) => apply(notNegativeOp, [sub(z, repeatEach(top, kernel))]);
  const sizes = x.shape.slice(2) as number[];
  const ranked = mul(reaches(x, y), constant(countdown(x.dtype, sizes, kernel)));
  return reaches(ranked, apply(maxBlockOp, [ranked], window));
}

/** Inside every block kernel^axes, …, 2, 1 in the order of memory. */
function countdown(dtype: DType, sizes: readonly number[], kernel: number): HostTensor {
  const key = `${dtype} ${sizes} ${kernel}`;
  const found = countdowns.get(key);
  if (found) return found;
  const count = sizes.reduce((a, b) => a * b, 1);
  const values = Array.from({ length: count }, (_, place) => {
    let [rest, step, rank] = [place, 1, 0];
    for (const size of [...sizes].reverse()) {
      rank += ((rest % size) % kernel) * step;
      rest = Math.floor(rest / size);
      step *= kernel;
    }
    return step - rank;
  });
  const made = hostTensor(dtype, [1, 1, ...sizes], values);
  countdowns.set(key, made);
  return made;
}
const countdowns = new Map<string, HostTensor>();

/** 1 where x is 0, 0 where it is below by any float: a steep hard sigmoid, faster than comparison and conversion. */
const notNegativeOp: Op = {
  name: 'NotNegative',
  shape: ([x]) => x!,
  emit: (context, _, [x]) => context.node('HardSigmoid', [x!], { alpha: 1e30, beta: 1 }),
  vjp: () => [undefined],
  batch: elementwise,
};

/** Every element repeated `factor` times along every axis of an image. */
const repeatOp: Op = {
  name: 'RepeatEach',
  shape: ([x], { factor }) => ({
    dtype: x!.dtype,
    shape: x!.shape.map((dim, axis) => (axis < 2 ? dim : (dim as number) * (factor as number))),
  }),
  emit: (context, node, [x]) => {
    const { rank } = node.inputs[0]!;
    const scales = Array.from({ length: rank }, (_, axis) => (axis < 2 ? 1 : (node.attributes.factor as number)));
    return context.node('Resize', [x!, '', context.constant(hostTensor('float32', [rank], scales))], {
      mode: 'nearest',
      nearest_mode: 'floor',
      coordinate_transformation_mode: 'asymmetric',
    });
  },
  vjp: (_, dy, { attributes: { factor } }) => [apply(blockSumOp, [dy], { kernel: factor, stride: factor, padding: 0 })],
  batch: imageByImage,
};
const repeatEach = (x: Tensor, factor: number): Tensor => apply(repeatOp, [x], { factor });

/** Sum of each block; the adjoint of `repeatEach`. */
const blockSumOp: Op = {
  name: 'BlockSum',
  shape: ([x], attributes) => ({ dtype: x!.dtype, shape: windows(x!, attributes as Window) }),
  emit: (context, node, inputs) => {
    const { kernel } = node.attributes as Window;
    const [mean] = context.node('AveragePool', inputs, poolAttributes(node));
    const count = context.constant(hostTensor(node.inputs[0]!.dtype, [], [kernel ** (node.inputs[0]!.rank - 2)]));
    return context.node('Mul', [mean!, count]);
  },
  vjp: (_, dy, { attributes: { kernel } }) => [repeatEach(dy, kernel as number)],
  batch: imageByImage,
};
