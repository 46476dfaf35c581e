import { EngineError } from './errors.js';
import { fromFloat16, toFloat16 } from './float16.js';

/** Element types by their NumPy names, with the number ONNX gives them (TensorProto.DataType). */
export const onnxType = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  float64: 11,
  uint32: 12,
} as const;

export type DType = keyof typeof onnxType;

export type TypedArray =
  | Float32Array
  | Float64Array
  | Uint8Array
  | Int8Array
  | Int32Array
  | Uint32Array
  | Uint16Array
  | BigInt64Array;

type TypedArrayConstructor = {
  readonly BYTES_PER_ELEMENT: number;
  new (length: number): TypedArray;
  new (buffer: ArrayBufferLike, byteOffset?: number, length?: number): TypedArray;
};

/** How each dtype is held in memory: bool as bytes, float16 as its 16 bits. */
export const arrayType: Readonly<Record<DType, TypedArrayConstructor>> = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  int64: BigInt64Array,
  int32: Int32Array,
  uint32: Uint32Array,
  uint8: Uint8Array,
  int8: Int8Array,
  bool: Uint8Array,
};

/** A tensor in the host's memory: row-major data with its shape. */
export interface HostTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: TypedArray;
}

export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

/** @throws EngineError SHAPE_MISMATCH when `data` does not hold exactly the elements of `shape`. */
export function hostTensor(dtype: DType, shape: readonly number[], data: TypedArray | readonly number[]): HostTensor {
  const array = Array.isArray(data) ? fromNumbers(dtype, data as readonly number[]) : (data as TypedArray);
  if (array.length !== elementCount(shape)) {
    throw new EngineError(
      'SHAPE_MISMATCH',
      `a ${dtype} tensor of shape [${shape.join(', ')}] holds ${elementCount(shape)} elements, but ${array.length} were given`,
    );
  }
  return { dtype, shape: [...shape], data: array };
}

/** A tensor of zeros. */
export function zeros(dtype: DType, shape: readonly number[]): HostTensor {
  return { dtype, shape: [...shape], data: new arrayType[dtype](elementCount(shape)) };
}

function fromNumbers(dtype: DType, values: readonly number[]): TypedArray {
  if (dtype === 'int64') return BigInt64Array.from(values, (value) => BigInt(value));
  if (dtype === 'float16') return toFloat16(values);
  const array = new arrayType[dtype](values.length);
  for (let i = 0; i < values.length; i++) (array as Float64Array)[i] = values[i]!;
  return array;
}

/**
 * The same numbers as another float dtype: float16 is rounded to nearest, ties to even, and is infinite beyond 65504.
 *
 * @throws EngineError DTYPE_MISMATCH when one of the two is no float
 */
export function convertFloat(tensor: HostTensor, dtype: DType): HostTensor {
  const { dtype: from, shape, data } = tensor;
  if (from === dtype) return tensor;
  for (const given of [from, dtype]) {
    if (!given.startsWith('float')) throw new EngineError('DTYPE_MISMATCH', `convertFloat takes floats, not ${given}`);
  }
  const values = from === 'float16' ? fromFloat16(data as Uint16Array) : (data as Float32Array);
  if (dtype === 'float16') return hostTensor(dtype, shape, toFloat16(values));
  return hostTensor(dtype, shape, dtype === 'float64' ? Float64Array.from(values) : Float32Array.from(values));
}

/** The raw little-endian bytes, without a copy. */
export function bytesOf(tensor: HostTensor): Uint8Array {
  return new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
}

/** Reads `bytes` as `dtype`; copies only where alignment demands it. */
export function typedArrayOf(dtype: DType, bytes: Uint8Array): TypedArray {
  const type = arrayType[dtype];
  const length = bytes.byteLength / type.BYTES_PER_ELEMENT;
  if (bytes.byteOffset % type.BYTES_PER_ELEMENT === 0) return new type(bytes.buffer, bytes.byteOffset, length);
  const copy = new Uint8Array(bytes); // not slice(): a Node.js Buffer's shares memory
  return new type(copy.buffer, 0, length);
}
