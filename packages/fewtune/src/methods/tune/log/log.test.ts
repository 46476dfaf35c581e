import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { crc32c, maskedCrc32c } from './crc32c.js';
import { RunLog } from './run-log.js';
import { boardEvent, tfRecord } from './tensorboard.js';

const folder = mkdtempSync(join(tmpdir(), 'fewtune-log-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('checksums are those of RFC 3720, appendix B.4', () => {
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
  expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
  expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => 31 - i))).toBe(0x113fdb5c);
  expect(crc32c(new TextEncoder().encode('123456789'))).toBe(0xe3069283);
});

// tensorboard 2.21's RecordWriter wrote these of its own Event messages.
const written = JSON.parse(readFileSync(new URL('./fixtures/tensorboard-records.json', import.meta.url), 'utf8')) as {
  version: string;
  scalars: string;
  restart: string;
};
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

test('records are byte for byte those that TensorBoard writes', () => {
  const seconds = 1700000000.25;
  expect(hex(tfRecord(boardEvent({ seconds, fileVersion: 'brain.Event:2' })))).toBe(written.version);
  const scalars = { 'train/loss': 0.125, 'train/lr': 1e-4 };
  expect(hex(tfRecord(boardEvent({ seconds, step: 300, scalars })))).toBe(written.scalars);
  expect(hex(tfRecord(boardEvent({ seconds, step: 7, restart: true })))).toBe(written.restart);
});

/** The data of each record, its checksums looked at. */
function recordsOf(path: string): Uint8Array[] {
  const bytes = readFileSync(path);
  const records: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = Number(bytes.readBigUInt64LE(at));
    expect(bytes.readUInt32LE(at + 8)).toBe(maskedCrc32c(bytes.subarray(at, at + 8)));
    const data = bytes.subarray(at + 12, at + 12 + length);
    expect(bytes.readUInt32LE(at + 12 + length)).toBe(maskedCrc32c(data));
    records.push(data);
    at += length + 16;
  }
  return records;
}

test('a log goes on where its run does: half a line and steps that are taken again are dropped', () => {
  const step = (n: number) => ({ step: n, epoch: 1, loss: n === 3 ? Number.NaN : 1 / n, lr: 0.1, gradientNorm: 2 });
  const path = join(folder, 'run', 'metrics.jsonl');
  const lines = () =>
    readFileSync(path, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  const first = new RunLog(join(folder, 'run'), false);
  for (const n of [1, 2, 3, 4]) first.add(step(n));
  expect(lines()).toHaveLength(4); // before it is closed
  first.close();
  appendFileSync(path, '{"step":5,"lo');
  const second = new RunLog(join(folder, 'run'), true);
  const look = { loss: 0.5, score: { name: 'accuracy', value: 0.75 } };
  second.add({ ...step(3), warning: 'diverged' });
  second.add({ ...step(4), look });
  second.close();
  expect(lines().map((line) => line.step)).toEqual([1, 2, 3, 4]);
  expect(lines()[2]).toMatchObject({ loss: null, warning: 'diverged' });
  expect(lines()[3]).toMatchObject({ loss: 0.25, heldOut: { loss: 0.5, accuracy: 0.75 } });
  const boards = readdirSync(join(folder, 'run')).filter((name) => name.startsWith('events.out.tfevents.'));
  const counts = boards.map((name) => recordsOf(join(folder, 'run', name)).length).sort();
  expect(counts).toEqual([4, 5]); // version, restart and two steps; version and four steps
});

test('a folder that cannot be is an error', () => {
  const log = new RunLog(join(folder, 'run', 'metrics.jsonl', 'below'), false);
  expect(() => log.add({ step: 1, epoch: 1, loss: 1, lr: 1 })).toThrow(
    expect.objectContaining({ code: 'OUTPUT_UNWRITABLE' }),
  );
});
