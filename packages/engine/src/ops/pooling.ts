import { hostTensor } from '../host-tensor.js';
import { withSource } from '../source.js';
import type { Tensor } from '../tensor.js';
import { apply, constant } from '../tensor.js';
import { maxBlockOp } from './block-pooling.js';
import { conv } from './convolution.js';
import { relu } from './elementwise.js';
import { mean } from './reduce.js';
import { reshape } from './shape.js';
import type { PoolingOptions } from './windows.js';
import { maxOfWindows, meanOfWindows, squareOf, windowsOf } from './windows.js';

export type { PoolingOptions } from './windows.js';

/** Largest element of each window of [batch, channels, ...sizes]; the gradient goes to the first of equals, as in PyTorch. */
export function maxPool(x: Tensor, options: PoolingOptions): Tensor {
  // max and ReLU change places freely, and after the pooling there is less to rectify.
  const { op, inputs, source, derived } = x.node;
  if (op.name === 'Relu') {
    const pooled = maxPool(inputs[0]!, options);
    return withSource(source, () => relu(pooled), derived);
  }
  const square = squareOf(options);
  const sideBySide = square && square.stride === square.kernel && square.padding === 0 && x.dtype === 'float32';
  return sideBySide ? apply(maxBlockOp, [x], square) : maxOfWindows(x, windowsOf('maxPool', x, options));
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
