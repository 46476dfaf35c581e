import { product } from '../dims.js';
import { hostTensor } from '../host-tensor.js';
import { withSource } from '../source.js';
import type { Node, Op, Tensor } from '../tensor.js';
import { apply, applyAll, constant } from '../tensor.js';
import { sub } from './arithmetic.js';
import type { Window } from './block-pooling.js';
import { maxBlockOp, poolAttributes, windows } from './block-pooling.js';
import { conv } from './convolution.js';
import { relu } from './elementwise.js';
import { scatterAdd, tableStarts } from './indexing.js';
import { mean } from './reduce.js';
import { reshape } from './shape.js';
import type { Taps } from './window-places.js';
import { placesOf } from './window-places.js';
import type { PoolingOptions } from './windows.js';
import { maxOfWindows, meanOfWindows, squareOf, windowsOf } from './windows.js';

export type { PoolingOptions } from './windows.js';

/** A square window's numbers, one an axis. */
function spread({ inputs, attributes }: Node): Taps {
  const { kernel, stride, padding } = attributes as Window;
  const each = (value: number) => inputs[0]!.shape.slice(2).map(() => value);
  const [before, after] = [each(padding), each(padding)];
  return { kernel: each(kernel), stride: each(stride), before, after, dilation: each(1) };
}

/** Largest element of each window, with its place in the flattened input as second output. */
const maxPoolOp: Op = {
  name: 'MaxPool',
  shape: ([x], attributes) => {
    const shape = windows(x!, attributes as Window);
    return [
      { dtype: x!.dtype, shape },
      { dtype: 'int64', shape },
    ];
  },
  emit: (context, node, inputs) => {
    const attributes = poolAttributes(node);
    if (context.backend !== 'webgpu') return context.node('MaxPool', inputs, attributes, { outputs: 2 });
    const [values] = context.node('MaxPool', inputs, attributes);
    return [values!, placesOf(context, node, inputs[0]!, values!, spread(node))];
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

/** Largest element of each window of [batch, channels, ...sizes]; the gradient goes to the first of equals, as in PyTorch. */
export function maxPool(x: Tensor, options: PoolingOptions): Tensor {
  // max and ReLU change places freely, and after the pooling there is less to rectify.
  const { op, inputs, source, derived } = x.node;
  if (op.name === 'Relu') {
    const pooled = maxPool(inputs[0]!, options);
    return withSource(source, () => relu(pooled), derived);
  }
  const square = squareOf(options);
  if (!square) return maxOfWindows(x, windowsOf('maxPool', x, options));
  const { kernel, stride, padding } = square;
  const sideBySide = stride === kernel && padding === 0 && x.dtype === 'float32';
  return sideBySide ? apply(maxBlockOp, [x], square) : applyAll(maxPoolOp, [x], square)[0]!;
}

/** Mean of each window of [batch, channels, ...sizes]; zeros of the padding count unless `countIncludePad` is false. */
export function averagePool(x: Tensor, options: PoolingOptions & { readonly countIncludePad?: boolean }): Tensor {
  const { countIncludePad = true } = options;
  const square = squareOf(options);
  if (!square || (square.padding > 0 && !countIncludePad)) {
    return meanOfWindows(x, windowsOf('averagePool', x, options), options, countIncludePad);
  }
  const { kernel, stride, padding } = square;
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
