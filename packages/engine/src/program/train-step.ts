import type { DeviceTensor, SessionOptions } from '#backend';
import { runSession, toDevice, upload } from '#backend';
import { EngineError } from '../errors.js';
import type { HostTensor } from '../host-tensor.js';
import { zeros } from '../host-tensor.js';
import { add } from '../ops/arithmetic.js';
import { cast } from '../ops/compare.js';
import { clipByGlobalNorm } from '../optim/clip.js';
import type { Named, Optimizer } from '../optim/optimizer.js';
import type { Schedule } from '../optim/schedule.js';
import type { Tensor, TensorSpec } from '../tensor.js';
import { placeholder } from '../tensor.js';
import { valueAndGrad } from '../transforms/grad.js';
import { emit } from './emitter.js';
import { checkInputs } from './program.js';
import type { SharedSession } from './session-cache.js';
import { shareSession } from './session-cache.js';
import { ProgramState } from './state.js';

/** The traced tensors, and the host tensors, of a batch. */
export type TracedBatch<B> = { readonly [K in keyof B]: Tensor };
export type HostBatch<B> = { readonly [K in keyof B]: HostTensor };

export interface TrainStepOptions<B extends Named<TensorSpec>> extends SessionOptions {
  /** Start values of the trained weights; copied. */
  readonly params: Named<HostTensor>;
  /** Weights that do not change: inputs of the program, so that several programs share one copy. */
  readonly frozen?: Named<HostTensor>;
  /** What each step is given. */
  readonly batch: B;
  /** The loss, a float32 scalar; `step` (int64 scalar, 0 first) seeds dropout. */
  readonly loss: (
    params: Named<Tensor>,
    given: { frozen: Named<Tensor>; batch: TracedBatch<B>; step: Tensor },
  ) => Tensor;
  readonly optimizer: Optimizer;
  readonly schedule: Schedule;
  /** Largest global norm of the gradient; unlimited when left out. */
  readonly clipNorm?: number;
}

export interface StepMetrics {
  readonly loss: number;
  readonly lr: number;
  /** Global norm before clipping; only with `clipNorm`. */
  readonly gradientNorm?: number;
}

/**
 * A training step as one program: forward, backward and optimiser. Its state (weights, moments, step count) stays in
 * place from run to run.
 */
export class TrainStep<B extends Named<TensorSpec>> {
  private constructor(
    private readonly batchSpecs: ReadonlyMap<string, TensorSpec>,
    private readonly paramNames: readonly string[],
    private readonly fixed: Readonly<Record<string, DeviceTensor>>,
    private readonly state: ProgramState,
    private readonly metricNames: readonly string[],
    private shared: SharedSession | undefined,
  ) {}

  static async create<B extends Named<TensorSpec>>(options: TrainStepOptions<B>): Promise<TrainStep<B>> {
    const { params, frozen = {}, batch, optimizer, clipNorm } = options;
    const start: Record<string, HostTensor> = { step: zeros('int64', []) };
    for (const [name, value] of Object.entries(params)) start[`param/${name}`] = value;
    for (const [name, value] of Object.entries(optimizer.init(params))) start[`optimizer/${name}`] = value;

    const inputs: Record<string, Tensor> = {};
    const trace = (name: string, spec: TensorSpec) => (inputs[name] = placeholder(name, spec));
    const traceAll = (values: Named<HostTensor>, prefix: string) =>
      Object.fromEntries(Object.entries(values).map(([name, value]) => [name, trace(`${prefix}/${name}`, value)]));
    const step = trace('step', start.step!);
    const tracedParams = traceAll(params, 'param');
    const state = traceAll(optimizer.init(params), 'optimizer');
    const tracedFrozen = traceAll(frozen, 'frozen');
    const tracedBatch = Object.fromEntries(
      Object.entries(batch).map(([name, spec]) => [name, trace(`batch/${name}`, spec)]),
    );

    const given = { frozen: tracedFrozen, batch: tracedBatch as TracedBatch<B>, step };
    const { value, gradient } = valueAndGrad(options.loss)(tracedParams, given);
    const clipped = clipNorm === undefined ? { gradients: gradient } : clipByGlobalNorm(gradient, clipNorm);
    const count = add(step, 1);
    const at = { step: cast(count, 'float32'), lr: options.schedule(cast(count, 'float32')) };
    const updated = optimizer.update(clipped.gradients, state, tracedParams, at);

    const metrics: Record<string, Tensor> = { loss: value, lr: at.lr };
    if ('norm' in clipped) metrics.gradientNorm = clipped.norm;
    const outputs: Record<string, Tensor> = { 'new/step': count };
    for (const [name, tensor] of Object.entries(updated.params)) outputs[`new/param/${name}`] = tensor;
    for (const [name, tensor] of Object.entries(updated.state)) outputs[`new/optimizer/${name}`] = tensor;
    for (const [name, tensor] of Object.entries(metrics)) outputs[`metric/${name}`] = tensor;

    const model = emit(inputs, outputs, { name: 'train-step' });
    const where = { backend: options.backend, threads: options.threads };
    const values = await ProgramState.create(start, where);
    const shared = await shareSession(model, { ...where, resident: values.resident() });
    const fixed: Record<string, DeviceTensor> = {};
    for (const [name, tensor] of Object.entries(frozen)) fixed[`frozen/${name}`] = await upload(tensor, where);
    return new TrainStep<B>(
      new Map(Object.entries(batch)),
      Object.keys(params),
      fixed,
      values,
      Object.keys(metrics),
      shared,
    );
  }

  /** One step. The loss is of the weights before it. */
  async run(batch: HostBatch<B>): Promise<StepMetrics> {
    if (!this.shared) throw new EngineError('DISPOSED', 'the training step was disposed');
    const given = new Map<string, HostTensor>(Object.entries(batch));
    checkInputs('training step', this.batchSpecs, given);
    const feeds: Record<string, DeviceTensor> = { ...this.fixed, ...this.state.feeds() };
    for (const [path, tensor] of given) feeds[`batch/${path}`] = toDevice(tensor);
    const fetches: Record<string, DeviceTensor | null> = this.state.fetches();
    for (const name of this.metricNames) fetches[`metric/${name}`] = null;
    const outputs = await runSession(this.shared.session, feeds, fetches);
    this.state.swap(outputs);
    const metrics = this.metricNames.map((name) => [name, Number(outputs[`metric/${name}`]!.data[0])]);
    return Object.fromEntries(metrics) as StepMetrics;
  }

  /** Copies of the trained weights as they are now. */
  async params(): Promise<Record<string, HostTensor>> {
    const values = await this.state.read(this.paramNames.map((name) => `param/${name}`));
    return Object.fromEntries(this.paramNames.map((name) => [name, values[`param/${name}`]!]));
  }

  /** Everything that a later `restore` needs to go on: weights, optimiser state, step count. Copies. */
  snapshot(): Promise<Record<string, HostTensor>> {
    return this.state.read();
  }

  /**
   * Goes back to a snapshot: the next step is bit-equal to the one that followed it.
   *
   * @throws EngineError INPUT_MISMATCH when the snapshot is of another step
   */
  restore(snapshot: Named<HostTensor>): Promise<void> {
    return this.state.write(snapshot);
  }

  async dispose(): Promise<void> {
    const shared = this.shared;
    this.shared = undefined;
    if (!shared) return;
    this.state.dispose();
    for (const tensor of Object.values(this.fixed)) if (tensor.location === 'gpu-buffer') tensor.dispose();
    await shared.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}

export const trainStep = TrainStep.create;
