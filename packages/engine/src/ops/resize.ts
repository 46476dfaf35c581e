/** Resizing, each axis by itself: elements chosen or repeated (nearest), or a product with a small matrix (linear, cubic). */
import { isSymbolic, product, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import { hostTensor } from '../host-tensor.js';
import type { Tensor } from '../tensor.js';
import { constant } from '../tensor.js';
import { expand } from './arithmetic.js';
import { normalizeAxis } from './broadcast.js';
import { cast } from './compare.js';
import { slice } from './indexing.js';
import { matMul } from './matmul.js';
import { reshape, unsqueeze } from './shape.js';

interface Axis {
  readonly axis: number;
  readonly from: number;
  readonly to: number;
  /** Output over input, as it was asked for: not always exactly to / from. */
  readonly scale: number;
}

/** Where an output element lies among the input's; ONNX's names of `coordinate_transformation_mode`. */
const coordinates = {
  half_pixel: (i: number, { scale }: Axis) => (i + 0.5) / scale - 0.5,
  half_pixel_symmetric: (i: number, { from, to, scale }: Axis) =>
    (from / 2) * (1 - to / (scale * from)) + (i + 0.5) / scale - 0.5,
  pytorch_half_pixel: (i: number, { to, scale }: Axis) => (to > 1 ? (i + 0.5) / scale - 0.5 : 0),
  align_corners: (i: number, { from, to }: Axis) => (to === 1 ? 0 : (i * (from - 1)) / (to - 1)),
  asymmetric: (i: number, { scale }: Axis) => i / scale,
} as const;

/** ONNX's names of `nearest_mode`. */
const roundings = {
  round_prefer_floor: (x: number) => Math.ceil(x - 0.5),
  round_prefer_ceil: (x: number) => Math.floor(x + 0.5),
  floor: Math.floor,
  ceil: Math.ceil,
} as const;

export interface ResizeOptions {
  /** The axes; all but the first two (batch and channels) when left out. */
  readonly axes?: readonly number[];
  /** New sizes of those axes; either these or `scales`. */
  readonly sizes?: readonly number[];
  /** Factors on their sizes, which are then rounded down. */
  readonly scales?: number | readonly number[];
  /** 'nearest' when left out. */
  readonly mode?: 'nearest' | 'linear' | 'cubic';
  /** 'half_pixel' when left out. */
  readonly coordinates?: keyof typeof coordinates;
  /** Which neighbour is nearest: 'round_prefer_floor' when left out. PyTorch's nearest is 'asymmetric' with 'floor'. */
  readonly rounding?: keyof typeof roundings;
  /** The coefficient of cubic interpolation, −0.75 when left out. */
  readonly cubicCoefficient?: number;
  /** Cubic: neighbours outside have no weight, instead of being the border's elements. */
  readonly excludeOutside?: boolean;
}

/** Keys 1981, "Cubic convolution interpolation", equation 4 with its coefficient as a parameter. */
function cubic(t: number, a: number): number {
  const x = Math.abs(t);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/** Weights of the inputs for each output: [to, from] in rows. */
function weights({ from, to }: Axis, places: readonly number[], options: ResizeOptions): Float64Array {
  const { cubicCoefficient: a = -0.75, excludeOutside = false } = options;
  const byCubic = options.mode === 'cubic';
  const matrix = new Float64Array(to * from);
  for (const [i, place] of places.entries()) {
    const x = byCubic ? place : Math.min(Math.max(place, 0), from - 1);
    const base = Math.floor(x);
    const row = (byCubic ? [-1, 0, 1, 2] : [0, 1]).map((tap) => {
      const weight = byCubic ? cubic(x - base - tap, a) : 1 - Math.abs(x - base - tap);
      const inside = base + tap >= 0 && base + tap < from;
      return { at: Math.min(Math.max(base + tap, 0), from - 1), weight: inside || !excludeOutside ? weight : 0 };
    });
    const total = byCubic && excludeOutside ? row.reduce((sum, { weight }) => sum + weight, 0) : 1;
    for (const { at, weight } of row) matrix[i * from + at]! += weight / total;
  }
  return matrix;
}

/** A matrix [to, from] times one axis: its own transpose is the gradient, and so on in any order. */
function multiplyAxis(x: Tensor, { axis, from, to }: Axis, matrix: Float64Array): Tensor {
  const type = x.dtype === 'float64' ? 'float64' : 'float32';
  const factor = cast(constant(hostTensor(type, [to, from], [...matrix])), x.dtype);
  if (axis === x.rank - 1) return matMul(x, factor, { transposeB: true });
  const [before, after] = [x.shape.slice(0, axis), x.shape.slice(axis + 1)];
  const y = matMul(factor, reshape(x, [product(before), from, product(after)]));
  return reshape(y, [...before, to, ...after]);
}

function chooseAxis(
  x: Tensor,
  axis: Axis,
  places: readonly number[],
  { rounding = 'round_prefer_floor' }: ResizeOptions,
) {
  const { axis: at, from, to } = axis;
  const chosen = places.map((place) => Math.min(Math.max(roundings[rounding](place), 0), from - 1));
  const times = to / from;
  if (Number.isInteger(times) && chosen.every((index, i) => index === Math.floor(i / times))) {
    const wide = [...x.shape.slice(0, at + 1), times, ...x.shape.slice(at + 1)];
    return reshape(expand(unsqueeze(x, at + 1), wide), [...x.shape.slice(0, at), to, ...x.shape.slice(at + 1)]);
  }
  const step = to > 1 ? chosen[1]! - chosen[0]! : 1;
  if (step > 0 && chosen.every((index, i) => index === chosen[0]! + i * step)) {
    return slice(x, at, chosen[0]!, chosen.at(-1)! + 1, step);
  }
  const matrix = new Float64Array(to * from);
  for (const [i, index] of chosen.entries()) matrix[i * from + index] = 1;
  return multiplyAxis(x, axis, matrix);
}

function axesOf(x: Tensor, options: ResizeOptions): Axis[] {
  const axes = options.axes ?? [...x.shape.keys()].slice(2);
  const { sizes, scales } = options;
  const factors = typeof scales === 'number' ? axes.map(() => scales) : scales;
  const given = sizes ?? factors;
  if (!given || (sizes && scales !== undefined) || given.length !== axes.length) {
    throw new EngineError(
      'ARGUMENT_INVALID',
      `resize takes sizes or scales, one for each of ${axes.length} axes of ${showShape(x.shape)}`,
    );
  }
  return axes.flatMap((raw, i) => {
    const axis = normalizeAxis('resize', raw, x.rank);
    const from = x.shape[axis]!;
    if (factors && factors[i] === 1) return [];
    if (isSymbolic(from)) {
      throw new EngineError('SHAPE_MISMATCH', `resize: axis ${axis} of ${showShape(x.shape)} has no known size`);
    }
    const to = sizes ? sizes[i]! : Math.floor(from * factors![i]!);
    if (!Number.isInteger(to) || to < 1 || from * to > 1e8) {
      throw new EngineError('ARGUMENT_INVALID', `resize: axis ${axis} of ${from} elements cannot become ${to}`);
    }
    return [{ axis, from, to, scale: sizes ? to / from : factors![i]! }];
  });
}

/**
 * A tensor of other sizes along some axes, as ONNX's Resize and PyTorch's `interpolate` make it. Other axes may be
 * symbolic.
 *
 * @param x [batch, channels, ...sizes], or any with `axes`
 * @throws EngineError ARGUMENT_INVALID, SHAPE_MISMATCH when a resized axis is symbolic
 */
export function resize(x: Tensor, options: ResizeOptions): Tensor {
  const { mode = 'nearest', coordinates: how = 'half_pixel' } = options;
  return axesOf(x, options).reduce((y, axis) => {
    if (axis.from === axis.to && axis.scale === 1) return y;
    const places = Array.from({ length: axis.to }, (_, i) => coordinates[how](i, axis));
    return mode === 'nearest'
      ? chooseAxis(y, axis, places, options)
      : multiplyAxis(y, axis, weights(axis, places, options));
  }, x);
}
