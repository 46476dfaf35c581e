import { type HostTensor, hostTensor, quantizeNBits } from '@fewtune/engine';
import { ModelError } from './errors.js';
import { quantizeRows } from './quantized-rows.js';

/** How a frozen matrix is held. */
export interface Quantization {
  readonly bits: 8 | 4;
  /** Values along a row that share a scale: a power of two from 16 on, or `row`, the whole row (8 bits only). */
  readonly blockSize: number | 'row';
  /** Zero in the middle of the range; otherwise each block has a zero point of its own. */
  readonly symmetric: boolean;
  /**
   * What the whole numbers stand for: equal steps (`affine`), or the 16 quantiles of a normal distribution, `nf4`
   * (Dettmers et al. 2023, section 3, arXiv:2305.14314).
   */
  readonly code: 'affine' | 'nf4';
}

/** A matrix W [rows, columns] in whole numbers. */
export interface QuantizedMatrix {
  readonly quantization: Quantization;
  /**
   * int8 [rows, columns] where a whole row shares a scale; otherwise uint8 [rows, blocks, bytes a block], with 4 bits the
   * even element of a pair in the lower half of the byte.
   */
  readonly values: HostTensor;
  /** float32 [rows] or [rows, blocks] */
  readonly scales: HostTensor;
  /** uint8 [rows, ⌈blocks · bits / 8⌉], packed likewise; absent where symmetric. */
  readonly zeros?: HostTensor;
}

/**
 * A float32 weight that is held quantised. Its numbers are made when `data` is read, and let go when nobody holds them: what
 * wants an ordinary weight finds one, and no float copy of all of them stays.
 */
export interface QuantizedTensor extends HostTensor {
  readonly quantized: QuantizedMatrix;
}

export const isQuantized = (tensor: HostTensor): tensor is QuantizedTensor => 'quantized' in tensor;

/**
 * The options with what is left out: 8 bits with a scale a row, 4 bits in blocks of 32 with zero points, NF4 in blocks of 64.
 *
 * @throws ModelError QUANTIZATION_INVALID
 */
export function quantizationOf(options: Partial<Quantization> = {}): Quantization {
  const { code = 'affine' } = options;
  const { bits = code === 'nf4' ? 4 : 8 } = options;
  const { blockSize = code === 'nf4' ? 64 : bits === 8 ? 'row' : 32 } = options;
  const { symmetric = code === 'nf4' || blockSize === 'row' } = options;
  const refuse = (what: string) => new ModelError('QUANTIZATION_INVALID', `a base is not quantised with ${what}`);
  if (bits !== 8 && bits !== 4) throw refuse(`${String(bits)} bits; use 8 or 4.`);
  if (blockSize === 'row' && bits !== 8) throw refuse('4 bits and one scale a row; use blocks, e.g. of 32.');
  if (blockSize !== 'row' && !(blockSize >= 16 && Number.isInteger(Math.log2(blockSize)))) {
    throw refuse(`blocks of ${blockSize}; use a power of two from 16 on, or 'row' with 8 bits.`);
  }
  if (blockSize === 'row' && !symmetric) throw refuse('zero points of whole rows; use blocks, or symmetric rows.');
  if (code !== 'affine' && code !== 'nf4') throw refuse(`the code ${String(code)}; use 'affine' or 'nf4'.`);
  if (code === 'nf4' && (bits !== 4 || !symmetric)) throw refuse('nf4 but 4 symmetric bits.');
  return { bits, blockSize, symmetric, code };
}

/**
 * The matrices of an encoder that are quantised: linear layers, words and positions. Tables of a few rows are left as they are.
 */
export function isQuantizable(name: string, { dtype, shape }: Pick<HostTensor, 'dtype' | 'shape'>): boolean {
  return (
    dtype === 'float32' &&
    shape.length === 2 &&
    name.endsWith('.weight') &&
    !/token_type_embeddings|relative_attention_bias/.test(name)
  );
}

/**
 * Weights with the matrices held quantised; norms, biases and token types as they are.
 *
 * @param weights float32, by their names in the checkpoint
 * @throws ModelError QUANTIZATION_INVALID
 */
export function quantizeWeights(
  weights: Readonly<Record<string, HostTensor>>,
  options: Partial<Quantization> = {},
): Record<string, HostTensor> {
  const quantization = quantizationOf(options);
  const held = ([name, weight]: [string, HostTensor]) =>
    [name, isQuantizable(name, weight) ? quantizeTensor(weight, quantization) : weight] as const;
  return Object.fromEntries(Object.entries(weights).map(held));
}

/** @param weight float32 [rows, columns]; one that is held so already stays */
export function quantizeTensor(weight: HostTensor, quantization: Quantization): QuantizedTensor {
  if (isQuantized(weight) && sameQuantization(weight.quantized.quantization, quantization)) return weight;
  return heldQuantized({ quantization, ...partsOf(weight, quantization) }, weight.shape as [number, number]);
}

const sameQuantization = (a: Quantization, b: Quantization): boolean =>
  a.bits === b.bits && a.blockSize === b.blockSize && a.symmetric === b.symmetric && a.code === b.code;

