/**
 * Sessions by content, so that tracing the same program twice opens it once. Large constants are compared by the memory
 * they stand in, not by their bytes: do not change a weight's array in place while a program made from it is open.
 */
import type { OpenOptions, Session } from '#backend';
import { closeSession, openSession } from '#backend';
import { hash128 } from '../hash.js';
import type { OnnxModelProto, OnnxTensor } from '../onnx/model.js';
import { writeOnnx } from '../onnx/model.js';
import { idleOptimizers } from './optimizers.js';

interface Entry {
  readonly session: Promise<Session>;
  users: number;
  /** Bytes of constants: idle sessions that hold whole models are not kept. */
  readonly weight: number;
}

const idleLimit = 16;
const idleWeightLimit = 4 << 20;
const entries = new Map<string, Entry>();
const bufferIds = new WeakMap<ArrayBufferLike, number>();
let nextBufferId = 0;

export interface SharedSession {
  readonly session: Session;
  release(): Promise<void>;
}

/** Opens the model, or shares the session that is already open for an equal one. */
export async function shareSession(model: OnnxModelProto, options: OpenOptions): Promise<SharedSession> {
  const key = keyOf(model, options);
  let entry = entries.get(key);
  if (!entry) {
    const weight = (model.graph.initializer ?? []).reduce((sum, tensor) => sum + (tensor.rawData?.length ?? 0), 0);
    const session = openSession(writeOnnx(model), { ...options, skippedOptimizers: idleOptimizers(model) });
    entry = { session, users: 0, weight };
  }
  // Last used goes last, so that the front is the oldest.
  entries.delete(key);
  entries.set(key, entry);
  entry.users++;
  const mine = entry;
  try {
    const session = await mine.session;
    let released = false;
    return {
      session,
      release: async () => {
        if (released) return;
        released = true;
        mine.users--;
        await evictIdle();
      },
    };
  } catch (error) {
    entries.delete(key);
    throw error;
  }
}

async function evictIdle(): Promise<void> {
  const idle = [...entries].filter(([, entry]) => entry.users === 0);
  const small = idle.filter(([, entry]) => entry.weight <= idleWeightLimit);
  const kept = new Set(small.slice(-idleLimit).map(([key]) => key));
  for (const [key, entry] of idle) {
    if (kept.has(key)) continue;
    entries.delete(key);
    await closeSession(await entry.session);
  }
}

function keyOf(model: OnnxModelProto, options: OpenOptions): string {
  const initializer = (model.graph.initializer ?? []).map(identify);
  const graph = hash128(writeOnnx({ ...model, graph: { ...model.graph, initializer } }));
  return `${graph} ${JSON.stringify(options)}`;
}

function identify(tensor: OnnxTensor): OnnxTensor {
  const data = tensor.rawData;
  if (!data || data.length <= 1024) return tensor;
  let id = bufferIds.get(data.buffer);
  if (id === undefined) {
    id = nextBufferId++;
    bufferIds.set(data.buffer, id);
  }
  return { ...tensor, rawData: new TextEncoder().encode(`${id}:${data.byteOffset}:${data.length}`) };
}
