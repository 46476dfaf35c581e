/** ONNX Runtime in browsers: the only file that knows the WebAssembly package. */
import type * as Ort from 'onnxruntime-common';
import { EngineError } from '../errors.js';
import type { DType, HostTensor } from '../host-tensor.js';
import {
  backendMissing,
  copyOf,
  extraOptions,
  hostData,
  identityModel,
  livesOnGpu,
  messageOf,
  runSession,
} from './shared.js';
import type { Backend, DeviceTensor, OpenOptions, Residence, Session, SessionOptions } from './types.js';

export { closeSession, runInto, runSession, stoppingBeforeCopies, toHost } from './shared.js';
export type { Backend, DeviceTensor, OpenOptions, ProfileEvent, Session, SessionOptions } from './types.js';

export const defaultBackend: Backend = 'wasm';

/** What a page may offer; the compiler knows no browser here. */
const page = globalThis as {
  readonly navigator?: { readonly gpu?: { requestAdapter(): Promise<unknown> }; readonly hardwareConcurrency?: number };
  readonly crossOriginIsolated?: boolean;
};

// Two builds of the runtime: the one with WebGPU is twice as large, and slower on the processor.
const packages = {
  wasm: () => import('onnxruntime-web/wasm'),
  webgpu: () => import('onnxruntime-web/webgpu'),
};
const loaded = new Map<Backend, Promise<typeof Ort>>();
/** Of whichever build was loaded first; they are alike. */
let TensorClass: typeof Ort.Tensor | undefined;

function load(backend: 'wasm' | 'webgpu', threads: number | undefined): Promise<typeof Ort> {
  const known = loaded.get(backend);
  if (known) return known;
  const loading = start(backend, threads);
  loaded.set(backend, loading);
  loading.catch(() => loaded.delete(backend));
  return loading;
}

async function start(backend: 'wasm' | 'webgpu', threads: number | undefined): Promise<typeof Ort> {
  if (backend === 'webgpu' && !(await page.navigator?.gpu?.requestAdapter())) {
    const here = page.navigator?.gpu ? 'the browser finds no graphics adapter' : 'this browser has no navigator.gpu';
    throw backendMissing(backend, here, 'WebGPU needs a secure page (https or localhost); wasm runs everywhere.');
  }
  let ort: typeof Ort;
  try {
    ort = await packages[backend]();
  } catch (cause) {
    const advice = 'Install onnxruntime-web beside @fewtune/engine, or map the name in the import map.';
    throw backendMissing(backend, `onnxruntime-web/${backend} cannot be loaded`, advice, cause);
  }
  if (threads !== undefined) {
    if (threads > 1 && !page.crossOriginIsolated) {
      console.warn(
        `fewtune: ${threads} threads were asked for, but this page is not cross-origin isolated, so there is one; serve it with Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp`,
      );
    }
    ort.env.wasm.numThreads = page.crossOriginIsolated ? threads : 1;
  }
  TensorClass ??= ort.Tensor;
  return ort;
}

export async function openSession(model: Uint8Array | string, options: OpenOptions = {}): Promise<Session> {
  const { backend = defaultBackend, resident = [] } = options;
  if (backend !== 'wasm' && backend !== 'webgpu') {
    throw backendMissing(backend, 'browsers have wasm and webgpu', 'Use one of them, or leave `backend` out.');
  }
  if (options.thread !== undefined) {
    throw new EngineError(
      'ARGUMENT_INVALID',
      'sessions in threads of their own (`replicas`) are there in Node.js only',
    );
  }
  const ort = await load(backend, options.threads);
  try {
    const native = await ort.InferenceSession.create(model as Uint8Array, {
      executionProviders: [backend],
      graphOptimizationLevel: 'all',
      extra: extraOptions(options),
      logSeverityLevel: 3,
      enableMemPattern: options.planMemory ?? false,
      ...(backend === 'webgpu' && resident.length > 0
        ? { preferredOutputLocation: Object.fromEntries(resident.map((name) => [name, 'gpu-buffer' as const])) }
        : {}),
    });
    return { native, backend, inputNames: native.inputNames, outputNames: native.outputNames };
  } catch (cause) {
    throw new EngineError('SESSION_FAILED', `ONNX Runtime cannot open the program: ${messageOf(cause)}`, { cause });
  }
}

export const threadsEach = (): number => 1;

export async function recordProfile(): Promise<never> {
  throw new EngineError('ARGUMENT_INVALID', 'profiles are made in Node.js: ONNX Runtime writes them to a file');
}

export function toDevice({ dtype, shape, data }: HostTensor): DeviceTensor {
  if (!TensorClass) throw new EngineError('SESSION_FAILED', 'open a session before making tensors for it');
  return new TensorClass(dtype as 'float32', data as Float32Array, shape);
}

/** The WebAssembly package copies outputs out of its heap: it cannot write into arrays of the page's. */
export function residence(backend: Backend | undefined, dtype: DType): Residence {
  return livesOnGpu(backend, dtype) ? 'device' : 'replaced';
}

const carriers = new Map<DType, Promise<Session>>();

export async function upload(tensor: HostTensor, options: SessionOptions): Promise<DeviceTensor> {
  const { backend } = options;
  if (!TensorClass) await load(backend === 'webgpu' ? 'webgpu' : 'wasm', options.threads);
  const host = toDevice(tensor);
  if (!livesOnGpu(backend, tensor.dtype) || tensor.data.length === 0) return host;
  let session = carriers.get(tensor.dtype);
  if (!session) {
    session = openSession(identityModel(tensor.dtype), { backend: 'webgpu', resident: ['y'] });
    carriers.set(tensor.dtype, session);
  }
  const { y } = await runSession(await session, { x: host }, { y: null });
  return y!;
}

export async function download(tensor: DeviceTensor): Promise<HostTensor> {
  if (tensor.location !== 'gpu-buffer') return copyOf(tensor);
  const data = await tensor.getData();
  return { dtype: tensor.type as DType, shape: tensor.dims, data: hostData(tensor.type, data) };
}
