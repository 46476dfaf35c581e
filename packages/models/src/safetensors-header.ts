import type { DType } from '@fewtune/engine';
import { ModelError } from './errors.js';

/** Where one tensor stands in the data part of a safetensors file. */
export interface TensorEntry {
  readonly name: string;
  /** The file's own name of the dtype: F32, BF16, … */
  readonly storedDtype: StoredDtype;
  readonly shape: readonly number[];
  /** Byte offsets relative to the first byte after the header. */
  readonly begin: number;
  readonly end: number;
}

export interface SafetensorsHeader {
  readonly entries: readonly TensorEntry[];
  readonly metadata: Record<string, string>;
}

/** Bytes per element of every dtype we read, and the engine's dtype it becomes. BF16 has none there: it widens. */
export const storedDtypes = {
  F64: { bytes: 8, dtype: 'float64' },
  F32: { bytes: 4, dtype: 'float32' },
  F16: { bytes: 2, dtype: 'float16' },
  BF16: { bytes: 2, dtype: 'float32' },
  I64: { bytes: 8, dtype: 'int64' },
  I32: { bytes: 4, dtype: 'int32' },
  U32: { bytes: 4, dtype: 'uint32' },
  I8: { bytes: 1, dtype: 'int8' },
  U8: { bytes: 1, dtype: 'uint8' },
  BOOL: { bytes: 1, dtype: 'bool' },
} as const satisfies Record<string, { bytes: number; dtype: DType }>;

export type StoredDtype = keyof typeof storedDtypes;

/** The reference implementation's limit: a longer header is refused before it is read. */
export const maxHeaderBytes = 100_000_000;

/**
 * The header's length, from the first eight bytes (u64, little endian).
 *
 * @param fileBytes size of the whole file, so that a length beyond it is refused before anything is allocated
 * @throws ModelError SAFETENSORS_INVALID
 */
export function headerLength(first8: Uint8Array, fileBytes: number, source: string): number {
  if (first8.byteLength < 8) {
    throw invalid(source, `it has ${first8.byteLength} bytes, fewer than the 8 of the header's length`);
  }
  const length = new DataView(first8.buffer, first8.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(maxHeaderBytes)) {
    throw invalid(source, `its header claims ${length} bytes, more than the limit of ${maxHeaderBytes}`);
  }
  if (length + 8n > BigInt(fileBytes)) {
    throw invalid(source, `its header claims ${length} bytes but the file has ${fileBytes} in all`);
  }
  return Number(length);
}

/**
 * Reads and checks the header: dtypes known, every tensor's bytes equal its shape, and the tensors cover the data
 * part exactly once, without gap or overlap.
 *
 * @param json      the header's bytes
 * @param dataBytes bytes after the header
 * @throws ModelError SAFETENSORS_INVALID or SAFETENSORS_UNSUPPORTED
 */
export function parseHeader(json: Uint8Array, dataBytes: number, source: string): SafetensorsHeader {
  const header = parseJson(json, source);
  const metadata: Record<string, string> = {};
  const entries: TensorEntry[] = [];
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') readMetadata(value, metadata, source);
    else entries.push(readEntry(name, value, source));
  }
  checkCoverage(entries, dataBytes, source);
  return { entries, metadata };
}

function parseJson(json: Uint8Array, source: string): Record<string, unknown> {
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(json));
  } catch (cause) {
    throw invalid(source, 'its header is not JSON', cause);
  }
  if (!isRecord(header)) throw invalid(source, 'its header is not a JSON object');
  return header;
}

function readMetadata(value: unknown, metadata: Record<string, string>, source: string): void {
  if (!isRecord(value)) throw invalid(source, '__metadata__ is not an object');
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') throw invalid(source, `__metadata__ "${key}" is not a string`);
    metadata[key] = text;
  }
}

function readEntry(name: string, value: unknown, source: string): TensorEntry {
  if (!isRecord(value)) throw invalid(source, `tensor "${name}" is not described by an object`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== 'string') throw invalid(source, `tensor "${name}" has no dtype`);
  if (!Object.hasOwn(storedDtypes, dtype)) {
    throw new ModelError(
      'SAFETENSORS_UNSUPPORTED',
      `${source}: tensor "${name}" has dtype ${dtype}; known are ${Object.keys(storedDtypes).join(', ')}. ` +
        'Convert the checkpoint to one of these.',
    );
  }
  if (!isSizes(shape)) throw invalid(source, `tensor "${name}" has the shape ${JSON.stringify(shape)}`);
  if (!isSizes(offsets) || offsets.length !== 2) {
    throw invalid(source, `tensor "${name}" has the data_offsets ${JSON.stringify(offsets)}`);
  }
  const [begin, end] = offsets as [number, number];
  const storedDtype = dtype as StoredDtype;
  const expected = shape.reduce((product, size) => product * size, storedDtypes[storedDtype].bytes);
  if (end - begin !== expected) {
    throw invalid(
      source,
      `tensor "${name}" (${dtype} [${shape.join(', ')}]) needs ${expected} bytes, its offsets give ${end - begin}`,
    );
  }
  return { name, storedDtype, shape, begin, end };
}

function checkCoverage(entries: TensorEntry[], dataBytes: number, source: string): void {
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let at = 0;
  for (const { name, begin, end } of entries) {
    if (begin !== at) {
      const what = begin < at ? 'overlaps the tensor before it' : 'leaves a gap before it';
      throw invalid(source, `tensor "${name}" ${what} (begins at ${begin}, expected ${at})`);
    }
    at = end;
  }
  if (at !== dataBytes) throw invalid(source, `its tensors end at byte ${at}, its data at ${dataBytes}`);
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function invalid(source: string, what: string, cause?: unknown): ModelError {
  return new ModelError(
    'SAFETENSORS_INVALID',
    `${source} is not a whole safetensors file: ${what}. Copy or download it again.`,
    { cause },
  );
}