/** The float32 weight [rows, columns] that a quantised matrix stands for. */
export function heldQuantized(quantized: QuantizedMatrix, shape: readonly [number, number]): QuantizedTensor {
  let kept: WeakRef<Float32Array> | undefined;
  return {
    dtype: 'float32',
    shape,
    quantized,
    get data() {
      const known = kept?.deref();
      if (known) return known;
      const made = dequantized(quantized, shape);
      kept = new WeakRef(made);
      return made;
    },
  };
}

type Parts = Omit<QuantizedMatrix, 'quantization'>;

function partsOf(weight: HostTensor, { bits, blockSize, symmetric, code }: Quantization): Parts {
  if (blockSize === 'row') return quantizeRows(weight);
  if (code === 'nf4') return quantizeNf4(weight, blockSize);
  const { packed, scales, zeroPoints } = quantizeNBits(weight, { bits, blockSize, symmetric });
  return { values: packed, scales, ...(zeroPoints && { zeros: zeroPoints }) };
}

/** NF4's 16 values, as its authors' program has them: quantiles of a normal distribution, in ±1, with an exact 0. */
export const nf4Codes = Float32Array.of(
  -1,
  -0.6961928009986877,
  -0.5250730514526367,
  -0.39491748809814453,
  -0.28444138169288635,
  -0.18477343022823334,
  -0.09105003625154495,
  0,
  0.07958029955625534,
  0.16093020141124725,
  0.24611230194568634,
  0.33791524171829224,
  0.44070982933044434,
  0.5626170039176941,
  0.7229568362236023,
  1,
);

/** Each block over its largest magnitude, each value by the nearest code. */
function quantizeNf4(weight: HostTensor, blockSize: number): Parts {
  const [rows, columns] = weight.shape as [number, number];
  const source = weight.data as Float32Array;
  const blocks = Math.ceil(columns / blockSize);
  const packed = new Uint8Array((rows * blocks * blockSize) / 2);
  const scales = new Float32Array(rows * blocks);
  for (let at = 0; at < rows * blocks; at++) {
    const [row, block] = [Math.floor(at / blocks), at % blocks];
    const start = row * columns + block * blockSize;
    const part = source.subarray(start, Math.min(start + blockSize, (row + 1) * columns));
    let largest = 0;
    for (const value of part) largest = Math.max(largest, Math.abs(value));
    const scale = largest || 1;
    scales[at] = scale;
    for (let i = 0; i < blockSize; i++) {
      const code = nearestCode((part[i] ?? 0) / scale);
      packed[(at * blockSize + i) >> 1]! |= code << (4 * (i % 2));
    }
  }
  return {
    values: hostTensor('uint8', [rows, blocks, blockSize / 2], packed),
    scales: hostTensor('float32', [rows, blocks], scales),
  };
}

/** Halfway between neighbouring codes. */
const codeBounds = Array.from({ length: 15 }, (_, i) => (nf4Codes[i]! + nf4Codes[i + 1]!) / 2);

function nearestCode(value: number): number {
  let [low, high] = [0, 15];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (value > codeBounds[middle]!) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The float32 values, as the quantised layers compute with them. */
function dequantized(
  { quantization: { bits, blockSize, code }, values, scales: { data }, zeros }: QuantizedMatrix,
  [rows, columns]: readonly [number, number],
): Float32Array {
  const packed = values.data as Int8Array | Uint8Array;
  const scales = data as Float32Array;
  const result = new Float32Array(rows * columns);
  if (blockSize === 'row') {
    for (let row = 0, i = 0; row < rows; row++) {
      for (const end = i + columns; i < end; i++) result[i] = packed[i]! * scales[row]!;
    }
    return result;
  }
  const blocks = Math.ceil(columns / blockSize);
  const wholeAt = (bytes: ArrayLike<number>, at: number) =>
    bits === 8 ? bytes[at]! : (bytes[at >> 1]! >> (4 * (at % 2))) & 15;
  const zeroRow = zeros ? zeros.shape[1]! * (8 / bits) : 0;
  for (let row = 0; row < rows; row++) {
    for (let block = 0; block < blocks; block++) {
      const scale = scales[row * blocks + block]!;
      const zero = zeros ? wholeAt(zeros.data as Uint8Array, row * zeroRow + block) : 2 ** (bits - 1);
      const from = (row * blocks + block) * blockSize;
      const to = row * columns + block * blockSize;
      const count = Math.min(blockSize, columns - block * blockSize);
      for (let i = 0; i < count; i++) {
        const whole = wholeAt(packed, from + i);
        result[to + i] = (code === 'nf4' ? nf4Codes[whole]! : whole - zero) * scale;
      }
    }
  }
  return result;
}

/** Bytes that weights take as they are held. */
export function heldBytes(weights: Readonly<Record<string, HostTensor>>): number {
  return Object.values(heldTensors(weights)).reduce((sum, { data }) => sum + data.byteLength, 0);
}

/**
 * The tensors that weights are held as: of a quantised matrix `<name>`, its whole numbers, `<name>.scale` and, where it has
 * them, `<name>.zero`; all others under their names.
 */
export function heldTensors(weights: Readonly<Record<string, HostTensor>>): Record<string, HostTensor> {
  const held: Record<string, HostTensor> = {};
  for (const [name, tensor] of Object.entries(weights)) {
    const { values, scales, zeros } = isQuantized(tensor) ? tensor.quantized : { values: tensor };
    held[name] = values;
    if (scales) held[`${name}.scale`] = scales;
    if (zeros) held[`${name}.zero`] = zeros;
  }
  return held;
}
