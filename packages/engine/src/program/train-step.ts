import type { DeviceTensor, SessionOptions } from '#backend';
import { toDevice, upload } from '#backend';
import { EngineError } from '../errors.js';
import type { HostTensor } from '../host-tensor.js';
import type { Named } from '../optim/optimizer.js';
import type { TensorSpec } from '../tensor.js';
import { warnOfHalfPrecision } from './fallbacks.js';
import type { MemoryPlan } from './memory.js';
import type { Profile, ProfileOptions } from './profile.js';
import { profilePrograms } from './profile.js';
import { Queue } from './queue.js';
import { checkReplicas, Replicas, replicaGiven } from './replicas.js';
import type { RowSelection, Rows } from './row-tables.js';
import { RowTables } from './row-tables.js';
import { Shadow } from './shadow.js';
import { ProgramState } from './state.js';
import type { SizedTrace, StateTrace } from './state-program.js';
import { StateProgram } from './state-program.js';
import type { TracedOptions, TrainStepOptions } from './train-options.js';
import { tracePart, traceReplica, traceShadow, traceWhole } from './train-traces.js';
import type { HostBatch, StepMetrics } from './update.js';
import {
  accepted,
  batchFeeds,
  lossScaleOf,
  mapValues,
  metricsOf,
  packsWeights,
  prefixed,
  startState,
  startSums,
  storedWeights,
  traceSumsUpdate,
  under,
} from './update.js';
import { withSizes } from './variants.js';

/**
 * A training step as a program: forward, backward and optimiser. Its state (weights, moments, step count) stays in
 * place from run to run.
 */
export class TrainStep<B extends Named<TensorSpec>> {
  /** Micro-batches in the sums. */
  private waiting = 0;
  private readonly queue = new Queue();

  private constructor(
    private readonly batchSpecs: B,
    private readonly fixed: Readonly<Record<string, DeviceTensor>>,
    private readonly state: ProgramState,
    /** The whole step at once, or a micro-batch and the update. */
    private readonly programs: { whole: StateProgram } | { part: StateProgram | Replicas; update: StateProgram },
    private readonly where: SessionOptions,
    private readonly shadow: Shadow | undefined,
    private readonly tables: RowTables | undefined,
  ) {}

  static async create<B extends Named<TensorSpec>>(given: TrainStepOptions<B>): Promise<TrainStep<B>> {
    warnOfHalfPrecision(given.precision, given.backend);
    const frozen = storedWeights(given.frozen ?? {}, given.precision);
    const packFrozen = given.packFrozen ?? packsWeights(frozen, given.backend, given.precision);
    const shadowed = given.shadow ?? given.precision?.compute === 'float16';
    const { params, ...others } = given;
    const options = { ...others, frozen, packFrozen, shadow: shadowed };
    const { batch, accumulate } = options;
    const replicas = typeof accumulate === 'object' ? accumulate.replicas : undefined;
    if (replicas !== undefined) checkReplicas(replicas, options);
    const values = { ...startState(params, options), ...(accumulate && startSums(params)) };
    const tables = options.rows && RowTables.of(values, options.rows, batch);
    const where = { backend: options.backend, threads: options.threads, planMemory: options.planMemory };
    const state = await ProgramState.create(tables ? tables.others(values) : values, where);
    // Not the values: a program that is traced anew must not keep those of the beginning.
    const specOf = ({ dtype, shape }: HostTensor): TensorSpec => ({ dtype, shape });
    const start = { ...mapValues(values, specOf), ...tables?.specs() };
    const refusable = Boolean(options.shadow) || lossScaleOf(options) !== undefined;
    const open = (name: string, trace: StateTrace | SizedTrace) =>
      StateProgram.open(name, state, trace, { ...where, debugNans: options.debugNans, refusable });
    const sized = (trace: (options: TracedOptions<B>, start: Named<TensorSpec>) => StateTrace): SizedTrace => ({
      specs: prefixed<TensorSpec>(batch, 'batch'),
      trace: (sizes) => {
        const traced = trace({ ...options, batch: mapValues(batch, (spec) => withSizes(spec, sizes)) as B }, start);
        return tables ? tables.handOver(traced) : traced;
      },
    });
    const update = () => {
      const traced = traceSumsUpdate(start, options);
      return open('update', tables ? tables.handOver(traced) : traced);
    };
    const part = () =>
      replicas === undefined
        ? open('micro-batch', sized(tracePart))
        : Replicas.open(replicas, sized(traceReplica), { ...where, debugNans: options.debugNans });
    const programs = accumulate
      ? { part: await part(), update: await update() }
      : { whole: await open('training step', sized(traceWhole)) };
    const shadow = options.shadow
      ? new Shadow(await open('float32 shadow', sized(traceShadow)), options.shadow === true ? {} : options.shadow)
      : undefined;
    const fixed: Record<string, DeviceTensor> = {};
    for (const [name, tensor] of Object.entries(packFrozen ? {} : frozen)) {
      fixed[`frozen/${name}`] = await upload(tensor, where);
    }
    return new TrainStep<B>(batch, fixed, state, programs, where, shadow, tables);
  }

