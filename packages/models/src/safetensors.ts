import { randomBytes } from 'node:crypto';
import { open, rename, rm, writeFile } from 'node:fs/promises';
import type { DType, HostTensor } from '@fewtune/engine';
import { ModelError } from './errors.js';
import { headerLength, parseHeader, type StoredDtype, storedDtypes, type TensorEntry } from './safetensors-header.js';

export interface Safetensors {
  readonly tensors: Record<string, HostTensor>;
  readonly metadata: Record<string, string>;
}

/** The name a dtype of the engine gets in a file. */
const storedAs: Record<DType, StoredDtype> = {
  float64: 'F64',
  float32: 'F32',
  float16: 'F16',
  int64: 'I64',
  int32: 'I32',
  uint32: 'U32',
  int8: 'I8',
  uint8: 'U8',
  bool: 'BOOL',
};

/**
 * Parses a safetensors file in memory. The tensors own their memory; BF16 becomes float32, F16 stays float16.
 *
 * @param source what to call it in an error
 * @throws ModelError SAFETENSORS_INVALID, SAFETENSORS_UNSUPPORTED
 */
export function parseSafetensors(bytes: Uint8Array, source = 'the buffer'): Safetensors {
  const length = headerLength(bytes.subarray(0, 8), bytes.byteLength, source);
  const dataStart = 8 + length;
  const header = parseHeader(bytes.subarray(8, dataStart), bytes.byteLength - dataStart, source);
  const tensors = emptyRecord<HostTensor>();
  for (const entry of header.entries) {
    // Own, aligned memory: a Buffer's own slice would be a view of the whole file.
    const raw = Uint8Array.prototype.slice.call(bytes, dataStart + entry.begin, dataStart + entry.end);
    tensors[entry.name] = decode(entry, raw);
  }
  return { tensors, metadata: header.metadata };
}

/**
 * Reads a safetensors file, one tensor at a time, so that no second copy of the file stands in memory.
 *
 * @param keep which tensors to read; all when left out
 * @throws ModelError SAFETENSORS_INVALID, SAFETENSORS_UNSUPPORTED
 */
export async function readSafetensors(
  path: string,
  keep: (name: string) => boolean = () => true,
): Promise<Safetensors> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    const read = async (position: number, length: number): Promise<Uint8Array> => {
      const buffer = new Uint8Array(length);
      for (let done = 0; done < length; ) {
        const { bytesRead } = await file.read(buffer, done, Math.min(length - done, 1 << 30), position + done);
        if (bytesRead === 0) throw new ModelError('SAFETENSORS_INVALID', `${path} ended while it was being read`);
        done += bytesRead;
      }
      return buffer;
    };
    const length = headerLength(await read(0, Math.min(8, size)), size, path);
    const dataStart = 8 + length;
    const header = parseHeader(await read(8, length), size - dataStart, path);
    const tensors = emptyRecord<HostTensor>();
    for (const entry of header.entries) {
      if (keep(entry.name)) {
        tensors[entry.name] = decode(entry, await read(dataStart + entry.begin, entry.end - entry.begin));
      }
    }
    return { tensors, metadata: header.metadata };
  } finally {
    await file.close();
  }
}

/**
 * The bytes of a safetensors file. Tensors stand by element size, largest first, then by name, so that all are
 * aligned and equal contents give equal bytes; the header is padded with spaces to 8 bytes.
 */
export function serializeSafetensors(
  tensors: Readonly<Record<string, HostTensor>>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const sorted = Object.entries(tensors).sort(
    ([nameA, a], [nameB, b]) =>
      storedDtypes[storedAs[b.dtype]].bytes - storedDtypes[storedAs[a.dtype]].bytes || (nameA < nameB ? -1 : 1),
  );
  const header = emptyRecord<unknown>();
  if (Object.keys(metadata).length > 0) header.__metadata__ = metadata;
  let at = 0;
  for (const [name, tensor] of sorted) {
    if (name === '__metadata__') throw new ModelError('SAFETENSORS_INVALID', 'a tensor cannot be named __metadata__');
    const end = at + tensor.data.byteLength;
    header[name] = { dtype: storedAs[tensor.dtype], shape: tensor.shape, data_offsets: [at, end] };
    at = end;
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const dataStart = Math.ceil((8 + json.byteLength) / 8) * 8;
  const bytes = new Uint8Array(dataStart + at);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(dataStart - 8), true);
  bytes.fill(0x20, 8, dataStart);
  bytes.set(json, 8);
  let position = dataStart;
  for (const [, { data }] of sorted) {
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), position);
    position += data.byteLength;
  }
  return bytes;
}

/** Writes a safetensors file beside its place and renames it there: a reader never sees half a file. */
export async function writeSafetensors(
  path: string,
  tensors: Readonly<Record<string, HostTensor>>,
  metadata?: Readonly<Record<string, string>>,
): Promise<void> {
  const beside = `${path}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`;
  try {
    await writeFile(beside, serializeSafetensors(tensors, metadata));
    await rename(beside, path);
  } catch (error) {
    await rm(beside, { force: true });
    throw error;
  }
}

/** `raw` begins its own ArrayBuffer, so every view is aligned. */
function decode({ storedDtype, shape }: TensorEntry, raw: Uint8Array): HostTensor {
  const buffer = raw.buffer as ArrayBuffer;
  switch (storedDtype) {
    case 'F64':
      return { dtype: 'float64', shape, data: new Float64Array(buffer) };
    case 'F32':
      return { dtype: 'float32', shape, data: new Float32Array(buffer) };
    case 'F16':
      return { dtype: 'float16', shape, data: new Uint16Array(buffer) };
    case 'BF16':
      return { dtype: 'float32', shape, data: widenBfloat16(new Uint16Array(buffer)) };
    case 'I64':
      return { dtype: 'int64', shape, data: new BigInt64Array(buffer) };
    case 'I32':
      return { dtype: 'int32', shape, data: new Int32Array(buffer) };
    case 'U32':
      return { dtype: 'uint32', shape, data: new Uint32Array(buffer) };
    case 'I8':
      return { dtype: 'int8', shape, data: new Int8Array(buffer) };
    case 'U8':
      return { dtype: 'uint8', shape, data: raw };
    case 'BOOL':
      return { dtype: 'bool', shape, data: raw };
    default:
      return storedDtype satisfies never;
  }
}

/** A bfloat16 is the upper half of a float32. */
function widenBfloat16(halves: Uint16Array): Float32Array {
  const bits = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) bits[i] = halves[i]! << 16;
  return new Float32Array(bits.buffer);
}

/** No prototype, so that a tensor may be called `__proto__` or `constructor`. */
function emptyRecord<T>(): Record<string, T> {
  return Object.create(null) as Record<string, T>;
}
