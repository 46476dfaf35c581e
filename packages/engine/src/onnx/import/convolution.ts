/** Convolution, pooling and padding. */
import { isSymbolic, product as sizeOf } from '../../dims.js';
import { hostTensor } from '../../host-tensor.js';
import { add, expand } from '../../ops/arithmetic.js';
import { normalizeAxis } from '../../ops/broadcast.js';
import { conv, convTranspose } from '../../ops/convolution.js';
import { concat, pad, slice } from '../../ops/indexing.js';
import type { PoolingOptions } from '../../ops/pooling.js';
import { averagePool, maxPool } from '../../ops/pooling.js';
import { max, mean } from '../../ops/reduce.js';
import { reshape, transpose } from '../../ops/shape.js';
import type { Tensor } from '../../tensor.js';
import { constant, scalar } from '../../tensor.js';
import type { NodeContext, OperatorTable } from './context.js';
import { gatherAxis } from './shape.js';

interface Window {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  readonly before: readonly number[];
  readonly after: readonly number[];
}

/** Sizes of the spatial axes. @throws EngineError SIZE_UNKNOWN when one is symbolic */
function sizesOf(n: NodeContext, x: Tensor): number[] {
  const sizes = x.shape.slice(2);
  const symbol = sizes.find(isSymbolic);
  if (symbol !== undefined) {
    throw n.error('SIZE_UNKNOWN', `it takes known spatial sizes, not [${x.shape.join(', ')}]; ${n.advice(symbol)}`);
  }
  if (sizes.length === 0) throw n.error('SHAPE_MISMATCH', `[${x.shape.join(', ')}] has no spatial axes`);
  return sizes as number[];
}

function windowOf(n: NodeContext, sizes: readonly number[], kernel: readonly number[]): Window {
  const axes = sizes.length;
  const each = (name: string, fallback: number) => {
    const given = n.ints(name) ?? Array<number>(axes).fill(fallback);
    if (given.length !== axes || given.some((value) => value < 1)) throw n.error('ONNX_INVALID', `${name} [${given}]`);
    return given;
  };
  if (kernel.length !== axes) throw n.error('SHAPE_MISMATCH', `a kernel of [${kernel}] over sizes [${sizes}]`);
  const strides = each('strides', 1);
  const dilations = each('dilations', 1);
  const auto = n.string('auto_pad', 'NOTSET');
  if (auto === 'SAME_UPPER' || auto === 'SAME_LOWER') {
    const total = sizes.map((size, i) =>
      Math.max(0, (Math.ceil(size / strides[i]!) - 1) * strides[i]! + dilations[i]! * (kernel[i]! - 1) + 1 - size),
    );
    const small = total.map((count) => Math.floor(count / 2));
    const large = total.map((count) => Math.ceil(count / 2));
    const [before, after] = auto === 'SAME_UPPER' ? [small, large] : [large, small];
    return { kernel, strides, dilations, before, after };
  }
  const pads = (auto === 'VALID' ? undefined : n.ints('pads')) ?? Array<number>(2 * axes).fill(0);
  if (pads.length !== 2 * axes || pads.some((value) => value < 0)) throw n.error('ONNX_INVALID', `pads [${pads}]`);
  return { kernel, strides, dilations, before: pads.slice(0, axes), after: pads.slice(axes) };
}

const sameList = (a: readonly number[], b: readonly number[]) => a.every((value, i) => value === b[i]);
const uniform = (list: readonly number[]) => list.every((value) => value === list[0]);

/** [before, after] of each axis. */
const padsOf = ({ before, after }: Window): [number, number][] => before.map((count, i) => [count, after[i]!]);

function padAxis(x: Tensor, axis: number, before: number, after: number, fill: number): Tensor {
  const size = x.shape[axis] as number;
  const kept = before < 0 || after < 0 ? slice(x, axis, Math.max(0, -before), size - Math.max(0, -after)) : x;
  const [front, back] = [Math.max(0, before), Math.max(0, after)];
  if (front + back === 0) return kept;
  if (fill === 0) return pad(kept, axis, front, (kept.shape[axis] as number) + front + back);
  const block = (count: number) =>
    expand(
      scalar(fill, x.dtype),
      kept.shape.map((dim, i) => (i === axis ? count : dim)),
    );
  return concat([...(front > 0 ? [block(front)] : []), kept, ...(back > 0 ? [block(back)] : [])], axis);
}

function convolved(n: NodeContext): Tensor {
  const [input, weight] = [n.in(0), n.in(1)];
  const window = windowOf(n, sizesOf(n, input), sizesOf(n, weight));
  const { strides: stride, dilations: dilation } = window;
  return conv(input, weight, n.optional(2), {
    stride,
    dilation,
    padding: padsOf(window),
    groups: n.int('group', 1),
  });
}

function convolvedBack(n: NodeContext): Tensor {
  const [x, weight, bias] = [n.in(0), n.in(1), n.optional(2)];
  const sizes = sizesOf(n, x);
  const kernel = sizesOf(n, weight);
  const given = n.ints('output_shape');
  if (given || n.string('auto_pad', 'NOTSET').startsWith('SAME')) throw n.unsupported('output_shape or auto_pad');
  const { strides: stride, dilations: dilation, before, after } = windowOf(n, sizes, kernel);
  const extra = n.ints('output_padding') ?? sizes.map(() => 0);
  const options = { stride, dilation, groups: n.int('group', 1) };
  if (sameList(before, after) && uniform(extra)) {
    return convTranspose(x, weight, bias, { ...options, padding: before, outputPadding: extra[0] });
  }
  // The whole of it, then cut or filled on each side.
  const whole = convTranspose(x, weight, undefined, options);
  const y = before.reduce((z, count, i) => padAxis(z, i + 2, -count, extra[i]! - after[i]!, 0), whole);
  return bias ? add(y, reshape(bias, [bias.shape[0]!, ...sizes.map(() => 1)])) : y;
}

