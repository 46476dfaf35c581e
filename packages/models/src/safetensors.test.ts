import { mkdtemp, readdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { HostTensor } from '@fewtune/engine';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseSafetensors, readSafetensors, serializeSafetensors, writeSafetensors } from './safetensors.js';

const shape = fc.array(fc.nat({ max: 4 }), { maxLength: 3 });
const kinds = [
  ['float32', Float32Array],
  ['float64', Float64Array],
  ['float16', Uint16Array],
  ['int64', BigInt64Array],
  ['int32', Int32Array],
  ['uint32', Uint32Array],
  ['int8', Int8Array],
  ['uint8', Uint8Array],
  ['bool', Uint8Array],
] as const;

/** Random bytes seen through each dtype, NaN patterns of floats included. */
const tensor = fc
  .tuple(fc.constantFrom(...kinds), shape, fc.infiniteStream(fc.nat(255)))
  .map(([[dtype, type], sizes, bytes]): HostTensor => {
    const data = new type(sizes.reduce((a, b) => a * b, 1));
    const raw = new Uint8Array(data.buffer);
    for (let i = 0; i < raw.length; i++) raw[i] = dtype === 'bool' ? bytes.next().value & 1 : bytes.next().value;
    return { dtype, shape: sizes, data };
  });
const name = fc.oneof(fc.string({ minLength: 1 }), fc.constantFrom('__proto__', 'constructor', 'ä.weight'));
const tensors = fc.array(fc.tuple(name, tensor), { maxLength: 6 }).map((pairs) => {
  const record: Record<string, HostTensor> = Object.create(null);
  for (const [key, value] of pairs) record[key] = value;
  return record;
});

const bits = (t: HostTensor): number[] => [...new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength)];

test('what is serialised is parsed: dtypes, shapes, every bit, metadata, at any alignment', () => {
  fc.assert(
    fc.property(tensors, fc.nat(7), (record, misalignment) => {
      const bytes = serializeSafetensors(record, { format: 'pt' });
      const shifted = new Uint8Array(bytes.length + misalignment).subarray(misalignment);
      shifted.set(bytes);
      const parsed = parseSafetensors(shifted);
      expect(Object.keys(parsed.tensors).sort()).toEqual(Object.keys(record).sort());
      expect(parsed.metadata).toEqual({ format: 'pt' });
      for (const [key, value] of Object.entries(record)) {
        const read = parsed.tensors[key]!;
        expect([read.dtype, read.shape, bits(read)]).toEqual([value.dtype, value.shape, bits(value)]);
      }
    }),
    { numRuns: 60 },
  );
});

test('a Buffer is parsed like any other bytes', () => {
  const value: HostTensor = { dtype: 'float32', shape: [2], data: new Float32Array([1, 2]) };
  const bytes = Buffer.from(serializeSafetensors({ a: value, b: value }));
  expect(parseSafetensors(bytes).tensors.b).toEqual(value);
});

test('a file is read back, whole or in part, and writing leaves nothing beside it', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'safetensors-'));
  const path = join(folder, 'a.safetensors');
  await writeSafetensors(path, {
    a: { dtype: 'float32', shape: [2], data: Float32Array.of(1, 2) },
    b: { dtype: 'int64', shape: [1], data: BigInt64Array.of(-5n) },
  });
  const { tensors } = await readSafetensors(path, (key) => key === 'b');
  expect(tensors).toEqual({ b: { dtype: 'int64', shape: [1], data: BigInt64Array.of(-5n) } });
  expect(await readdir(folder)).toEqual(['a.safetensors']);
  await expect(writeSafetensors(join(folder, 'none', 'a'), {})).rejects.toThrow('ENOENT');
});

test('bfloat16 widens to float32', () => {
  const bytes = file({ x: { dtype: 'BF16', shape: [3], data_offsets: [0, 6] } }, [0x80, 0x3f, 0x20, 0xc0, 0, 0]);
  expect(parseSafetensors(bytes).tensors.x).toEqual({
    dtype: 'float32',
    shape: [3],
    data: Float32Array.of(1, -2.5, 0), // 0x3f80, 0xc020
  });
});

describe('a malformed file is refused before memory is taken', () => {
  const f32 = (begin: number, end: number, sizes = [1]) => ({ dtype: 'F32', shape: sizes, data_offsets: [begin, end] });
  const four = [0, 0, 0, 0];
  test.each([
    ['too short', new Uint8Array(5), '5 bytes'],
    ['header beyond the limit', Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 1), 'limit of 100000000'],
    ['header beyond the file', Uint8Array.of(200, 0, 0, 0, 0, 0, 0, 0), 'claims 200 bytes but the file has 8'],
    ['no JSON', Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0, 0x78), 'not JSON'],
    ['an array', file([], []), 'not a JSON object'],
    ['wrong size', file({ x: f32(0, 4, [2]) }, four), 'F32 [2]) needs 8 bytes, its offsets give 4'],
    ['huge shape', file({ x: f32(0, 4, [2 ** 40, 2 ** 40]) }, four), 'needs'],
    ['negative shape', file({ x: f32(0, 4, [-1]) }, four), 'shape [-1]'],
    ['backward offsets', file({ x: f32(4, 0) }, four), 'offsets give -4'],
    ['gap', file({ x: f32(4, 8) }, [...four, ...four]), 'leaves a gap'],
    ['overlap', file({ x: f32(0, 4), y: f32(2, 6) }, [...four, 0, 0]), 'overlaps'],
    ['truncated', file({ x: f32(0, 4), y: f32(4, 8) }, four), 'its tensors end at byte 8, its data at 4'],
    ['trailing bytes', file({ x: f32(0, 4) }, [...four, 0]), 'its tensors end at byte 4, its data at 5'],
    ['metadata not text', file({ __metadata__: { a: 1 } }, []), '__metadata__ "a"'],
  ])('%s', async (_, bytes, message) => {
    const error = { code: 'SAFETENSORS_INVALID', message: expect.stringContaining(message) };
    expect(() => parseSafetensors(bytes)).toThrow(expect.objectContaining(error));
    const path = join(await mkdtemp(join(tmpdir(), 'safetensors-')), 'bad.safetensors');
    await writeFile(path, bytes);
    await expect(readSafetensors(path)).rejects.toMatchObject({ code: 'SAFETENSORS_INVALID' });
  });

  test('unknown dtype', () => {
    const bytes = file({ x: { dtype: 'F8_E4M3', shape: [1], data_offsets: [0, 1] } }, [0]);
    expect(() => parseSafetensors(bytes)).toThrow(expect.objectContaining({ code: 'SAFETENSORS_UNSUPPORTED' }));
  });
});

function file(header: unknown, data: number[]): Uint8Array {
  const json = new TextEncoder().encode(JSON.stringify(header));
  const bytes = new Uint8Array(8 + json.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  bytes.set(data, 8 + json.length);
  return bytes;
}
