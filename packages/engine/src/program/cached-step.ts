import type { DeviceTensor, SessionOptions } from '#backend';
import { toDevice, upload } from '#backend';
import { isSymbolic, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import type { HostTensor, TypedArray } from '../host-tensor.js';
import { hostTensor } from '../host-tensor.js';
import { mul } from '../ops/arithmetic.js';
import { identity } from '../ops/control.js';
import type { Named } from '../optim/optimizer.js';
import type { Tensor, TensorSpec } from '../tensor.js';
import { placeholder, scalar } from '../tensor.js';
import { gradients, pullBack, reached } from '../transforms/grad.js';
import { withPrecision } from '../transforms/precision.js';
import { warnOfHalfPrecision } from './fallbacks.js';
import { checkInputs } from './program.js';
import { Queue } from './queue.js';
import { ProgramState } from './state.js';
import type { StateTrace } from './state-program.js';
import { StateProgram } from './state-program.js';
import type { HostBatch, StepMetrics, TracedBatch, UpdateOptions } from './update.js';
import {
  accepted,
  addGradients,
  addLoss,
  batchFeeds,
  givenInputs,
  lossScaleOf,
  metricsOf,
  placeholders,
  prefixed,
  seedOf,
  startState,
  startSums,
  stateInputs,
  storedWeights,
  traceSumsUpdate,
  under,
} from './update.js';

export interface CachedStepOptions<B extends Named<TensorSpec>, T extends Named<TensorSpec>>
  extends SessionOptions,
    UpdateOptions {
  /** Start values of the trained weights; copied. */
  readonly params: Named<HostTensor>;
  /** Weights that do not change. */
  readonly frozen?: Named<HostTensor>;
  /** What is encoded; the first axis of everything that is encoded is symbolic, and micro-batches may differ in it. */
  readonly batch: B;
  /**
   * Representations by name, each with one row a row of the batch: `{ z: [batch, width] }`. Rows must not look at each
   * other, or they would see the micro-batch only. `step` (int64 scalar) seeds dropout, another for every micro-batch.
   */
  readonly encode: (
    params: Named<Tensor>,
    given: { frozen: Named<Tensor>; batch: TracedBatch<B>; step: Tensor },
  ) => Named<Tensor>;
  /** What the loss is given besides, for all rows at once: labels, for example. */
  readonly targets?: T;
  /** The loss over the representations of all micro-batches, a float32 scalar. */
  readonly loss: (
    representations: Named<Tensor>,
    given: { params: Named<Tensor>; frozen: Named<Tensor>; targets: TracedBatch<T>; step: Tensor },
  ) => Tensor;
}

interface Programs {
  readonly encode: StateProgram;
  readonly loss: StateProgram;
  readonly backward: StateProgram;
  readonly update: StateProgram;
}

/**
 * A training step whose loss looks at all rows of a large batch (in-batch contrastive losses) while the encoder holds
 * only one micro-batch: representations are computed first, the loss gives their cotangents, and each micro-batch is then
 * encoded again and pulled back. It equals the step on the large batch, for one more forward pass.
 * Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup", arXiv:2101.06983.
 */
export class CachedStep<B extends Named<TensorSpec>, T extends Named<TensorSpec> = Record<never, never>> {
  private readonly queue = new Queue();

  private constructor(
    private readonly specs: { batch: B; targets: T; representations: Named<TensorSpec> },
    private readonly fixed: Readonly<Record<string, DeviceTensor>>,
    private readonly state: ProgramState,
    private readonly programs: Programs,
  ) {}

  static async create<B extends Named<TensorSpec>, T extends Named<TensorSpec> = Record<never, never>>(
    given: CachedStepOptions<B, T>,
  ): Promise<CachedStep<B, T>> {
    warnOfHalfPrecision(given.precision, given.backend);
    const options = underPolicy(given);
    const { params, frozen = {}, batch, targets = {} as T } = options;
    const start = { ...startState(params, options), ...startSums(params) };
    const where = { backend: options.backend, threads: options.threads, planMemory: options.planMemory };
    const state = await ProgramState.create(start, where);
    const refusable = lossScaleOf(options) !== undefined;
    const open = (name: string, trace: StateTrace) => StateProgram.open(name, state, trace, { ...where, refusable });
    const encoding = traceEncode(options, start);
    const programs = {
      encode: await open('encoder', encoding),
      loss: await open('loss', traceLoss(options, start, encoding.results)),
      backward: await open('backward pass', traceBackward(options, start)),
      update: await open('update', traceSumsUpdate(start, options)),
    };
    const fixed: Record<string, DeviceTensor> = {};
    for (const [name, tensor] of Object.entries(frozen)) fixed[`frozen/${name}`] = await upload(tensor, where);
    return new CachedStep<B, T>({ batch, targets, representations: encoding.results }, fixed, state, programs);
  }

  /**
   * One step. The loss is that of the weights before it. Whatever is asked of a step while it is at work waits for its turn.
   *
   * @param parts   micro-batches of any sizes
   * @param targets for all their rows, in order
   * @throws EngineError INPUT_MISMATCH; with nothing changed
   */
  run(parts: readonly HostBatch<B>[], targets: HostBatch<T> = {} as HostBatch<T>): Promise<StepMetrics> {
    return this.queue.add(() => this.runNow(parts, targets));
  }

  private async runNow(parts: readonly HostBatch<B>[], targets: HostBatch<T>): Promise<StepMetrics> {
    if (parts.length === 0) throw new EngineError('ARGUMENT_INVALID', 'a step takes at least one micro-batch');
    const { encode, loss, backward, update } = this.programs;
    const feeds = parts.map((part, i) => ({
      ...this.fixed,
      ...batchFeeds(this.specs.batch, part),
      part: toDevice(hostTensor('int64', [], [i])),
    }));
    try {
      const encoded: Record<string, HostTensor>[] = [];
      for (const feed of feeds) encoded.push(await encode.run(feed));
      const joined = Object.keys(encoded[0]!).map((name) => [name, join(encoded.map((part) => part[name]!))] as const);
      const given = { ...this.fixed, ...this.lossFeeds(Object.fromEntries(joined), targets) };
      const cotangents = under(await loss.run(given), 'cotangent');
      const from = new Map<string, number>();
      for (const [i, feed] of feeds.entries()) {
        const own: Record<string, DeviceTensor> = {};
        for (const [name, cotangent] of Object.entries(cotangents)) {
          const rows = encoded[i]![name]!.shape[0]!;
          const first = from.get(name) ?? 0;
          own[`cotangent/${name}`] = toDevice(rowsOf(cotangent, first, rows));
          from.set(name, first + rows);
        }
        await backward.run({ ...feed, ...own });
      }
      return metricsOf(await update.run({}, (found, writes) => accepted(writes, found)));
    } finally {
      await this.state.clear(this.state.names.filter((name) => name.startsWith('sum/')));
    }
  }

  /** Targets must have as many rows as there are representations. */
  private lossFeeds(representations: Named<HostTensor>, targets: HostBatch<T>): Record<string, DeviceTensor> {
    const both = <V>(first: Named<V>, second: Named<V>) => ({
      ...prefixed(first, 'representation'),
      ...prefixed(second, 'target'),
    });
    const given = both<HostTensor>(representations, targets);
    const specs = both<TensorSpec>(this.specs.representations, this.specs.targets);
    checkInputs('loss of the training step', new Map(Object.entries(specs)), new Map(Object.entries(given)));
    return Object.fromEntries(Object.entries(given).map(([name, tensor]) => [name, toDevice(tensor)]));
  }

  /** Copies of the trained weights as they are now. */
  params(): Promise<Record<string, HostTensor>> {
    const names = this.state.names.filter((name) => name.startsWith('param/'));
    return this.queue.add(async () => under(await this.state.read(names), 'param'));
  }

  /** Everything that a later `restore` needs to go on. Copies. */
  snapshot(): Promise<Record<string, HostTensor>> {
    return this.queue.add(() => this.state.read());
  }

  /** Goes back to a snapshot. @throws EngineError INPUT_MISMATCH when the snapshot is of another step */
  restore(snapshot: Named<HostTensor>): Promise<void> {
    return this.queue.add(() => this.state.write(snapshot));
  }

  /** Lets what was asked for before come to its end; what is asked for later is refused. */
  dispose(): Promise<void> {
    return this.queue.add(async () => {
      for (const program of Object.values<StateProgram>({ ...this.programs })) await program.dispose();
      this.state.dispose();
      for (const tensor of Object.values(this.fixed)) if (tensor.location === 'gpu-buffer') tensor.dispose();
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}

/** The options with their precision policy already worked in. */
function underPolicy<B extends Named<TensorSpec>, T extends Named<TensorSpec>>(options: Options<B, T>): Options<B, T> {
  const { precision } = options;
  if (!precision) return options;
  const policy = { ...precision, output: 'float32' } as const;
  const frozen = storedWeights(options.frozen ?? {}, precision);
  const encode = withPrecision(options.encode, policy);
  return { ...options, frozen, encode, loss: withPrecision(options.loss, policy) };
}

type Options<B extends Named<TensorSpec>, T extends Named<TensorSpec>> = CachedStepOptions<B, T>;

function traceEncode<B extends Named<TensorSpec>, T extends Named<TensorSpec>>(
  options: Options<B, T>,
  start: Named<HostTensor>,
): StateTrace {
  const reads = stateInputs(start, 'step', 'param');
  const { given, ...inputs } = givenInputs(options.frozen ?? {}, options.batch);
  const part = placeholder('part', { dtype: 'int64', shape: [] });
  const results = options.encode(under(reads, 'param'), { ...inputs, step: seedOf(reads.step!, part) });
  for (const [name, { shape }] of Object.entries(results)) {
    if (shape.length > 0 && isSymbolic(shape[0]!)) continue;
    throw new EngineError(
      'SHAPE_MISMATCH',
      `the representation "${name}" is ${showShape(shape)}, but its first axis must be a symbol such as "batch": ` +
        'the loss sees the rows of all micro-batches',
    );
  }
  return { reads, given: { ...given, part }, writes: {}, results };
}

function traceLoss<B extends Named<TensorSpec>, T extends Named<TensorSpec>>(
  options: Options<B, T>,
  start: Named<HostTensor>,
  encoded: Named<Tensor>,
): StateTrace {
  const reads = stateInputs(start, 'step', 'param', 'scale', 'sum');
  const frozen = placeholders(options.frozen ?? {}, 'frozen');
  const targets = placeholders(options.targets ?? {}, 'target') as TracedBatch<T>;
  const representations = placeholders(encoded, 'representation');
  const params = under(reads, 'param');
  const loss = options.loss(representations, { params, frozen, targets, step: reads.step! });
  // The loss may have weights of its own, a temperature for example.
  const paths = reached([loss], [scalar(1)], Object.values(params));
  const own = Object.entries(params).filter((_, i) => paths[i] !== undefined);
  const names = Object.keys(representations);
  const scaled = mul(loss, reads['scale/value'] ?? 1);
  const found = gradients(scaled, [...Object.values(representations), ...own.map(([, tensor]) => tensor)]);
  const cotangents = Object.fromEntries(names.map((name, i) => [`cotangent/${name}`, found[i]!]));
  const direct = Object.fromEntries(own.map(([name], i) => [name, found[names.length + i]!]));
  return {
    reads,
    given: {
      ...prefixed(frozen, 'frozen'),
      ...prefixed<Tensor>(targets, 'target'),
      ...prefixed(representations, 'representation'),
    },
    writes: { ...addGradients(reads, direct), ...addLoss(reads, loss, scalar(1)) },
    results: cotangents,
  };
}

function traceBackward<B extends Named<TensorSpec>, T extends Named<TensorSpec>>(
  options: Options<B, T>,
  start: Named<HostTensor>,
): StateTrace {
  const { reads: encodeReads, given, results } = traceEncode(options, start);
  const reads = { ...encodeReads, ...stateInputs(start, 'sum') };
  const cotangents = placeholders(results, 'cotangent');
  const params = under(encodeReads, 'param');
  const outputs = Object.values(results).map(identity); // a representation may be a weight itself
  const found = pullBack(outputs, Object.values(cotangents), Object.values(params));
  const gradient = Object.fromEntries(Object.keys(params).map((name, i) => [name, found[i]!]));
  return {
    reads,
    given: { ...given, ...prefixed(cotangents, 'cotangent') },
    writes: addGradients(reads, gradient),
    results: {},
  };
}

/** Tensors one after the other along their first axis. */
function join(tensors: readonly HostTensor[]): HostTensor {
  const { dtype, shape, data } = tensors[0]!;
  if (tensors.length === 1) return tensors[0]!;
  const rows = tensors.reduce((sum, tensor) => sum + tensor.shape[0]!, 0);
  const length = tensors.reduce((sum, tensor) => sum + tensor.data.length, 0);
  const all = new (data.constructor as new (length: number) => TypedArray)(length);
  let at = 0;
  for (const tensor of tensors) {
    (all as Float32Array).set(tensor.data as Float32Array, at);
    at += tensor.data.length;
  }
  return hostTensor(dtype, [rows, ...shape.slice(1)], all);
}

/** Some rows, without a copy. */
function rowsOf({ dtype, shape, data }: HostTensor, first: number, rows: number): HostTensor {
  const width = data.length / shape[0]!;
  return hostTensor(dtype, [rows, ...shape.slice(1)], data.subarray(first * width, (first + rows) * width));
}

export const cachedStep = CachedStep.create;
