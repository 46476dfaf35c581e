import type { HostTensor, Named } from '@fewtune/engine';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { checkCount } from './checks.js';
import { prefixed, under } from './named.js';
import { RateGuard } from './rate-guard.js';
import { type Progress, readCheckpoint, writeCheckpoint } from './run-checkpoint.js';

export interface EpochOptions<Event> {
  /** Passes over the batches; 1 when left out. */
  readonly epochs?: number;
  /** Where the run's state is kept (a safetensors file), and after how many steps; after every epoch when left out. */
  readonly checkpoint?: { readonly path: string; readonly every?: number };
  /**
   * A checkpoint to go on from, of a run with the same options. The result is that of a run without a break where the
   * batches are the same: an array, or a function of the epoch alone.
   */
  readonly resume?: string;
  /** Names the tasks: a checkpoint of a run with another such name is refused. */
  readonly data?: string;
  /**
   * When a step diverges (a loss or gradient that is not finite, or a loss ten times what is usual and twice that of a
   * guess), the rate is halved and the run goes on from the last good weights; at most so many times, 4 when left out, 0
   * for never.
   */
  readonly rateHalvings?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (event: Event) => void;
}

export interface EpochEvent {
  /** From 1. */
  readonly epoch: number;
  readonly epochs: number;
  /** Steps that were taken, with those before a resumed checkpoint. */
  readonly step: number;
  /** Mean loss of the batch's tasks, before the step. */
  readonly loss: number;
  readonly lr: number;
  readonly elapsedMs: number;
  /** When the step diverged: what happened, and what the run goes on with. */
  readonly warning?: string;
}

export interface EpochResult {
  readonly steps: number;
  /** How often the rate was halved because a step diverged. */
  readonly rateHalvings: number;
  /** Mean loss of each epoch's good steps; NaN where every step diverged. */
  readonly epochLosses: readonly number[];
}

/** Parameters at the end of a run, and what it found or what stopped it. */
export interface EpochsEnded {
  readonly params: Named<HostTensor>;
  readonly result?: EpochResult;
  readonly error?: unknown;
}

/** Where in a run a step is. */
export interface StepAt {
  /** From 0. */
  readonly epoch: number;
  /** Share of the rate that is left after halvings. */
  readonly rateShare: number;
}

/** What is trained, as the loop sees it. */
export interface Learning<Task, Shown> {
  /** Everything that must be the same for a resumed run to be the run it goes on from. */
  configuration(): Readonly<Record<string, unknown>>;
  /** Makes ready for a step on a batch; the state stays. */
  ready(tasks: readonly Task[], at: StepAt): Promise<void>;
  /** A step; `skipped` when its gradient was not finite and nothing was changed. */
  run(
    tasks: readonly Task[],
    at: StepAt,
  ): Promise<{ readonly loss: number; readonly lr: number; readonly skipped?: boolean; readonly shown: Shown }>;
  /** The whole state; undefined before the first step is ready. */
  snapshot(): Promise<Named<HostTensor> | undefined>;
  restore(state: Named<HostTensor>): Promise<void>;
  params(): Promise<Named<HostTensor>>;
  /** A loss up to here is no explosion, however small those before it were. */
  harmless(tasks: readonly Task[]): number;
  /** The option that is halved when a step diverges. */
  readonly rate: { readonly name: string; readonly value: number };
  /** What to do when that does not help. */
  readonly advice: string;
  /** Whether a run that is interrupted leaves a checkpoint, where one is asked for. */
  readonly keptOnInterrupt?: boolean;
  /** For messages; meta-training when left out. */
  readonly what?: string;
  /** A look at the state after a good step, before the next begins; `ended` makes this step the last. */
  after?(at: StepDone): Promise<{ readonly ended?: boolean; readonly shown?: Partial<Shown> }>;
  /** What is kept in a checkpoint beside the state, and never gone back to when a step diverges. */
  readonly kept?: Kept;
}

/** @see Learning.after */
export interface StepDone {
  /** Steps that were taken, this one counted. */
  readonly step: number;
  /** From 0. */
  readonly epoch: number;
}

