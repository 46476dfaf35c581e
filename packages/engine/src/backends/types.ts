/** What every backend is asked for and answers with; `node.ts` and `web.ts` implement it, `#backend` picks one. */
import type { InferenceSession, Tensor } from 'onnxruntime-common';
import type { HostTensor } from '../host-tensor.js';
import type { OnnxModelProto } from '../onnx/model.js';

/**
 * Where a program computes. `cpu` and `cuda` are Node.js only, `wasm` is the browser's processor; `webgpu` is in both.
 */
export type Backend = 'cpu' | 'webgpu' | 'cuda' | 'wasm';

export interface SessionOptions {
  /** `cpu` in Node.js and `wasm` in browsers when left out. */
  readonly backend?: Backend;
  /**
   * Threads for one operator on `cpu` and `wasm`; in Node.js `FEWTUNE_THREADS` or else every core when left out. A page
   * has one pool: the first session decides, and without cross-origin isolation it is one thread.
   */
  readonly threads?: number;
  /**
   * Lay out memory once for each combination of sizes: some per cent faster, for up to as much memory again beside the
   * weights. For programs whose sizes do not change.
   */
  readonly planMemory?: boolean;
}

/** A tensor that ONNX Runtime reads from, or writes to, in place. */
export type DeviceTensor = Tensor;

/** An open model and the backend it runs on. */
export interface Session {
  readonly native: Pick<InferenceSession, 'run' | 'release' | 'endProfiling' | 'inputNames' | 'outputNames'>;
  readonly backend: Backend;
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
}

export interface OpenOptions extends SessionOptions {
  /** Outputs that stay in the device's memory, to be fed again; they are never read where a backend has no such thing. */
  readonly resident?: readonly string[];
  /**
   * The session works in a thread of its own, by this number, so that several work at once; every run copies its inputs
   * there and its outputs back. Node.js only.
   */
  readonly thread?: number;
  /** Passes of the graph optimiser that the model has no use for. */
  readonly skippedOptimizers?: readonly string[];
  /** Where ONNX Runtime writes a profile of its operators: the beginning of a file's path. */
  readonly profilePrefix?: string;
}

/** What ONNX Runtime's profiler notes, in Chrome's trace format; times in microseconds. */
export interface ProfileEvent {
  readonly cat: string;
  readonly name: string;
  readonly ts: number;
  readonly dur: number;
  readonly args?: Readonly<Record<string, string | undefined>>;
}

/**
 * How values that live from run to run are kept: `preallocated` buffers that runs write to, outputs that `replace` the
 * values before them, or `device` memory (replaced as well, and freed by hand).
 */
export type Residence = 'preallocated' | 'replaced' | 'device';

export interface BackendModule {
  readonly defaultBackend: Backend;
  /** @throws EngineError BACKEND_MISSING, or SESSION_FAILED with ONNX Runtime's own words */
  openSession(model: Uint8Array | string, options?: OpenOptions): Promise<Session>;
  /** For a program all of whose outputs have a place: see `shared.ts`. */
  stoppingBeforeCopies(model: OnnxModelProto): OnnxModelProto;
  runInto(
    session: Session,
    feeds: Readonly<Record<string, DeviceTensor>>,
    outputs: Readonly<Record<string, DeviceTensor>>,
  ): Promise<void>;
  /** Runs once; `outputs` may hold preallocated tensors to write into, or null for new ones. */
  runSession(
    session: Session,
    feeds: Readonly<Record<string, DeviceTensor>>,
    outputs: Readonly<Record<string, DeviceTensor | null>>,
  ): Promise<Record<string, DeviceTensor>>;
  closeSession(session: Session): Promise<void>;
  /** Threads for each of several sessions that work at once, where nothing else is said. */
  threadsEach(sessions: number): number;
  /** What the profiler noted while `use` worked with a session of its own. @throws EngineError ARGUMENT_INVALID in browsers */
  recordProfile(
    model: Uint8Array,
    options: OpenOptions,
    use: (session: Session) => Promise<void>,
  ): Promise<readonly ProfileEvent[]>;
  /** Wraps host memory without copying it. */
  toDevice(tensor: HostTensor): DeviceTensor;
  /** Looks at a tensor in host memory without copying it. */
  toHost(tensor: DeviceTensor): HostTensor;
  residence(backend: Backend | undefined, dtype: HostTensor['dtype']): Residence;
  /** Copies into the device's memory; free it with `dispose()`. */
  upload(tensor: HostTensor, options: SessionOptions): Promise<DeviceTensor>;
  /** A copy in host memory, wherever the tensor stands. */
  download(tensor: DeviceTensor): Promise<HostTensor>;
}
