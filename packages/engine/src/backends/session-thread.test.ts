import type { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { hostTensor } from '../host-tensor.js';
import { toDevice } from './node.js';
import { createInThread } from './session-thread.js';
import { identityModel } from './shared.js';

const x = toDevice(hostTensor('float32', [2], [1, 2]));

/** The next thread that is started. */
const nextThread = () => new Promise<Worker>((resolve) => process.once('worker', resolve));

test('a model that does not open is told of, and its thread ends', async () => {
  const thread = nextThread();
  await expect(createInThread(new Uint8Array([1, 2, 3]), {})).rejects.toThrow(/protobuf|model/i);
  expect((await thread).threadId).toBe(-1);
});

test('an end waits for the run before it; what is asked for later is refused', async () => {
  const thread = nextThread();
  const session = await createInThread(identityModel('float32'), {});
  const [found] = await Promise.all([session.run({ x }, { y: null }), session.release()]);
  expect([...(found.y!.data as Float32Array)]).toEqual([1, 2]);
  expect((await thread).threadId).toBe(-1);
  await expect(session.run({ x }, { y: null })).rejects.toThrow('the thread of a session ended');
});

test('a call that cannot be sent takes no other’s answer', async () => {
  const session = await createInThread(identityModel('float32'), {});
  const unsendable = { ...x, data: (() => {}) as never };
  await expect(session.run({ x: unsendable as never }, { y: null })).rejects.toThrow('could not be cloned');
  expect([...((await session.run({ x }, { y: null })).y!.data as Float32Array)]).toEqual([1, 2]);
  await session.release();
});
