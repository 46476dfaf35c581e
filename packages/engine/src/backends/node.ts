/** ONNX Runtime in Node.js: the only file that knows the native package. */
import * as ort from 'onnxruntime-node';
import { EngineError } from '../errors.js';
import type { DType, HostTensor } from '../host-tensor.js';

export interface SessionOptions {
  /** Threads for one operator; `FEWTUNE_THREADS` or else every core when left out. */
  readonly threads?: number;
}

/** A tensor that ONNX Runtime reads from, or writes to, in place. */
export type DeviceTensor = ort.Tensor;
export type Session = ort.InferenceSession;

/** Opens a model. @throws EngineError SESSION_FAILED with ONNX Runtime's own words */
export async function openSession(model: Uint8Array | string, options: SessionOptions = {}): Promise<Session> {
  const threads = options.threads ?? (Number(process.env.FEWTUNE_THREADS) || undefined);
  try {
    return await ort.InferenceSession.create(model as Uint8Array, {
      executionProviders: ['cpu'],
      graphOptimizationLevel: 'all',
      logSeverityLevel: 3,
      ...(threads ? { intraOpNumThreads: threads } : {}),
    });
  } catch (cause) {
    throw new EngineError('SESSION_FAILED', `ONNX Runtime cannot open the program: ${messageOf(cause)}`, { cause });
  }
}

/** Wraps host memory without copying it. */
export function toDevice({ dtype, shape, data }: HostTensor): DeviceTensor {
  return new ort.Tensor(dtype as 'float32', data as Float32Array, shape);
}

export function toHost(tensor: DeviceTensor): HostTensor {
  return { dtype: tensor.type as DType, shape: tensor.dims, data: tensor.data as Float32Array };
}

/** Runs once; `outputs` may hold preallocated tensors to write into, or null for new ones. */
export async function runSession(
  session: Session,
  feeds: Readonly<Record<string, DeviceTensor>>,
  outputs: Readonly<Record<string, DeviceTensor | null>>,
): Promise<Record<string, DeviceTensor>> {
  try {
    return (await session.run(feeds, outputs)) as Record<string, DeviceTensor>;
  } catch (cause) {
    throw new EngineError('SESSION_FAILED', `ONNX Runtime stopped: ${messageOf(cause)}`, { cause });
  }
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