  /**
   * One step, of one batch or of micro-batches of any sizes, which together equal the one large batch. The loss is that
   * of the weights before the step. Whatever is asked of a step while it is at work waits for its turn.
   *
   * @throws EngineError INPUT_MISMATCH, or PRECISION_LOST when a shadow check fails; with nothing changed
   */
  run(batch: HostBatch<B> | readonly HostBatch<B>[]): Promise<StepMetrics> {
    return this.queue.add(() => this.runNow(batch));
  }

  private async runNow(batch: HostBatch<B> | readonly HostBatch<B>[]): Promise<StepMetrics> {
    if ('whole' in this.programs && !Array.isArray(batch)) {
      return metricsOf(await this.checked(this.programs.whole, batch as HostBatch<B>));
    }
    this.parts();
    if (this.waiting > 0) {
      throw new EngineError(
        'ARGUMENT_INVALID',
        `${this.waiting} micro-batches wait for update(); call it, or discard(), before run()`,
      );
    }
    try {
      await this.accumulateNow(Array.isArray(batch) ? batch : [batch]);
      return await this.updateNow();
    } catch (error) {
      await this.discardNow();
      throw error;
    }
  }

  /** Adds the gradient of a micro-batch to the sums. Needs the option `accumulate`. */
  accumulate(batch: HostBatch<B>): Promise<{ loss: number }> {
    return this.queue.add(async () => ({ loss: (await this.accumulateNow([batch]))[0]! }));
  }

  private async accumulateNow(batches: readonly HostBatch<B>[]): Promise<readonly number[]> {
    const { part } = this.parts();
    if (part instanceof Replicas) {
      const given = batches.map((batch) => this.feeds(batch).given);
      const losses = await part.accumulate(given, this.state, this.waiting);
      this.waiting += losses.length;
      return losses;
    }
    const losses: number[] = [];
    for (const batch of batches) {
      const { loss } = await this.checked(part, batch);
      this.waiting++;
      losses.push(Number(loss!.data[0]));
    }
    return losses;
  }

  /**
   * Changes the weights by the micro-batches since the last update; clipping and metrics are of the whole.
   *
   * @throws EngineError ARGUMENT_INVALID when there were none
   */
  update(): Promise<StepMetrics> {
    return this.queue.add(() => this.updateNow());
  }

  private async updateNow(): Promise<StepMetrics> {
    const { update } = this.parts();
    if (this.waiting === 0) {
      throw new EngineError('ARGUMENT_INVALID', 'there is no micro-batch to update by; call accumulate(batch) first');
    }
    const rows = this.tables?.rowsInSums();
    const results = await update.run(this.updateGiven(rows), (found, writes) => accepted(writes, found));
    if (rows && !wasSkipped(results)) this.tables!.replace(rows, under(results, 'rows'));
    await this.discardNow();
    return metricsOf(results);
  }

  /** Forgets the micro-batches since the last update. */
  discard(): Promise<void> {
    return this.queue.add(() => this.discardNow());
  }

  private async discardNow(): Promise<void> {
    this.waiting = 0;
    this.tables?.clearSums();
    await this.state.clear(this.state.names.filter((name) => name.startsWith('sum/')));
  }

  /** Copies of the trained weights as they are now. */
  params(): Promise<Record<string, HostTensor>> {
    const names = this.state.names.filter((name) => name.startsWith('param/'));
    return this.queue.add(async () => under({ ...(await this.state.read(names)), ...this.tables?.read() }, 'param'));
  }

  /** Everything that a later `restore` needs to go on, also between two micro-batches. Copies. */
  snapshot(): Promise<Record<string, HostTensor>> {
    return this.queue.add(async () => ({ ...(await this.state.read()), ...this.tables?.read() }));
  }

