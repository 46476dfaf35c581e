import {
  adamW,
  constantRate,
  cosineDecay,
  type HostTensor,
  hostTensor,
  type Named,
  scalar,
  sgd,
  type TensorSpec,
  type TrainStep,
  trainStep,
} from '@fewtune/engine';
import { FewtuneError, throwIfAborted } from '../../errors.js';
import { checkExamples, type MetaModel, type MetaTask } from './meta-model.js';
import { type BilevelOptions, type Phase, taskLoss } from './task-loss.js';

/** Batches of tasks, for every epoch the same or made anew; each batch is one step of the meta-learner. */
export type TaskBatches =
  | Iterable<readonly MetaTask[]>
  | ((epoch: number) => Iterable<readonly MetaTask[]> | AsyncIterable<readonly MetaTask[]>);

export interface MetaTrainOptions {
  /** Passes over the batches; 1 when left out. */
  readonly epochs?: number;
  /** Batches of an epoch. MAML++ needs it for its cosine rate, unless the batches are an array. */
  readonly batchesPerEpoch?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (event: MetaTrainEvent) => void;
}

export interface MetaTrainEvent {
  /** From 1. */
  readonly epoch: number;
  readonly epochs: number;
  /** Steps of the meta-learner since this run began. */
  readonly step: number;
  /** Mean query loss of the batch's tasks after adaptation, before the step. */
  readonly loss: number;
  readonly lr: number;
  readonly order: 'first' | 'second';
  readonly elapsedMs: number;
}

export interface MetaTrainResult {
  readonly steps: number;
  /** Mean query loss of each epoch. */
  readonly epochLosses: readonly number[];
}

/** All that a run reads. */
export interface Bilevel extends BilevelOptions {
  readonly model: MetaModel;
  readonly metaLr: number;
  readonly threads?: number;
}

type Step = TrainStep<Named<TensorSpec>>;

/**
 * The outer loop. Each task is a micro-batch of one compiled step: a batch may hold any number of tasks, and memory is
 * that of one. Tasks may differ in rows. A step whose loss or gradient is not finite changes nothing and ends the run.
 *
 * @param params the meta-learned tensors at the start
 * @param onStep called with each event, before the next step begins
 * @returns what the run found, and the tensors at its end; these also when it stops by an error, with it
 */
export async function metaTrain(
  bilevel: Bilevel,
  params: Named<HostTensor>,
  batches: TaskBatches,
  options: MetaTrainOptions,
  onStep: (event: MetaTrainEvent) => void,
): Promise<{ params: Named<HostTensor>; result?: MetaTrainResult; error?: unknown }> {
  const programs = new Programs(bilevel, params, totalSteps(bilevel, batches, options));
  try {
    const result = await epochsOf(bilevel, programs, batches, options, onStep);
    return { params: await programs.params(), result };
  } catch (error) {
    return { params: await programs.params(), error };
  } finally {
    await programs.dispose();
  }
}

async function epochsOf(
  bilevel: Bilevel,
  programs: Programs,
  batches: TaskBatches,
  { epochs = 1, signal }: MetaTrainOptions,
  onStep: (event: MetaTrainEvent) => void,
): Promise<MetaTrainResult> {
  const started = performance.now();
  const epochLosses: number[] = [];
  let step = 0;
  for (let epoch = 0; epoch < epochs; epoch++) {
    const phase = phaseOf(bilevel, epoch, epochs);
    let [sum, count] = [0, 0];
    for await (const tasks of typeof batches === 'function' ? batches(epoch) : batches) {
      throwIfAborted(signal);
      const { loss, lr, skipped } = await programs.run(phase, tasks, stepShares(bilevel.innerSteps, epoch, epochs));
      step++;
      if (skipped || !Number.isFinite(loss)) throw diverged(bilevel, step, loss);
      sum += loss;
      count++;
      const order = phase.firstOrder ? 'first' : 'second';
      onStep({ epoch: epoch + 1, epochs, step, loss, lr, order, elapsedMs: performance.now() - started });
    }
    if (count === 0) throw new FewtuneError('ROWS_EMPTY', `epoch ${epoch + 1} has no batch of tasks.`);
    epochLosses.push(sum / count);
  }
  return { steps: step, epochLosses };
}

function diverged({ innerLr, metaLr, innerSteps }: Bilevel, step: number, loss: number): FewtuneError {
  const what = Number.isFinite(loss) ? 'its gradient is not finite' : `the loss became ${loss}`;
  return new FewtuneError(
    'LOSS_NOT_FINITE',
    `meta-training diverged in step ${step}: ${what}. Lower innerLr (${innerLr}, ${innerSteps} steps), or metaLr (${metaLr}). The weights are those before that step.`,
  );
}

/** MAML++ begins in first order, and with a loss after every inner step. Antoniou et al. 2019, section 4. */
function phaseOf({ variant }: Bilevel, epoch: number, epochs: number): Phase {
  const plus = variant === 'maml++';
  const early = plus && epoch < Math.floor(epochs / 3);
  return {
    firstOrder: variant === 'fomaml' || variant === 'reptile' || early,
    multiStep: plus && epoch < multiStepEpochs(epochs),
  };
}