export interface Kept {
  tensors(): Named<HostTensor>;
  /** JSON. */
  notes(): unknown;
  restore(tensors: Named<HostTensor>, notes: unknown): void;
}

export type Batches<Task> =
  | Iterable<readonly Task[]>
  | ((epoch: number) => Iterable<readonly Task[]> | AsyncIterable<readonly Task[]>);

/**
 * Epochs of batches, each batch one step, with progress, checkpoints, a rate that is lowered when a step diverges, and a
 * clear end.
 *
 * @param onStep called with each event, before the next step begins
 * @returns what the run found, and the parameters at its end; these also when it stops by an error, with it
 * @throws FewtuneError OPTION_INVALID, FILE_NOT_FOUND, FILE_UNREADABLE
 */
export async function runEpochs<Task, Shown extends object>(
  batches: Batches<Task>,
  options: Omit<EpochOptions<never>, 'onProgress'>,
  learning: Learning<Task, Shown>,
  onStep: (event: EpochEvent & Shown) => void,
): Promise<EpochsEnded> {
  const { epochs = 1, rateHalvings = 4, resume, checkpoint, data = null } = options;
  checkCount('epochs', epochs, 1);
  checkCount('rateHalvings', rateHalvings, 0);
  if (checkpoint?.every !== undefined) checkCount('checkpoint.every', checkpoint.every, 1);
  // Frozen weights are part of it: it is not made for nothing.
  const own = resume || checkpoint ? learning.configuration() : {};
  const configuration = { ...own, epochs, rateHalvings, data };
  const resumed = resume === undefined ? undefined : await readCheckpoint(resume, configuration);
  const run = new EpochRun(learning, { ...options, epochs, configuration }, onStep, rateHalvings, resumed?.progress);
  if (resumed) await run.restore(resumed.state);
  try {
    return { result: await run.all(batches), params: await learning.params() };
  } catch (error) {
    return { params: await learning.params(), error };
  }
}

/** Steps between two copies of the state that a diverging run goes back to. */
const copyEvery = 10;
/** Of names, in a checkpoint: the state that is gone back to, and what is kept beside it. */
const goodWord = 'good';
const keptWord = 'kept';

interface RunOptions extends Pick<EpochOptions<never>, 'checkpoint' | 'signal'> {
  readonly epochs: number;
  readonly configuration: Readonly<Record<string, unknown>>;
}

class EpochRun<Task, Shown extends object> {
  private readonly started = performance.now();
  private readonly guard: RateGuard;
  private readonly epochLosses: number[];
  private steps: number;
  private ended: boolean;
  /** The last state whose loss was good. */
  private good: Named<HostTensor> | undefined;

  constructor(
    private readonly learning: Learning<Task, Shown>,
    private readonly options: RunOptions,
    private readonly onStep: (event: EpochEvent & Shown) => void,
    rateHalvings: number,
    private readonly from: Progress = { epoch: 0, batches: 0, sum: 0, steps: 0, epochLosses: [] },
  ) {
    this.guard = new RateGuard(rateHalvings, from.guard);
    this.epochLosses = from.epochLosses.map((loss) => loss ?? Number.NaN); // JSON has null for NaN
    this.steps = from.steps;
    this.ended = from.ended ?? false;
  }

  async restore(snapshot: Named<HostTensor>): Promise<void> {
    const good = under(goodWord, snapshot);
    if (Object.keys(good).length > 0) this.good = good;
    this.learning.kept?.restore(under(keptWord, snapshot), this.from.notes);
    const besides = (name: string) => name.startsWith(`${goodWord}/`) || name.startsWith(`${keptWord}/`);
    await this.learning.restore(Object.fromEntries(Object.entries(snapshot).filter(([name]) => !besides(name))));
  }

  async all(batches: Batches<Task>): Promise<EpochResult> {
    for (let epoch = this.from.epoch; epoch < this.options.epochs && !this.ended; epoch++) {
      await this.epoch(batches, epoch);
    }
    return { steps: this.steps, rateHalvings: this.guard.halvings, epochLosses: this.epochLosses };
  }

