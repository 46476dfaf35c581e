/** What the backends have in common. */
import { EngineError } from '../errors.js';
import type { DType, HostTensor, TypedArray } from '../host-tensor.js';
import { hostTensor, onnxType } from '../host-tensor.js';
import type { OnnxModelProto } from '../onnx/model.js';
import { writeOnnx } from '../onnx/model.js';
import type { Backend, DeviceTensor, OpenOptions, Session } from './types.js';

/** dtypes that stay in GPU buffers: WebGPU computes in them; the others (counters, indices) are small and host-bound. */
const gpuTypes: ReadonlySet<DType> = new Set(['float32', 'float16', 'int32', 'uint32']);
export const livesOnGpu = (backend: Backend | undefined, dtype: DType): boolean =>
  backend === 'webgpu' && gpuTypes.has(dtype);

export async function runSession(
  { native }: Session,
  feeds: Readonly<Record<string, DeviceTensor>>,
  outputs: Readonly<Record<string, DeviceTensor | null>>,
): Promise<Record<string, DeviceTensor>> {
  try {
    return (await native.run(feeds, outputs)) as Record<string, DeviceTensor>;
  } catch (cause) {
    throw new EngineError('SESSION_FAILED', `ONNX Runtime stopped: ${messageOf(cause)}`, { cause });
  }
}

const stopName = 'stop';
const stopMessage = 'Non tensor type is temporarily not supported';

/**
 * The model with one more output, the first, which is no tensor. onnxruntime-node copies every output into a new array
 * before it returns, also those it has just written where it was told to: for a training step that is a copy of all
 * weights and moments, and as much garbage. At an output that is no tensor it stops with an error instead; by then
 * everything has been written. `runInto` runs such a model.
 */
export function stoppingBeforeCopies(model: OnnxModelProto): OnnxModelProto {
  const { graph } = model;
  const stop = { opType: 'SequenceEmpty', name: stopName, input: [], output: [stopName] };
  return { ...model, graph: { ...graph, node: [stop, ...graph.node], output: [{ name: stopName }, ...graph.output] } };
}

/** Runs a model of `stoppingBeforeCopies`: every other output is written into the tensor that is given for it. */
export async function runInto(
  { native }: Session,
  feeds: Readonly<Record<string, DeviceTensor>>,
  outputs: Readonly<Record<string, DeviceTensor>>,
): Promise<void> {
  try {
    await native.run(feeds, { [stopName]: null, ...outputs });
  } catch (cause) {
    if (messageOf(cause).includes(stopMessage)) return;
    throw new EngineError('SESSION_FAILED', `ONNX Runtime stopped: ${messageOf(cause)}`, { cause });
  }
}

export async function closeSession(session: Session): Promise<void> {
  await session.native.release();
}

export function toHost(tensor: DeviceTensor): HostTensor {
  return { dtype: tensor.type as DType, shape: tensor.dims, data: hostData(tensor.type, tensor.data) };
}

/** Our float16 is its 16 bits; where the platform has a Float16Array, ONNX Runtime hands that out. */
export function hostData(type: string, data: unknown): TypedArray {
  const { buffer, byteOffset, length } = data as TypedArray;
  return type === 'float16' ? new Uint16Array(buffer, byteOffset, length) : (data as TypedArray);
}

export function copyOf(tensor: DeviceTensor): HostTensor {
  const { dtype, shape, data } = toHost(tensor);
  return hostTensor(dtype, shape, data.slice());
}

/** A graph that hands its input on, of any rank: the way between host memory and a device. */
export function identityModel(dtype: DType): Uint8Array {
  const value = (name: string) => ({ name, type: { tensorType: { elemType: onnxType[dtype] } } });
  return writeOnnx({
    irVersion: 9,
    producerName: 'fewtune',
    opsetImport: [{ domain: '', version: 20 }],
    graph: {
      name: 'identity',
      node: [{ opType: 'Identity', name: 'identity', input: ['x'], output: ['y'] }],
      input: [value('x')],
      output: [value('y')],
    },
  });
}

export function backendMissing(asked: Backend, here: string, advice: string, cause?: unknown): EngineError {
  const message = `the backend "${asked}" is not there: ${here}. ${advice}`;
  return new EngineError('BACKEND_MISSING', message, cause === undefined ? undefined : { cause });
}

/** Options that ONNX Runtime takes by name. */
export function extraOptions({ skippedOptimizers = [] }: OpenOptions): Record<string, unknown> {
  return { optimization: { disable_specified_optimizers: skippedOptimizers.join(';') } };
}

export function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
