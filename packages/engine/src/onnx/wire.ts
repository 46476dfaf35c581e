/**
 * Protocol buffers by description: enough of the wire format to read and write ONNX files. A message is described as a
 * table of fields; fields the table does not know are kept as they are, so that nothing is lost in a round trip.
 * https://protobuf.dev/programming-guides/encoding/
 */
import { EngineError } from '../errors.js';

export type Scalar = 'int' | 'bigint' | 'float' | 'double' | 'string' | 'bytes';
export interface Field {
  readonly number: number;
  readonly type: Scalar | Message;
  readonly repeated?: boolean;
}
export interface Message {
  readonly name: string;
  readonly fields: Readonly<Record<string, Field>>;
}
/** A decoded message: absent fields are undefined, repeated ones arrays. */
export type Decoded = Record<string, unknown>;

const unknownFields = Symbol('unknown fields');
const text = { encoder: new TextEncoder(), decoder: new TextDecoder() };

/** Writes a message. Large byte fields are passed through, so the result is built with a single copy. */
export function encode(message: Message, value: Decoded): Uint8Array {
  const chunks: Uint8Array[] = [];
  const length = write(message, value, chunks);
  const result = new Uint8Array(length);
  let offset = 0;
  for (const chunk of chunks) {
    result.set(chunk, offset);
    offset += chunk.length;
  }
  return result;
}

function write(message: Message, value: Decoded, chunks: Uint8Array[]): number {
  let length = 0;
  const push = (chunk: Uint8Array) => {
    chunks.push(chunk);
    length += chunk.length;
  };
  for (const [name, field] of Object.entries(message.fields)) {
    const content = value[name];
    if (content === undefined) continue;
    const items = field.repeated ? (content as readonly unknown[]) : [content];
    if (items.length === 0) continue;
    if (field.repeated && isPackable(field.type)) {
      const body = concatenate(items.map((item) => scalarBytes(field.type as Scalar, item)));
      push(tag(field.number, 2));
      push(varint(BigInt(body.length)));
      push(body);
      continue;
    }
    for (const item of items) {
      if (typeof field.type === 'object') {
        const inner: Uint8Array[] = [];
        const size = write(field.type, item as Decoded, inner);
        push(tag(field.number, 2));
        push(varint(BigInt(size)));
        for (const chunk of inner) push(chunk);
      } else {
        push(tag(field.number, wireType(field.type)));
        if (wireType(field.type) === 2) {
          const bytes = field.type === 'string' ? text.encoder.encode(item as string) : (item as Uint8Array);
          push(varint(BigInt(bytes.length)));
          push(bytes);
        } else push(scalarBytes(field.type, item));
      }
    }
  }
  for (const raw of (value as { [unknownFields]?: Uint8Array[] })[unknownFields] ?? []) push(raw);
  return length;
}

const isPackable = (type: Scalar | Message): boolean =>
  type === 'int' || type === 'bigint' || type === 'float' || type === 'double';
const wireType = (type: Scalar): number => ({ int: 0, bigint: 0, double: 1, string: 2, bytes: 2, float: 5 })[type];
const tag = (number: number, wire: number): Uint8Array => varint(BigInt((number << 3) | wire));

function varint(value: bigint): Uint8Array {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, value);
  do {
    const low = Number(rest & 0x7fn);
    rest >>= 7n;
    bytes.push(rest > 0n ? low | 0x80 : low);
  } while (rest > 0n);
  return Uint8Array.from(bytes);
}

function scalarBytes(type: Scalar, value: unknown): Uint8Array {
  if (type === 'int') return varint(BigInt(value as number));
  if (type === 'bigint') return varint(value as bigint);
  if (type === 'float') return new Uint8Array(Float32Array.of(value as number).buffer);
  return new Uint8Array(Float64Array.of(value as number).buffer);
}

function concatenate(parts: readonly Uint8Array[]): Uint8Array {
  const result = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    result.set(part, offset);
    offset += part.length;
  }
  return result;
}

/** Reads a message. @throws EngineError ONNX_INVALID when the bytes end early or are no such message */
export function decode(message: Message, bytes: Uint8Array): Decoded {
  const byNumber = new Map(Object.entries(message.fields).map(([name, field]) => [field.number, { name, field }]));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const result: Decoded & { [unknownFields]?: Uint8Array[] } = {};
  let at = 0;

  const need = (count: number) => {
    if (count < 0 || at + count > bytes.length) {
      throw new EngineError(
        'ONNX_INVALID',
        `${message.name}: the data ends at byte ${bytes.length}, inside a field; is the file cut short?`,
      );
    }
  };
  const readVarint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      need(1);
      const byte = bytes[at++]!;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw new EngineError('ONNX_INVALID', `${message.name}: a number at byte ${at} is longer than 64 bits`);
  };
  const readScalar = (type: Scalar): unknown => {
    if (type === 'bigint') return BigInt.asIntN(64, readVarint());
    if (type === 'int') return Number(BigInt.asIntN(64, readVarint()));
    const size = type === 'float' ? 4 : 8;
    need(size);
    at += size;
    return type === 'float' ? view.getFloat32(at - 4, true) : view.getFloat64(at - 8, true);
  };

  while (at < bytes.length) {
    const start = at;
    const key = Number(readVarint());
    const wire = key & 7;
    const known = byNumber.get(key >>> 3);
    const length = wire === 2 ? Number(readVarint()) : undefined;
    if (length !== undefined) need(length);
    if (!known) {
      if (length !== undefined) at += length;
      else if (wire === 0) readVarint();
      else if (wire === 1 || wire === 5) {
        need(wire === 1 ? 8 : 4);
        at += wire === 1 ? 8 : 4;
      } else throw new EngineError('ONNX_INVALID', `${message.name}: wire type ${wire} at byte ${start}`);
      result[unknownFields] ??= [];
      result[unknownFields].push(bytes.subarray(start, at));
      continue;
    }
    const { name, field } = known;
    if (field.repeated) result[name] ??= [];
    const list = field.repeated ? (result[name] as unknown[]) : undefined;
    const keep = (value: unknown) => {
      if (list) list.push(value);
      else result[name] = value;
    };
    if (length === undefined) {
      keep(readScalar(field.type as Scalar));
      continue;
    }
    const end = at + length;
    if (typeof field.type === 'object') keep(decode(field.type, bytes.subarray(at, end)));
    else if (field.type === 'bytes') keep(bytes.subarray(at, end));
    else if (field.type === 'string') keep(text.decoder.decode(bytes.subarray(at, end)));
    else while (at < end) keep(readScalar(field.type));
    at = end;
  }
  return result;
}
