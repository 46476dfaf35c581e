import { isSymbolic } from '../../dims.js';
import type { ResizeOptions } from '../../ops/resize.js';
import { resize } from '../../ops/resize.js';
import type { Tensor } from '../../tensor.js';
import type { NodeContext, OperatorTable } from './context.js';

/** A file may ask for any size; the matrix of one axis, [to, from], is made while tracing. */
const largestMatrix = 1e7;

const modes = ['nearest', 'linear', 'cubic'];
const transformations = ['half_pixel', 'half_pixel_symmetric', 'pytorch_half_pixel', 'align_corners', 'asymmetric'];
const roundings = ['round_prefer_floor', 'round_prefer_ceil', 'floor', 'ceil'];

function chosen(n: NodeContext, name: string, value: string, among: readonly string[]): never {
  if (!among.includes(value)) throw n.unsupported(`${name} "${value}"`);
  return value as never;
}

function resized(n: NodeContext): Tensor {
  const x = n.in(0);
  // Upsample, and Resize before opset 11, have their scales as second input.
  const old = n.opset < 11 || n.node.opType === 'Upsample';
  const given = (i: number, what: string) => (n.has(i) ? n.numbers(i, what) : []);
  const scales = old ? given(1, 'scales') : given(2, 'scales');
  const sizes = old ? [] : given(3, 'sizes');
  if (n.string('keep_aspect_ratio_policy', 'stretch') !== 'stretch') throw n.unsupported('keep_aspect_ratio_policy');
  if (n.int('antialias', 0) !== 0) throw n.unsupported('antialias');
  const all = n.ints('axes') ?? [...x.shape.keys()];
  const list = sizes.length > 0 ? sizes : scales;
  if (list.length !== all.length) {
    throw n.error('ONNX_INVALID', `${list.length} scales or sizes for ${all.length} axes`);
  }
  const kept = all.flatMap((raw, i) => {
    const axis = raw < 0 ? raw + x.rank : raw;
    const from = x.shape[axis];
    const same = sizes.length > 0 ? list[i] === from : list[i] === 1;
    if (same || from === undefined) return [];
    if (isSymbolic(from))
      throw n.error('SIZE_UNKNOWN', `axis ${axis} to resize is symbolic (${from}); ${n.advice(from)}`);
    const to = sizes.length > 0 ? list[i]! : from * list[i]!;
    if (!(to * from <= largestMatrix)) throw n.unsupported(`${from} to ${to} elements along an axis`);
    return [i];
  });
  const options: ResizeOptions = {
    axes: kept.map((i) => all[i]!),
    [sizes.length > 0 ? 'sizes' : 'scales']: kept.map((i) => list[i]!),
    mode: chosen(n, 'mode', n.string('mode', 'nearest'), modes),
    coordinates: chosen(
      n,
      'coordinate_transformation_mode',
      n.string('coordinate_transformation_mode', old ? 'asymmetric' : 'half_pixel'),
      transformations,
    ),
    rounding: chosen(n, 'nearest_mode', n.string('nearest_mode', old ? 'floor' : 'round_prefer_floor'), roundings),
    cubicCoefficient: n.float('cubic_coeff_a', -0.75),
    excludeOutside: n.int('exclude_outside', 0) !== 0,
  };
  return resize(x, options);
}

export const resizeOperators: OperatorTable = {
  Resize: { trace: resized, note: 'nearest, linear, cubic; known sizes on the resized axes' },
  Upsample: { trace: resized },
};
