import { product } from '../dims.js';
import { elementCount, hostTensor, onnxType } from '../host-tensor.js';
import { withSource } from '../source.js';
import type { EmitContext, Node, Op, Tensor } from '../tensor.js';
import { apply, applyAll, constant } from '../tensor.js';
import { sub } from './arithmetic.js';
import type { Window } from './block-pooling.js';
import { maxBlockOp, poolAttributes, windows } from './block-pooling.js';
import { conv } from './convolution.js';
import { relu } from './elementwise.js';
import { scatterAdd, tableStarts } from './indexing.js';
import { mean } from './reduce.js';
import { reshape } from './shape.js';
import type { PoolingOptions } from './windows.js';
import { maxOfWindows, meanOfWindows, squareOf, windowsOf } from './windows.js';

export type { PoolingOptions } from './windows.js';

/**
 * The places of the largest elements, for WebGPU, whose MaxPool has none: each place of the window in turn is compared
 * with the maximum, the last first, so that ties go to the first.
 */
function placesOf(context: EmitContext, { inputs, outputs, attributes }: Node, x: string, values: string): string {
  const { kernel, stride, padding } = attributes as Window;
  const sizes = inputs[0]!.shape.slice(2) as number[];
  const out = outputs[0]!.shape.slice(2) as number[];
  const ints = (list: readonly number[]) => context.constant(hostTensor('int64', [list.length], list));
  const one = (type: string, ...names: string[]) => context.node(type, names)[0]!;
  const around = [0, 0, ...sizes.map(() => padding)];
  const lowest = context.constant(hostTensor('float32', [], [-3.4e38]));
  const padded = padding === 0 ? x : one('Pad', x, ints([...around, ...around]), lowest);
  const axes = ints(sizes.map((_, i) => i + 2));
  let places: string | undefined;
  for (let at = kernel ** sizes.length - 1; at >= 0; at--) {
    const offset = sizes.map((_, i) => Math.floor(at / kernel ** (sizes.length - 1 - i)) % kernel);
    // Where this place of each window lies in the image without its padding.
    const flat = indices(out).map((window) =>
      window.reduce((index, w, i) => index * sizes[i]! + w * stride + offset[i]! - padding, 0),
    );
    const here = context.constant(hostTensor('int32', [1, 1, ...out], flat));
    const ends = ints(offset.map((from, i) => from + (out[i]! - 1) * stride + 1));
    const candidate = one('Slice', padded, ints(offset), ends, axes, ints(sizes.map(() => stride)));
    places = places === undefined ? here : one('Where', one('Equal', candidate, values), here, places);
  }
  const image = context.constant(hostTensor('int32', [], [elementCount(sizes)]));
  const number = (value: number) => context.constant(hostTensor('int32', [], [value]));
  const [images] = context.node('Reshape', [context.dim(product(inputs[0]!.shape.slice(0, 2))), ints([])]);
  const [count] = context.node('Cast', [images!], { to: onnxType.int32 });
  const starts = one('Mul', one('Range', number(0), count!, number(1)), image);
  const shaped = one('Reshape', starts, context.shape([...inputs[0]!.shape.slice(0, 2), ...out.map(() => 1)]));
  return context.node('Cast', [one('Add', places!, shaped)], { to: onnxType.int64 })[0]!;
}

/** All index tuples below `sizes`, the last running fastest. */
function indices(sizes: readonly number[]): number[][] {
  return sizes.reduce<number[][]>(
    (all, size) => all.flatMap((head) => Array.from({ length: size }, (_, i) => [...head, i])),
    [[]],
  );
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
    return [values!, placesOf(context, node, inputs[0]!, values!)];
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
