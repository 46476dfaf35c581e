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

/**
 * Writes a message from its end to its beginning, so that every length is known when it is written. Large byte fields
 * are passed through, so that they are copied once.
 */
export function encode(message: Message, value: Decoded): Uint8Array {
  const writer = new Backwards();
  writeMessage(writer, message, value);
  return writer.finish();
}

function writeMessage(writer: Backwards, { fields }: Message, value: Decoded): void {
  const unknown = (value as { [unknownFields]?: Uint8Array[] })[unknownFields] ?? [];
  for (let i = unknown.length - 1; i >= 0; i--) writer.bytes(unknown[i]!);
  const names = Object.keys(fields);
  for (let f = names.length - 1; f >= 0; f--) {
    const content = value[names[f]!];
    if (content === undefined) continue;
    const field = fields[names[f]!]!;
    if (!field.repeated) {
      writeItem(writer, field, content);
      continue;
    }
    const items = content as readonly unknown[];
    if (items.length === 0) continue;
    const end = writer.length;
    const packed = isPackable(field.type);
    for (let i = items.length - 1; i >= 0; i--) {
      if (packed) writer.scalar(field.type as Scalar, items[i]);
      else writeItem(writer, field, items[i]);
    }
    if (packed) writer.prefix(field.number, writer.length - end);
  }
}

function writeItem(writer: Backwards, { number, type }: Field, item: unknown): void {
  const end = writer.length;
  if (typeof type === 'object') writeMessage(writer, type, item as Decoded);
  else if (type === 'string') writer.text(item as string);
  else if (type === 'bytes') writer.bytes(item as Uint8Array);
  else {
    writer.scalar(type, item);
    writer.varint((number << 3) | wireType(type));
    return;
  }
  writer.prefix(number, writer.length - end);
}

const isPackable = (type: Scalar | Message): boolean =>
  type === 'int' || type === 'bigint' || type === 'float' || type === 'double';
const wireType = (type: Scalar): number => ({ int: 0, bigint: 0, double: 1, string: 2, bytes: 2, float: 5 })[type];

/** Bytes that grow to the left, in pieces. */
class Backwards {
  length = 0;
  /** The last piece first. */
  private readonly pieces: Uint8Array[] = [];
  private block = new Uint8Array(1 << 14);
  private at = this.block.length;
  private taken = this.block.length;

  /** Room for `count` bytes; where they begin. */
  private reserve(count: number): number {
    if (this.at < count) {
      this.close();
      this.block = new Uint8Array(Math.max(count, 1 << 16));
      this.at = this.taken = this.block.length;
    }
    this.at -= count;
    this.length += count;
    return this.at;
  }

  private close(): void {
    if (this.at < this.taken) this.pieces.push(this.block.subarray(this.at, this.taken));
    this.taken = this.at;
  }

  bytes(bytes: Uint8Array): void {
    if (bytes.length > 4096) {
      this.close();
      this.pieces.push(bytes);
      this.length += bytes.length;
      return;
    }
    const start = this.reserve(bytes.length); // may begin another block
    this.block.set(bytes, start);
  }

  text(value: string): void {
    const start = this.reserve(value.length);
    for (let i = 0; i < value.length; i++) {
      const code = value.charCodeAt(i);
      if (code < 128) this.block[start + i] = code;
      else {
        this.at += value.length;
        this.length -= value.length;
        this.bytes(text.encoder.encode(value));
        return;
      }
    }
  }

  varint(value: number | bigint): void {
    const small = Number(value);
    if (small >= 0 && small < 0x8000_0000) {
      let start = this.reserve(
        small < 1 << 7 ? 1 : small < 1 << 14 ? 2 : small < 1 << 21 ? 3 : small < 1 << 28 ? 4 : 5,
      );
      let low = small;
      for (; low > 0x7f; low >>>= 7) this.block[start++] = (low & 0x7f) | 0x80;
      this.block[start] = low;
      return;
    }
    const bytes: number[] = [];
    let rest = BigInt.asUintN(64, BigInt(value));
    for (; rest > 0x7fn; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80);
    this.bytes(Uint8Array.from([...bytes, Number(rest)]));
  }

  scalar(type: Scalar, value: unknown): void {
    if (type === 'float') this.bytes(new Uint8Array(Float32Array.of(value as number).buffer));
    else if (type === 'double') this.bytes(new Uint8Array(Float64Array.of(value as number).buffer));
    else this.varint(value as number | bigint);
  }

  /** Tag and length of what was just written. */
  prefix(number: number, size: number): void {
    this.varint(size);
    this.varint((number << 3) | 2);
  }

  finish(): Uint8Array {
    this.close();
    return joined(this.pieces.reverse(), this.length);
  }
}

function joined(parts: readonly Uint8Array[], length: number): Uint8Array {
  const result = new Uint8Array(length);
  let offset = 0;
  for (const part of parts) {
    result.set(part, offset);
    offset += part.length;
  }
  return result;
}

/** Graphs nest in attributes of nodes; no model needs more, and each level costs a few calls on the stack. */
const deepest = 100;

/** Reads a message. @throws EngineError ONNX_INVALID when the bytes end early or are no such message */
export function decode(message: Message, bytes: Uint8Array, depth = 0): Decoded {
  if (depth > deepest) {
    throw new EngineError('ONNX_INVALID', `${message.name}: messages nest more than ${deepest} deep`);
  }
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
    if (key < 8 || key > 0xffffffff) {
      throw new EngineError('ONNX_INVALID', `${message.name}: no field number at byte ${start}`);
    }
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
    const packed = wire === 2 && field.repeated && isPackable(field.type);
    if (!packed && wire !== (typeof field.type === 'object' ? 2 : wireType(field.type))) {
      throw new EngineError('ONNX_INVALID', `${message.name}.${name} at byte ${start} is written as another type`);
    }
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
    if (typeof field.type === 'object') keep(decode(field.type, bytes.subarray(at, end), depth + 1));
    else if (field.type === 'bytes') keep(bytes.subarray(at, end));
    else if (field.type === 'string') keep(text.decoder.decode(bytes.subarray(at, end)));
    else while (at < end) keep(readScalar(field.type));
    if (packed && at !== end) {
      throw new EngineError('ONNX_INVALID', `${message.name}.${name}: its last number goes past byte ${end}`);
    }
    at = end;
  }
  return result;
}