function poolingOf(n: NodeContext): PoolingOptions {
  const window = windowOf(n, sizesOf(n, n.in(0)), n.ints('kernel_shape') ?? []);
  return {
    kernel: window.kernel,
    stride: window.strides,
    dilation: window.dilations,
    padding: padsOf(window),
    ceilMode: n.int('ceil_mode', 0) !== 0,
  };
}

function largestPooled(n: NodeContext): Tensor {
  if (n.node.output[1]) throw n.unsupported('its second output');
  return maxPool(n.in(0), poolingOf(n));
}

const averagePooled = (n: NodeContext): Tensor =>
  averagePool(n.in(0), { ...poolingOf(n), countIncludePad: n.int('count_include_pad', 0) !== 0 });

const spatialAxes = (x: Tensor) => x.shape.slice(2).map((_, i) => i + 2);

/** Indices along an axis for the modes that repeat elements of the tensor. */
function mirrored(mode: string, size: number, before: number, after: number): number[] | undefined {
  const at: Record<string, (i: number) => number> = {
    edge: (i) => Math.min(Math.max(i, 0), size - 1),
    wrap: (i) => ((i % size) + size) % size,
    reflect: (i) => {
      const period = 2 * (size - 1);
      const inside = size === 1 ? 0 : ((i % period) + period) % period;
      return inside < size ? inside : period - inside;
    },
  };
  const index = Object.hasOwn(at, mode) ? at[mode] : undefined;
  return index && Array.from({ length: size + before + after }, (_, i) => index(i - before));
}

function padded(n: NodeContext): Tensor {
  const x = n.in(0);
  const mode = n.string('mode', 'constant');
  const pads = n.has(1) ? n.numbers(1, 'pads') : (n.ints('pads') ?? []);
  const fill = n.has(2) ? n.number(2, 'constant value') : n.float('value', 0);
  const axes = (n.has(3) ? n.numbers(3, 'axes') : [...x.shape.keys()]).map((axis) =>
    normalizeAxis(n.label, axis, x.rank),
  );
  if (pads.length !== 2 * axes.length) throw n.error('ONNX_INVALID', `${pads.length} pads for ${axes.length} axes`);
  return axes.reduce((y, axis, i) => {
    const [before, after] = [pads[i]!, pads[i + axes.length]!];
    if (before === 0 && after === 0) return y;
    const size = y.shape[axis]!;
    if (isSymbolic(size))
      throw n.error('SIZE_UNKNOWN', `axis ${axis} to pad has the symbolic size ${size}; ${n.advice(size)}`);
    const total = size + before + after;
    if (!(total > 0 && total < 2 ** 31))
      throw n.error('ONNX_INVALID', `pads [${pads}] leave ${total} of ${size} elements`);
    if (mode === 'constant') return padAxis(y, axis, before, after, fill);
    const indices = before < 0 || after < 0 || total > 1e6 ? undefined : mirrored(mode, size, before, after);
    if (!indices) throw n.unsupported(`mode "${mode}" with pads [${pads}]`);
    return gatherAxis(y, constant(hostTensor('int64', [indices.length], indices)), axis);
  }, x);
}

/** [batch, b² c, h, w] <-> [batch, c, b h, b w] */
function depthToSpace(n: NodeContext): Tensor {
  const x = n.in(0);
  const b = n.int('blocksize');
  const [batch, channels, h, w] = x.shape;
  if (typeof channels !== 'number' || b < 1 || channels % (b * b) !== 0 || x.rank !== 4) {
    throw n.error('SHAPE_MISMATCH', `[${x.shape}] in blocks of ${b}`);
  }
  const c = channels / (b * b);
  const column = n.string('mode', 'DCR') === 'CRD';
  const split = reshape(x, column ? [batch!, c, b, b, h!, w!] : [batch!, b, b, c, h!, w!]);
  const moved = transpose(split, column ? [0, 1, 4, 2, 5, 3] : [0, 3, 4, 1, 5, 2]);
  return reshape(moved, [batch!, c, ...[h!, w!].map((dim) => sizeOf([b, dim]))]);
}

function spaceToDepth(n: NodeContext): Tensor {
  const x = n.in(0);
  const b = n.int('blocksize');
  const [batch, channels] = x.shape;
  const [h, w] = sizesOf(n, x) as [number, number];
  if (b < 1 || h % b !== 0 || w % b !== 0 || x.rank !== 4)
    throw n.error('SHAPE_MISMATCH', `[${x.shape}] in blocks of ${b}`);
  const split = reshape(x, [batch!, channels!, h / b, b, w / b, b]);
  const moved = transpose(split, [0, 3, 5, 1, 2, 4]);
  return reshape(moved, [batch!, sizeOf([b * b, channels!]), h / b, w / b]);
}

export const convolutionOperators: OperatorTable = {
  Conv: { trace: convolved, note: 'one or two spatial axes of known size' },
  ConvTranspose: { trace: convolvedBack, note: 'one or two spatial axes of known size' },
  MaxPool: { trace: largestPooled, note: 'first output only' },
  AveragePool: { trace: averagePooled },
  GlobalAveragePool: { trace: (n) => mean(n.in(0), { axes: spatialAxes(n.in(0)), keepDims: true }) },
  GlobalMaxPool: { trace: (n) => max(n.in(0), { axes: spatialAxes(n.in(0)), keepDims: true }) },
  Pad: { trace: padded, note: 'constant, reflect, edge, wrap' },
  DepthToSpace: { trace: depthToSpace },
  SpaceToDepth: { trace: spaceToDepth },
};
