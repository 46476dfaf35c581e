import { isSymbolic, product, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import { hostTensor } from '../host-tensor.js';
import type { Op, Tensor } from '../tensor.js';
import { applyAll, constant } from '../tensor.js';
import { sub } from './arithmetic.js';
import { conv } from './convolution.js';
import { scatterAdd, tableStarts } from './indexing.js';
import { mean } from './reduce.js';
import { reshape } from './shape.js';

export interface PoolingOptions {
  readonly kernel: number;
  /** The kernel's size when left out. */
  readonly stride?: number;
  readonly padding?: number;
}

type Window = { kernel: number; stride: number; padding: number };

/** Largest element of each window, with its place in the flattened input as second output. */
const maxPoolOp: Op = {
  name: 'MaxPool',
  shape: ([x], attributes) => {
    const { kernel, stride, padding } = attributes as Window;
    const sizes = x!.shape.slice(2).map((size) => {
      if (isSymbolic(size)) {
        throw new EngineError('SHAPE_MISMATCH', `maxPool takes known sizes, not ${showShape(x!.shape)}`);
      }
      return Math.floor((size + 2 * padding - kernel) / stride) + 1;
    });
    const shape = [...x!.shape.slice(0, 2), ...sizes];
    return [
      { dtype: x!.dtype, shape },
      { dtype: 'int64', shape },
    ];
  },
  emit: (context, node, inputs) => {
    const { kernel, stride, padding } = node.attributes as Window;
    const axes = node.inputs[0]!.rank - 2;
    const each = (value: number, count = axes) => Array<number>(count).fill(value);
    const attributes = { kernel_shape: each(kernel), strides: each(stride), pads: each(padding, 2 * axes) };
    return context.node('MaxPool', inputs, attributes, { outputs: 2 });
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

/** Largest element of each window of [batch, channels, ...sizes]. */
export function maxPool(x: Tensor, { kernel, stride = kernel, padding = 0 }: PoolingOptions): Tensor {
  return applyAll(maxPoolOp, [x], { kernel, stride, padding })[0]!;
}

/** Mean of each window of [batch, channels, ...sizes]; zeros of the padding count. */
export function averagePool(x: Tensor, { kernel, stride = kernel, padding = 0 }: PoolingOptions): Tensor {
  const [batch, channels, ...sizes] = x.shape;
  const window = sizes.map(() => kernel);
  const weights = Array<number>(kernel ** sizes.length).fill(1 / kernel ** sizes.length);
  // Every channel is an image of its own, and a window a convolution with equal weights.
  const images = reshape(x, [-1, 1, ...sizes]);
  const pooled = conv(images, constant(hostTensor(x.dtype, [1, 1, ...window], weights)), undefined, {
    stride,
    padding,
  });
  return reshape(pooled, [batch!, channels!, ...pooled.shape.slice(2)]);
}

/** Mean over all places: [batch, channels, ...sizes] -> [batch, channels]. */
export function globalAveragePool(x: Tensor): Tensor {
  return mean(x, { axes: x.shape.slice(2).map((_, i) => i + 2) });
}
