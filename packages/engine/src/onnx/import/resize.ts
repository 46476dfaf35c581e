/** Resize: each axis by itself, as a choice of elements (nearest) or a product with a small matrix (linear, cubic). */
import { isSymbolic } from '../../dims.js';
import { hostTensor } from '../../host-tensor.js';
import { matMul } from '../../ops/matmul.js';
import { transpose } from '../../ops/shape.js';
import type { Tensor } from '../../tensor.js';
import { constant } from '../../tensor.js';
import type { NodeContext, OperatorTable } from './context.js';
import { gatherAxis } from './shape.js';

interface Axis {
  readonly axis: number;
  readonly from: number;
  readonly to: number;
  /** output / input, as the file says it: not always exactly to / from. */
  readonly scale: number;
}

/** Where an output element lies among the input's. Names are those of coordinate_transformation_mode. */
const coordinates: Record<string, (i: number, axis: Axis) => number> = {
  half_pixel: (i, { scale }) => (i + 0.5) / scale - 0.5,
  half_pixel_symmetric: (i, { from, to, scale }) => {
    const centre = from / 2;
    return centre * (1 - to / (scale * from)) + (i + 0.5) / scale - 0.5;
  },
  pytorch_half_pixel: (i, { to, scale }) => (to > 1 ? (i + 0.5) / scale - 0.5 : 0),
  align_corners: (i, { from, to }) => (to === 1 ? 0 : (i * (from - 1)) / (to - 1)),
  asymmetric: (i, { scale }) => i / scale,
};

const roundings: Record<string, (x: number) => number> = {
  round_prefer_floor: (x) => Math.ceil(x - 0.5),
  round_prefer_ceil: (x) => Math.floor(x + 0.5),
  floor: Math.floor,
  ceil: Math.ceil,
};

/** Keys 1981, "Cubic convolution interpolation", equation 4 with its coefficient as a parameter. */
function cubic(t: number, a: number): number {
  const x = Math.abs(t);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function resizedAxes(n: NodeContext): Axis[] {
  const { shape } = n.value(0);
  const given = (i: number, what: string) => (n.has(i) ? n.numbers(i, what) : []);
  // Before opset 11 the scales were the second input.
  const scales = n.opset < 11 ? given(1, 'scales') : given(2, 'scales');
  const sizes = n.opset < 11 ? [] : given(3, 'sizes');
  const axes = n.ints('axes') ?? [...shape.keys()];
  const list = sizes.length > 0 ? sizes : scales;
  if (list.length !== axes.length)
    throw n.error('ONNX_INVALID', `${list.length} scales or sizes for ${axes.length} axes`);
  if (n.string('keep_aspect_ratio_policy', 'stretch') !== 'stretch') throw n.unsupported('keep_aspect_ratio_policy');
  return axes.flatMap((raw, i) => {
    const axis = raw < 0 ? raw + shape.length : raw;
    const from = shape[axis];
    if (list[i] === 1 && sizes.length === 0) return [];
    if (from === undefined) throw n.error('ONNX_INVALID', `axis ${raw} is outside [${shape}]`);
    if (isSymbolic(from)) {
      throw n.error('SIZE_UNKNOWN', `axis ${axis} to resize has the symbolic size ${from}; ${n.advice(from)}`);
    }
    const to = sizes.length > 0 ? sizes[i]! : Math.floor(from * list[i]!);
    if (!(to >= 1 && to <= 1e5)) throw n.unsupported(`a size of ${to}`);
    return to === from ? [] : [{ axis, from, to, scale: sizes.length > 0 ? to / from : list[i]! }];
  });
}

/** Weights of the inputs for each output: [to, from] in rows. */
function weights(n: NodeContext, axis: Axis, place: (i: number) => number): Float32Array {
  const { from, to } = axis;
  const cubicMode = n.string('mode', 'nearest') === 'cubic';
  const a = n.float('cubic_coeff_a', -0.75);
  const outside = n.int('exclude_outside', 0) !== 0;
  const matrix = new Float32Array(to * from);
  for (let i = 0; i < to; i++) {
    const x = cubicMode ? place(i) : Math.min(Math.max(place(i), 0), from - 1);
    const base = Math.floor(x);
    const taps = cubicMode ? [-1, 0, 1, 2] : [0, 1];
    const row = taps.map((tap) => {
      const weight = cubicMode ? cubic(x - base - tap, a) : 1 - Math.abs(x - base - tap);
      const inside = base + tap >= 0 && base + tap < from;
      return { at: Math.min(Math.max(base + tap, 0), from - 1), weight: inside || !outside ? weight : 0 };
    });
    const total = cubicMode && outside ? row.reduce((sum, { weight }) => sum + weight, 0) : 1;
    for (const { at, weight } of row) matrix[i * from + at]! += weight / total;
  }
  return matrix;
}

function resized(n: NodeContext): Tensor {
  const mode = n.string('mode', 'nearest');
  const how = n.string('coordinate_transformation_mode', n.opset < 11 ? 'asymmetric' : 'half_pixel');
  const rounding = n.string('nearest_mode', n.opset < 11 ? 'floor' : 'round_prefer_floor');
  if (!Object.hasOwn(coordinates, how) || !Object.hasOwn(roundings, rounding)) {
    throw n.unsupported(`coordinate_transformation_mode "${how}" with nearest_mode "${rounding}"`);
  }
  if (n.int('antialias', 0) !== 0) throw n.unsupported('antialias');
  return resizedAxes(n).reduce((x, axis) => {
    const place = (i: number) => coordinates[how]!(i, axis);
    if (mode === 'nearest') {
      const indices = Array.from({ length: axis.to }, (_, i) =>
        Math.min(Math.max(roundings[rounding]!(place(i)), 0), axis.from - 1),
      );
      return gatherAxis(x, constant(hostTensor('int64', [axis.to], indices)), axis.axis);
    }
    if (axis.from * axis.to > 1e7) throw n.unsupported(`${axis.from} to ${axis.to} elements`);
    const matrix = constant(hostTensor('float32', [axis.to, axis.from], weights(n, axis, place)));
    const order = Array.from({ length: x.rank }, (_, i) => i).filter((i) => i !== axis.axis);
    const last = transpose(x, [...order, axis.axis]);
    const back = Array.from({ length: x.rank }, (_, i) => (i === axis.axis ? x.rank - 1 : i < axis.axis ? i : i - 1));
    return transpose(matMul(last, matrix, { transposeB: true }), back);
  }, n.in(0));
}

export const resizeOperators: OperatorTable = {
  Resize: { trace: resized, note: 'nearest, linear, cubic; known sizes on the resized axes' },
  Upsample: { trace: resized },
};
