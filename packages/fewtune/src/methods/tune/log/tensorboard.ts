import { maskedCrc32c } from './crc32c.js';

/** An entry of a TensorBoard event file. */
export type BoardEvent = { readonly seconds: number } & (
  | { readonly fileVersion: string }
  | { readonly step: number; readonly scalars: Readonly<Record<string, number>> }
  /** A run goes on from here: what an earlier file has of this step and later ones does not count. */
  | { readonly step: number; readonly restart: true }
);

/** What every event file begins with. */
export const boardVersion = 'brain.Event:2';

/**
 * A TFRecord: length (uint64) and its checksum, data and its checksum, all little-endian.
 * tensorflow/core/lib/io/record_writer.h.
 */
export function tfRecord(data: Uint8Array): Uint8Array {
  const record = new Uint8Array(data.length + 16);
  const view = new DataView(record.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, maskedCrc32c(record.subarray(0, 8)), true);
  record.set(data, 12);
  view.setUint32(12 + data.length, maskedCrc32c(data), true);
  return record;
}

/** tensorflow/core/util/event.proto: wall_time 1, step 2, file_version 3, summary 5, session_log 7. */
export function boardEvent(event: BoardEvent): Uint8Array {
  const time = doubleField(1, event.seconds);
  if ('fileVersion' in event) return joined([time, stringField(3, event.fileVersion)]);
  const step = joined([key(2, 0), varint(event.step)]);
  if ('restart' in event) return joined([time, step, bytesField(7, joined([key(1, 0), varint(1)]))]); // START
  // summary.proto: value 1, of it tag 1 and simple_value 2.
  const values = Object.entries(event.scalars).map(([tag, value]) =>
    bytesField(1, joined([stringField(1, tag), floatField(2, value)])),
  );
  return joined([time, step, bytesField(5, joined(values))]);
}

const key = (field: number, wire: 0 | 1 | 2 | 5): Uint8Array => Uint8Array.of((field << 3) | wire);

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  return Uint8Array.from([...bytes, rest]);
}

function doubleField(field: number, value: number): Uint8Array {
  return joined([key(field, 1), new Uint8Array(littleEndian(8, (view) => view.setFloat64(0, value, true)))]);
}

function floatField(field: number, value: number): Uint8Array {
  return joined([key(field, 5), new Uint8Array(littleEndian(4, (view) => view.setFloat32(0, value, true)))]);
}

function littleEndian(size: number, write: (view: DataView) => void): ArrayBuffer {
  const buffer = new ArrayBuffer(size);
  write(new DataView(buffer));
  return buffer;
}

const bytesField = (field: number, bytes: Uint8Array) => joined([key(field, 2), varint(bytes.length), bytes]);
const stringField = (field: number, text: string) => bytesField(field, new TextEncoder().encode(text));

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
