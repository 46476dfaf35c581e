/** Quantised values: a frozen weight is turned back into floats; QuantizeLinear lets gradients straight through. */
import type { Dim } from '../../dims.js';
import { isSymbolic } from '../../dims.js';
import type { DType } from '../../host-tensor.js';
import { add, div, expand, sub } from '../../ops/arithmetic.js';
import { normalizeAxis } from '../../ops/broadcast.js';
import { cast, maximum, minimum } from '../../ops/compare.js';
import { stopGradient } from '../../ops/control.js';
import { round } from '../../ops/elementwise.js';
import { linearNBits } from '../../ops/matmul-nbits.js';
import { dequantize } from '../../ops/quantize.js';
import { reshape } from '../../ops/shape.js';
import type { Tensor } from '../../tensor.js';
import { dtypeOf } from '../model.js';
import type { NodeContext, OperatorTable } from './context.js';

/** What a traced quantised tensor was made from, for the straight-through estimator. */
const sources = new WeakMap<Tensor, Tensor>();

const ranges: Partial<Record<DType, readonly [number, number]>> = { int8: [-128, 127], uint8: [0, 255] };

/** Scale or zero point, laid out to broadcast against `x`: for all of it, for an axis, or for blocks of one. */
function laidOut(n: NodeContext, part: Tensor, x: Tensor): Tensor {
  if (part.rank === 0 || (part.rank === 1 && part.shape[0] === 1)) return reshape(part, []);
  const axis = normalizeAxis(n.label, n.int('axis', 1), x.rank);
  if (part.rank === 1) {
    return reshape(
      part,
      x.shape.map((_, i) => (i === axis ? part.shape[0]! : 1)),
    );
  }
  const block = n.int('block_size', 0);
  const [size, count] = [x.shape[axis], part.shape[axis]];
  if (
    part.rank !== x.rank ||
    block < 1 ||
    size === undefined ||
    count === undefined ||
    isSymbolic(size) ||
    size !== block * (count as number)
  ) {
    throw n.error('SHAPE_MISMATCH', `a scale [${part.shape}] does not fit [${x.shape}] in blocks of ${block}`);
  }
  const spread: Dim[] = part.shape.flatMap((dim, i) => (i === axis ? [dim, 1] : [dim]));
  const wide: Dim[] = part.shape.flatMap((dim, i) => (i === axis ? [dim, block] : [dim]));
  return reshape(expand(reshape(part, spread), wide), x.shape);
}

function dequantized(n: NodeContext): Tensor {
  const [x, scale] = [n.in(0), n.in(1)];
  const y = dequantize(x, laidOut(n, scale, x), n.has(2) ? laidOut(n, n.in(2), x) : undefined);
  const source = sources.get(x);
  return source ? add(source, stopGradient(sub(y, source))) : y;
}

/** com.microsoft.MatMulNBits: a frozen weight of 4 or 8 bits in blocks. */
function productOfBits(n: NodeContext): Tensor {
  const [outer, inner, bits, block] = [n.int('N'), n.int('K'), n.int('bits', 4), n.int('block_size')];
  if (n.has(4)) throw n.unsupported('its order of groups (g_idx)');
  if (bits !== 4 && bits !== 8) throw n.unsupported(`${bits} bits`);
  if (n.value(0).shape.at(-1) !== inner || block < 1)
    throw n.error('SHAPE_MISMATCH', `[${n.value(0).shape}] for K = ${inner}`);
  const blocks = Math.ceil(inner / block);
  if (n.has(3) && n.value(3).dtype !== 'uint8') throw n.unsupported('zero points that are not packed');
  const weight = {
    packed: reshape(n.in(1), [outer, blocks, (block * bits) / 8]),
    scales: reshape(n.in(2), [outer, blocks]),
    zeroPoints: n.has(3) ? reshape(n.in(3), [outer, Math.ceil((blocks * bits) / 8)]) : undefined,
    bits,
  } as const;
  const { zeroPoints, ...rest } = weight;
  return linearNBits(n.in(0), zeroPoints ? { ...rest, zeroPoints } : rest, n.optional(5));
}

function quantized(n: NodeContext): Tensor {
  const [x, scale] = [n.in(0), n.in(1)];
  const dtype = n.has(2) ? n.value(2).dtype : (dtypeOf(n.int('output_dtype', 2)) ?? 'uint8');
  const range = ranges[dtype];
  if (!range) throw n.unsupported(`a quantisation to ${dtype}`);
  const ratio = round(div(stopGradient(x), laidOut(n, scale, x)));
  const moved = n.has(2) ? add(ratio, laidOut(n, cast(n.in(2), x.dtype), x)) : ratio;
  const y = cast(minimum(maximum(moved, range[0]), range[1]), dtype);
  sources.set(y, x);
  return y;
}

export const quantizeOperators: OperatorTable = {
  DequantizeLinear: { trace: dequantized, note: 'a frozen weight, for all, an axis or blocks' },
  'com.microsoft.MatMulNBits': { trace: productOfBits, note: '4 or 8 bits; gradient to the activation' },
  QuantizeLinear: { trace: quantized, note: 'int8 and uint8; straight-through gradient' },
};