  private async epoch(batches: Batches<Task>, epoch: number): Promise<void> {
    const { signal, checkpoint, epochs } = this.options;
    const done = epoch === this.from.epoch ? this.from.batches : 0;
    let { sum, good = done } = done > 0 ? this.from : { sum: 0, good: 0 };
    let count = 0;
    for await (const tasks of typeof batches === 'function' ? batches(epoch) : batches) {
      if (count++ < done) continue;
      if (signal?.aborted && this.learning.keptOnInterrupt) await this.keep(epoch, count - 1, sum, good);
      throwIfAborted(signal);
      if (tasks.length === 0) throw new FewtuneError('ROWS_EMPTY', 'a batch has no task; give it at least one.');
      const { trouble, loss, lr, shown } = await this.step(tasks, epoch);
      if (trouble === undefined) {
        sum += loss;
        good++;
      }
      const warning = trouble === undefined ? {} : { warning: await this.goBack(trouble) };
      const found = trouble === undefined ? await this.learning.after?.({ step: this.steps, epoch }) : undefined;
      this.ended = found?.ended ?? false;
      if (checkpoint?.every && this.steps % checkpoint.every === 0) await this.keep(epoch, count, sum, good);
      const elapsedMs = performance.now() - this.started;
      const all = { ...shown, ...found?.shown };
      this.onStep({ epoch: epoch + 1, epochs, step: this.steps, loss, lr, ...all, elapsedMs, ...warning });
      if (this.ended) break;
    }
    if (count === 0) throw new FewtuneError('ROWS_EMPTY', `epoch ${epoch + 1} has no batch of tasks.`);
    this.epochLosses.push(sum / good);
    await this.keep(epoch + 1, 0, 0, 0);
  }

  private async step(tasks: readonly Task[], epoch: number) {
    const { learning, guard } = this;
    const at = { epoch, rateShare: 0.5 ** guard.halvings };
    await learning.ready(tasks, at);
    const copy = this.steps % copyEvery === 0 ? await learning.snapshot() : undefined;
    const found = await learning.run(tasks, at);
    // The loss is that of the weights before the step: those of the copy.
    const trouble = guard.judge(found.loss, found.skipped, learning.harmless(tasks));
    if (copy && trouble === undefined) {
      this.good = copy;
      guard.keptAt(this.steps);
    }
    this.steps++;
    return { ...found, trouble };
  }

  /** Back to the last good weights, at half the rate. @returns what to tell @throws FewtuneError LOSS_NOT_FINITE */
  private async goBack(trouble: string): Promise<string> {
    const { guard, steps } = this;
    const { rate, advice } = this.learning;
    if (this.good) await this.learning.restore(this.good);
    if (guard.lower()) {
      const now = rate.value * 0.5 ** guard.halvings;
      return `step ${steps} diverged: ${trouble}. ${rate.name} is now ${now}, and the weights are those of step ${guard.goodStep} again.`;
    }
    const tried = guard.halvings > 0 ? ` ${rate.name} was halved ${guard.halvings} times, which did not help.` : '';
    throw new FewtuneError(
      'LOSS_NOT_FINITE',
      `${this.learning.what ?? 'meta-training'} diverged in step ${steps}: ${trouble}.${tried} ${advice} The weights are the last good ones.`,
    );
  }

  private async keep(epoch: number, batches: number, sum: number, good: number): Promise<void> {
    const { checkpoint, configuration } = this.options;
    const state = checkpoint && (await this.learning.snapshot());
    if (!state) return;
    const { steps, epochLosses, ended } = this;
    const { kept } = this.learning;
    const progress = { epoch, batches, sum, good, steps, epochLosses, guard: this.guard.state() };
    const besides = { ...(ended && { ended }), ...(kept && { notes: kept.notes() }) };
    await writeCheckpoint(
      checkpoint.path,
      configuration,
      { ...progress, ...besides },
      {
        ...state,
        ...prefixed(goodWord, this.good ?? {}),
        ...prefixed(keptWord, kept?.tensors() ?? {}),
      },
    );
  }
}