const multiStepEpochs = (epochs: number) => Math.floor(epochs / 10);

/**
 * The share of each inner step's weights in the loss: equal at first, then falling for all but the last, down to 3 % of
 * an equal share. As the authors' code has it, github.com/AntreasAntoniou/HowToTrainYourMAMLPytorch.
 */
export function stepShares(steps: number, epoch: number, epochs: number): Float32Array {
  const falling = Math.max(1 / steps - epoch / (steps * Math.max(1, multiStepEpochs(epochs))), 0.03 / steps);
  const shares = new Float32Array(steps).fill(falling);
  shares[steps - 1] = 1 - falling * (steps - 1);
  return shares;
}

function totalSteps({ variant }: Bilevel, batches: TaskBatches, options: MetaTrainOptions): number {
  const perEpoch = options.batchesPerEpoch ?? (Array.isArray(batches) ? batches.length : undefined);
  if (perEpoch !== undefined) return perEpoch * (options.epochs ?? 1);
  if (variant !== 'maml++') return 0;
  throw new FewtuneError(
    'OPTION_INVALID',
    'maml++ lowers its rate over the run: say batchesPerEpoch, or give an array.',
  );
}

/** The compiled steps of a run, one a phase, opened when it begins; the state moves on from one to the next. */
class Programs {
  private current: { readonly key: string; readonly step: Step } | undefined;
  private first: MetaTask | undefined;

  constructor(
    private readonly bilevel: Bilevel,
    private readonly start: Named<HostTensor>,
    private readonly steps: number,
  ) {}

  async run(phase: Phase, tasks: readonly MetaTask[], shares: Float32Array) {
    if (tasks.length === 0) throw new FewtuneError('ROWS_EMPTY', 'a batch has no task; give it at least one.');
    this.first ??= tasks[0]!;
    for (const task of tasks) this.check(task);
    const step = await this.open(phase, this.first);
    const stepWeights = hostTensor('float32', [shares.length], shares);
    return step.run(
      tasks.map(({ support, query }) => ({
        supportX: support.x,
        supportY: support.y,
        queryX: query.x,
        queryY: query.y,
        ...(phase.multiStep && { stepWeights }),
      })),
    );
  }

  async params(): Promise<Named<HostTensor>> {
    return this.current ? this.current.step.params() : this.start;
  }

  async dispose(): Promise<void> {
    await this.current?.step.dispose();
  }

  private async open(phase: Phase, task: MetaTask): Promise<Step> {
    const key = JSON.stringify(phase);
    if (this.current?.key === key) return this.current.step;
    const step = await openStep(this.bilevel, this.start, phase, task, this.steps);
    if (this.current) {
      await step.restore(await this.current.step.snapshot());
      await this.current.step.dispose();
    }
    this.current = { key, step };
    return step;
  }

  private check({ support, query }: MetaTask): void {
    const { loss, model } = this.bilevel;
    checkExamples('support', support, loss, model.outputs);
    checkExamples('query', query, loss, model.outputs);
    const wanted = this.first!.support.x;
    for (const { x } of [support, query]) {
      if (x.dtype === wanted.dtype && x.shape.slice(1).join() === wanted.shape.slice(1).join()) continue;
      throw new FewtuneError(
        'OPTION_INVALID',
        `a task's rows are ${x.dtype} [${x.shape.slice(1).join(', ')}], those of the first task ${wanted.dtype} [${wanted.shape.slice(1).join(', ')}]; all tasks must agree.`,
      );
    }
  }
}

/** Reptile walks along its own direction; the others descend with Adam, as the papers do. */
function openStep(bilevel: Bilevel, params: Named<HostTensor>, phase: Phase, task: MetaTask, steps: number) {
  const { model, metaLr, variant, threads } = bilevel;
  const rows = (of: string, { dtype, shape }: HostTensor): TensorSpec => ({ dtype, shape: [of, ...shape.slice(1)] });
  const batch: Record<string, TensorSpec> = {
    supportX: rows('support', task.support.x),
    supportY: rows('support', task.support.y),
    queryX: rows('query', task.query.x),
    queryY: rows('query', task.query.y),
  };
  if (phase.multiStep) batch.stepWeights = { dtype: 'float32', shape: [bilevel.innerSteps] };
  return trainStep<Named<TensorSpec>>({
    params,
    frozen: model.frozen,
    batch,
    loss: (traced, { frozen, batch }) => {
      const support = { x: batch.supportX!, y: batch.supportY! };
      const query = { x: batch.queryX!, y: batch.queryY! };
      return taskLoss(
        model,
        traced,
        frozen,
        { support, query, stepWeights: batch.stepWeights },
        { ...bilevel, ...phase },
      );
    },
    optimizer: variant === 'reptile' ? sgd() : adamW({ weightDecay: 0 }),
    schedule: variant === 'maml++' ? cosineDecay({ lr: metaLr, steps }) : constantRate(metaLr),
    accumulate: { weight: () => scalar(1) },
    // The scale stays 1: wanted is that a step whose gradient is not finite is not taken.
    lossScale: { init: 1, growth: 1, backoff: 1 },
    threads,
  });
}
