import {
  cast,
  constant,
  dequantize,
  dequantizeNBits,
  gather,
  type HostTensor,
  hostTensor,
  linear,
  linearNBits,
  linearWritten,
  mul,
  type NBitsWeight,
  reshape,
  slice,
  type Tensor,
  unpackNBits,
  unsqueeze,
} from '@fewtune/engine';
import { heldTensors, isQuantized, nf4Codes, type Quantization } from './quantized-weights.js';

/** A quantised matrix in a graph, or some of its rows. */
interface Parts {
  readonly quantization: Quantization;
  readonly values: Tensor;
  readonly scales: Tensor;
  readonly zeros?: Tensor;
}

/** What a traced weight is held as, where that is not itself. */
const heldAs = new WeakMap<Tensor, Parts>();

/**
 * The weights of a graph whose tensors are those of `heldTensors(weights)`, traced. A quantised matrix stands there as its
 * float32 value, which is computed only where something reads it otherwise than by {@link product} and {@link rows}.
 *
 * @param weights on the host; only how they are held is read
 */
export function tracedWeights(
  weights: Readonly<Record<string, HostTensor>>,
  held: Readonly<Record<string, Tensor>>,
): Record<string, Tensor> {
  const traced: Record<string, Tensor> = {};
  for (const [name, tensor] of Object.entries(weights)) {
    traced[name] = held[name]!;
    if (!isQuantized(tensor)) continue;
    const parts: Parts = {
      quantization: tensor.quantized.quantization,
      values: held[name]!,
      scales: held[`${name}.scale`]!,
      zeros: held[`${name}.zero`],
    };
    const value = written(parts, tensor.shape[1]!);
    heldAs.set(value, parts);
    traced[name] = value;
  }
  return traced;
}

/** The weights as constants of the graph, in the form that they are held in. */
export function constantWeights(weights: Readonly<Record<string, HostTensor>>): Record<string, Tensor> {
  const held = Object.entries(heldTensors(weights)).map(([name, tensor]) => [name, constant(tensor, name)]);
  return tracedWeights(weights, Object.fromEntries(held));
}

/**
 * y = x Wᵀ + b with a weight that may be quantised: through DequantizeLinear (a scale a row) or MatMulNBits (blocks). The
 * gradient flows to x and b.
 *
 * @param x      [..., in]
 * @param weight [out, in]
 * @param bias   [out]
 */
export function product(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  const parts = heldAs.get(weight);
  if (!parts) return linear(x, weight, bias);
  const { quantization, values, scales } = parts;
  if (quantization.blockSize !== 'row' && quantization.code === 'affine') return linearNBits(x, packed(parts), bias);
  const columns = weight.shape[1] as number;
  const write = ([values, scales]: readonly Tensor[]) =>
    written({ quantization, values: values!, scales: scales! }, columns);
  return linearWritten(x, [values, scales], write, bias);
}

/**
 * Rows of a table that may be quantised: only these become float32.
 *
 * @param table [rows, columns]
 * @param ids   int64 [...]
 * @returns     [..., columns]
 */
export function rows(table: Tensor, ids: Tensor): Tensor {
  const parts = heldAs.get(table);
  if (!parts) return gather(table, ids);
  const { quantization, values, scales, zeros } = parts;
  const some = { quantization, values: gather(values, ids), scales: gather(scales, ids) };
  return written({ ...some, zeros: zeros && gather(zeros, ids) }, table.shape[1] as number);
}

const packed = ({ quantization: { bits }, values, scales, zeros }: Parts): NBitsWeight => ({
  packed: values,
  scales,
  zeroPoints: zeros,
  bits,
});

/** The float32 values of a matrix, or of some of its rows. */
function written(parts: Parts, columns: number): Tensor {
  const { blockSize, code } = parts.quantization;
  if (blockSize === 'row') return dequantize(parts.values, unsqueeze(parts.scales, -1));
  return code === 'nf4' ? fromCodes(parts, columns) : dequantizeNBits(packed(parts), columns);
}

/** Halves of bytes as places in NF4's table. */
function fromCodes({ values, scales }: Parts, columns: number): Tensor {
  const places = cast(unpackNBits(values, 4), 'int32'); // [..., blocks, block]
  const codes = gather(constant(hostTensor('float32', [16], nf4Codes)), places);
  const [blocks, bytes] = values.shape.slice(-2) as [number, number];
  const flat = reshape(mul(codes, unsqueeze(scales, -1)), [...values.shape.slice(0, -2), blocks * bytes * 2]);
  return columns === blocks * bytes * 2 ? flat : slice(flat, -1, 0, columns);
}
