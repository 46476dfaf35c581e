/**
 * Sessions in threads of their own: `run` of onnxruntime-node holds up the thread that calls it, so several sessions work
 * at once only from several threads.
 */
import { createRequire } from 'node:module';
import { Worker } from 'node:worker_threads';
import * as ort from 'onnxruntime-node';
import type { Session } from './types.js';

type Native = Session['native'];

/** A tensor as it goes from thread to thread. */
interface Sent {
  readonly type: string;
  readonly dims: readonly number[];
  readonly data: ort.Tensor['data'];
}

/** To the thread: run this, or end. Back from it: names once it is open, outputs, or what went wrong. */
type Call = { readonly feeds: Record<string, Sent>; readonly fetches: readonly string[] } | 'end';
type Answer =
  | { readonly inputNames: readonly string[]; readonly outputNames: readonly string[] }
  | { readonly outputs: Record<string, Sent> }
  | { readonly error: string };

/** `InferenceSession.create`, in a new thread. */
export async function createInThread(
  model: Uint8Array | string,
  options: ort.InferenceSession.SessionOptions,
): Promise<Native> {
  const runtime = createRequire(import.meta.url).resolve('onnxruntime-node');
  const worker = new Worker(`(${serve})()`, { eval: true, workerData: { runtime, model, options } });
  worker.unref(); // a session that nobody closes does not keep the process
  const ask = asker(worker);
  const opened = await ask().catch(async (error) => {
    await worker.terminate();
    throw error;
  });
  return {
    ...(opened as Extract<Answer, { inputNames: unknown }>),
    endProfiling() {},
    async run(feeds: ort.InferenceSession.FeedsType, fetches?: object) {
      const sent = Object.entries(feeds as Record<string, ort.Tensor>).map(([name, { type, dims, data }]) => [
        name,
        { type, dims, data },
      ]);
      const call = { feeds: Object.fromEntries(sent), fetches: Object.keys(fetches ?? {}) };
      const { outputs } = (await ask(call)) as Extract<Answer, { outputs: unknown }>;
      const made = Object.entries(outputs).map(([name, { type, dims, data }]) => [
        name,
        new ort.Tensor(type as 'float32', data as Float32Array, dims),
      ]);
      return Object.fromEntries(made);
    },
    async release() {
      await ask('end').catch(() => {});
      await worker.terminate();
    },
  };
}

/** Sends a call and waits for its answer; calls are answered in their order. */
function asker(worker: Worker): (call?: Call) => Promise<Answer> {
  const waiting: { resolve(answer: Answer): void; reject(error: Error): void }[] = [];
  let ended: Error | undefined;
  worker.on('message', (answer: Answer) => {
    const { resolve, reject } = waiting.shift()!;
    if (waiting.length === 0) worker.unref();
    if ('error' in answer) reject(new Error(answer.error));
    else resolve(answer);
  });
  const fail = (error: Error) => {
    ended ??= error; // of an error and the end that follows it, the first says why
    for (const { reject } of waiting.splice(0)) reject(ended);
  };
  worker.on('error', fail);
  worker.on('exit', (code) => fail(new Error(`the thread of a session ended with code ${code}`)));
  return (call) =>
    new Promise((resolve, reject) => {
      if (ended) return reject(ended);
      if (call) worker.postMessage(call); // throws when it cannot be sent: no answer is then waited for
      waiting.push({ resolve, reject });
      worker.ref();
    });
}

/** What the thread does. It is sent as text, so it names nothing outside itself. */
function serve(): void {
  const { parentPort, workerData } = require('node:worker_threads') as typeof import('node:worker_threads');
  const { InferenceSession, Tensor } = require(workerData.runtime) as typeof ort;
  const answer = (found: Answer, buffers: ArrayBuffer[] = []) => parentPort!.postMessage(found, buffers);
  const failed = (cause: unknown) => answer({ error: cause instanceof Error ? cause.message : String(cause) });
  const opening = InferenceSession.create(workerData.model, workerData.options);
  let before: Promise<void> = opening.then(
    ({ inputNames, outputNames }) => answer({ inputNames, outputNames }),
    failed,
  );
  const serveCall = async (call: Call) => {
    try {
      const session = await opening;
      if (call === 'end') {
        await session.release();
        return answer({ outputs: {} });
      }
      const feeds: Record<string, ort.Tensor> = {};
      for (const [name, { type, dims, data }] of Object.entries(call.feeds)) {
        feeds[name] = new Tensor(type as 'float32', data as Float32Array, dims);
      }
      const found = await session.run(feeds, call.fetches);
      const outputs: Record<string, Sent> = {};
      for (const [name, { type, dims, data }] of Object.entries(found)) outputs[name] = { type, dims, data };
      answer({ outputs }, [
        ...new Set(Object.values(outputs).map(({ data }) => (data as Float32Array).buffer as ArrayBuffer)),
      ]);
    } catch (cause) {
      failed(cause);
    }
  };
  parentPort!.on('message', (call: Call) => {
    before = before.then(() => serveCall(call)); // `run` begins later than it is called: an end must not overtake it
  });
}
