/** ONNX Runtime in Node.js: the only file that knows the native package. */
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import * as ort from 'onnxruntime-node';
import { EngineError } from '../errors.js';
import type { DType, HostTensor } from '../host-tensor.js';
import { createInThread } from './session-thread.js';
import { backendMissing, copyOf, extraOptions, identityModel, livesOnGpu, messageOf, runSession } from './shared.js';
import type { Backend, DeviceTensor, OpenOptions, ProfileEvent, Residence, Session, SessionOptions } from './types.js';

export { closeSession, runInto, runSession, stoppingBeforeCopies, toHost } from './shared.js';
export type { Backend, DeviceTensor, OpenOptions, ProfileEvent, Session, SessionOptions } from './types.js';

export const defaultBackend: Backend = 'cpu';

const webgpuAdvice =
  'It needs a Vulkan, Metal or Direct3D 12 driver; without a graphics card, a software driver such as SwiftShader does (VK_ICD_FILENAMES names its .json, set before the process first uses WebGPU).';
const cudaAdvice =
  "It needs Linux x64, an NVIDIA driver, CUDA 12, cuDNN 9 and onnxruntime-node's CUDA libraries, which its install script fetches unless ONNXRUNTIME_NODE_INSTALL=skip.";

export async function openSession(model: Uint8Array | string, options: OpenOptions = {}): Promise<Session> {
  const { backend = defaultBackend, resident = [] } = options;
  const found = ort.listSupportedBackends().map(({ name }) => name);
  if (!found.includes(backend)) {
    const advice = backend === 'wasm' ? 'wasm is for browsers; in Node.js use cpu.' : 'Use cpu.';
    throw backendMissing(backend, `onnxruntime-node has ${found.join(', ')} on ${process.platform}`, advice);
  }
  const threads = options.threads ?? (Number(process.env.FEWTUNE_THREADS) || undefined);
  const create = options.thread === undefined ? ort.InferenceSession.create : createInThread;
  try {
    const native = await create(model as Uint8Array, {
      executionProviders: [backend],
      graphOptimizationLevel: 'all',
      extra: extraOptions(options),
      logSeverityLevel: 3,
      enableMemPattern: options.planMemory ?? false,
      ...(options.profilePrefix ? { enableProfiling: true, profileFilePrefix: options.profilePrefix } : {}),
      ...(threads ? { intraOpNumThreads: threads } : {}),
      ...(backend === 'webgpu' && resident.length > 0
        ? { preferredOutputLocation: Object.fromEntries(resident.map((name) => [name, 'gpu-buffer' as const])) }
        : {}),
    });
    return { native, backend, inputNames: native.inputNames, outputNames: native.outputNames };
  } catch (cause) {
    const message = messageOf(cause);
    if (backend === 'webgpu' && /WebGPU (adapter|device)/i.test(message)) {
      throw backendMissing(backend, 'no graphics adapter was found', webgpuAdvice, cause);
    }
    if (backend === 'cuda' && /cuda|cudnn|providers_shared/i.test(message)) {
      throw backendMissing(backend, 'its libraries do not load', cudaAdvice, cause);
    }
    throw new EngineError('SESSION_FAILED', `ONNX Runtime cannot open the program: ${message}`, { cause });
  }
}

export const threadsEach = (sessions: number): number =>
  Number(process.env.FEWTUNE_THREADS) || Math.max(1, Math.floor(availableParallelism() / sessions));

export async function recordProfile(
  model: Uint8Array,
  options: OpenOptions,
  use: (session: Session) => Promise<void>,
): Promise<readonly ProfileEvent[]> {
  const folder = await mkdtemp(path.join(tmpdir(), 'fewtune-profile-'));
  try {
    const session = await openSession(model, { ...options, profilePrefix: path.join(folder, 'profile') });
    try {
      await use(session);
      session.native.endProfiling();
    } finally {
      await session.native.release();
    }
    const [file] = await readdir(folder);
    return JSON.parse(await readFile(path.join(folder, file!), 'utf8'));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

export function toDevice({ dtype, shape, data }: HostTensor): DeviceTensor {
  return new ort.Tensor(dtype as 'float32', data as Float32Array, shape);
}

export function residence(backend: Backend | undefined, dtype: DType): Residence {
  if (livesOnGpu(backend, dtype)) return 'device';
  return backend === undefined || backend === 'cpu' ? 'preallocated' : 'replaced';
}

/** Sessions that carry values to and from GPU buffers: Node.js has no other way there (`getData` ends the process). */
const carriers = new Map<string, Promise<Session>>();

async function carry(tensor: DeviceTensor, direction: 'up' | 'down'): Promise<DeviceTensor> {
  const key = `${tensor.type} ${direction}`;
  let session = carriers.get(key);
  if (!session) {
    const resident = direction === 'up' ? ['y'] : [];
    session = openSession(identityModel(tensor.type as DType), { backend: 'webgpu', resident });
    carriers.set(key, session);
  }
  const { y } = await runSession(await session, { x: tensor }, { y: null });
  return y!;
}

export async function upload(tensor: HostTensor, { backend }: SessionOptions): Promise<DeviceTensor> {
  const host = toDevice(tensor);
  return livesOnGpu(backend, tensor.dtype) && tensor.data.length > 0 ? carry(host, 'up') : host;
}

export async function download(tensor: DeviceTensor): Promise<HostTensor> {
  return copyOf(tensor.location === 'gpu-buffer' ? await carry(tensor, 'down') : tensor);
}