  /**
   * Goes back to a snapshot: the next step is bit-equal to the one that followed it.
   *
   * @throws EngineError INPUT_MISMATCH when the snapshot is of another step
   */
  restore(snapshot: Named<HostTensor>): Promise<void> {
    return this.queue.add(async () => {
      this.tables?.check(snapshot);
      await this.state.write(snapshot);
      this.tables?.write(snapshot);
      this.waiting = 'whole' in this.programs ? 0 : Number(snapshot['sum/count']!.data[0]);
    });
  }

  /**
   * The traced programs, one line an operator, with the line of user code that asked for it. Where a size could not be
   * symbolic, it says so, and gives the program for each of the sizes that have been run.
   */
  print(): string {
    return this.shown()
      .map((program) => program.print())
      .join('\n\n');
  }

  /**
   * Times every operator of a step over some runs (of a micro-batch and the update, if it accumulates), in a session of
   * its own. Nothing is changed: it can stand in the middle of a training.
   *
   * @example
   * console.log(String(await step.profile(batch, { runs: 10 })));
   */
  profile(batch: HostBatch<B>, options: ProfileOptions = {}): Promise<Profile> {
    return this.queue.add(async () => {
      const { given, selection } = this.feeds(batch);
      const [first, update] = this.shown();
      const replicated = 'part' in this.programs && this.programs.part instanceof Replicas;
      const parts = [await first!.profiled(replicated ? replicaGiven(given, this.state, this.waiting) : given)];
      if (update) parts.push(await update.profiled(this.updateGiven(selection?.rows)));
      return profilePrograms(parts, this.where, options);
    });
  }

  /**
   * What a step needs (a micro-batch, if it accumulates), estimated from the graph: weights and state in both their
   * buffers, and what lies between its operators.
   *
   * @param sizes numbers for the symbols of the batch
   * @throws EngineError ARGUMENT_INVALID when one is missing
   */
  memory(sizes: Readonly<Record<string, number>> = {}): Promise<MemoryPlan> {
    return this.shown()[0]!.memory(new Map(Object.entries(sizes)));
  }

  /** Lets what was asked for before come to its end; what is asked for later is refused. */
  dispose(): Promise<void> {
    return this.queue.add(async () => {
      for (const program of Object.values<StateProgram | Replicas>(this.programs)) await program.dispose();
      await this.shadow?.dispose();
      this.state.dispose();
      for (const tensor of Object.values(this.fixed)) if (tensor.location === 'gpu-buffer') tensor.dispose();
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /** The programs, of several that are alike one. */
  private shown(): readonly StateProgram[] {
    if ('whole' in this.programs) return [this.programs.whole];
    const { part, update } = this.programs;
    return [part instanceof Replicas ? part.program : part, update];
  }

  private parts(): { part: StateProgram | Replicas; update: StateProgram } {
    if ('part' in this.programs) return this.programs;
    throw new EngineError(
      'ARGUMENT_INVALID',
      'this step takes whole batches; give trainStep the option `accumulate` for micro-batches',
    );
  }

  /** What a run is given, and which rows of the tables that is. @throws EngineError INPUT_MISMATCH */
  private feeds(batch: HostBatch<B>): { given: Record<string, DeviceTensor>; selection?: RowSelection } {
    const given = { ...this.fixed, ...batchFeeds(this.batchSpecs, batch) };
    if (!this.tables) return { given };
    const selection = this.tables.select(batch, 'param', 'whole' in this.programs ? 'optimizer' : 'sum');
    const rows = mapValues(selection.values, toDevice);
    return { given: { ...given, ...batchFeeds(this.batchSpecs, selection.batch), ...rows }, selection };
  }

  /** What the update is given: these rows of the tables. */
  private updateGiven(rows: Rows | undefined): Record<string, DeviceTensor> {
    return rows ? mapValues(this.tables!.take(rows, 'param', 'optimizer', 'sum'), toDevice) : {};
  }

  /** Runs a program on a batch, beside the float32 shadow while there is one. */
  private async checked(program: StateProgram, batch: HostBatch<B>): Promise<Named<HostTensor>> {
    const { given, selection } = this.feeds(batch);
    const wanted = await this.shadow?.run(given);
    const results = await program.run(given, (found, writes) => {
      if (wanted) this.shadow!.compare(wanted, found);
      return accepted(writes, found);
    });
    if (selection && !wasSkipped(results)) {
      this.tables!.replace(selection.rows, under(results, 'rows'));
      this.tables!.addToSums(selection.rows);
    }
    await this.shadow?.finish();
    return results;
  }
}

const wasSkipped = ({ skipped }: Named<HostTensor>) => skipped?.data[0] === 1;

export const trainStep = TrainStep.create;
