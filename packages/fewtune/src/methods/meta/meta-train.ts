import type { HostTensor, Named } from '@fewtune/engine';
import { FewtuneError, throwIfAborted } from '../../errors.js';
import { configurationOf, type Progress, readCheckpoint, writeCheckpoint } from './meta-checkpoint.js';
import type { AnyMetaTask } from './meta-model.js';
import { type Bilevel, Programs } from './meta-step.js';
import { RateGuard } from './rate-guard.js';
import type { Phase } from './task-loss.js';

/** Batches of tasks, for every epoch the same or made anew; each batch is one step of the meta-learner. */
export type TaskBatches =
  | Iterable<readonly AnyMetaTask[]>
  | ((epoch: number) => Iterable<readonly AnyMetaTask[]> | AsyncIterable<readonly AnyMetaTask[]>);

export interface MetaTrainOptions {
  /** Passes over the batches; 1 when left out. */
  readonly epochs?: number;
  /** Batches of an epoch. A cosine rate (MAML++) needs it, unless the batches are an array. */
  readonly batchesPerEpoch?: number;
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
   * When a step diverges (a loss or gradient that is not finite, or a loss ten times what is usual, and twice that of a guess), `metaLr` is halved
   * and the run goes on from the last good weights; at most so many times, 4 when left out, 0 for never.
   */
  readonly rateHalvings?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (event: MetaTrainEvent) => void;
}

export interface MetaTrainEvent {
  /** From 1. */
  readonly epoch: number;
  readonly epochs: number;
  /** Steps of the meta-learner, with those before a resumed checkpoint. */
  readonly step: number;
  /** Mean query loss of the batch's tasks after adaptation, before the step. */
  readonly loss: number;
  readonly lr: number;
  readonly order: 'first' | 'second';
  readonly elapsedMs: number;
  /** When the step diverged: what happened, and what the run goes on with. */
  readonly warning?: string;
}

export interface MetaTrainResult {
  readonly steps: number;
  /** How often `metaLr` was halved because a step diverged. */
  readonly rateHalvings: number;
  /** Mean query loss of each epoch. */
  readonly epochLosses: readonly number[];
}

/**
 * The outer loop. Each task is a micro-batch of one compiled step: a batch may hold any number of tasks, and memory is
 * that of one. Tasks may differ in rows. A step whose loss or gradient is not finite changes nothing.
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
  // Frozen weights are part of it: it is not made for nothing.
  const configuration = options.resume || options.checkpoint ? configurationOf(bilevel, options) : {};
  const resumed = options.resume === undefined ? undefined : await readCheckpoint(options.resume, configuration);
  const total = totalSteps(bilevel, batches, options);
  const { rateHalvings: most = 4 } = options;
  const guard = new RateGuard(most, harmless(bilevel), resumed?.progress.guard);
  const programs = new Programs(bilevel, params, total, guard, resumed?.state);
  try {
    const result = await epochsOf(
      bilevel,
      programs,
      guard,
      batches,
      { ...options, configuration },
      resumed?.progress,
      onStep,
    );
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
  guard: RateGuard,
  batches: TaskBatches,
  options: MetaTrainOptions & { readonly configuration: Readonly<Record<string, unknown>> },
  from: Progress = { epoch: 0, batches: 0, sum: 0, steps: 0, epochLosses: [] },
  onStep: (event: MetaTrainEvent) => void,
): Promise<MetaTrainResult> {
  const { epochs = 1, signal, checkpoint, configuration } = options;
  const started = performance.now();
  const epochLosses = [...from.epochLosses];
  let step = from.steps;
  const keep = async (epoch: number, batches: number, sum: number, good: number) => {
    const state = await programs.snapshot();
    if (!checkpoint || !state) return;
    const progress = { epoch, batches, sum, good, steps: step, epochLosses, guard: guard.state() };
    await writeCheckpoint(checkpoint.path, configuration, progress, state);
  };
  for (let epoch = from.epoch; epoch < epochs; epoch++) {
    const phase = phaseOf(bilevel, epoch, epochs);
    const done = epoch === from.epoch ? from.batches : 0;
    let sum = done > 0 ? from.sum : 0;
    let good = done > 0 ? (from.good ?? done) : 0;
    let count = 0;
    for await (const tasks of typeof batches === 'function' ? batches(epoch) : batches) {
      if (count++ < done) continue;
      throwIfAborted(signal);
      const shares = stepShares(bilevel.innerSteps, epoch, epochs);
      const { loss, lr, trouble } = await programs.run(phase, tasks, shares, step);
      step++;
      if (trouble === undefined) {
        sum += loss;
        good++;
      } else {
        await programs.goBack();
      }
      if (trouble !== undefined && !guard.lower()) throw diverged(bilevel, step, trouble, guard);
      const warning = trouble === undefined ? undefined : lowered(bilevel, step, trouble, guard);
      if (checkpoint?.every && step % checkpoint.every === 0) await keep(epoch, count, sum, good);
      const event = { epoch: epoch + 1, epochs, step, loss, lr, order: phase.firstOrder ? 'first' : 'second' } as const;
      onStep({ ...event, elapsedMs: performance.now() - started, ...(warning && { warning }) });
    }
    if (count === 0) throw new FewtuneError('ROWS_EMPTY', `epoch ${epoch + 1} has no batch of tasks.`);
    epochLosses.push(sum / good);
    await keep(epoch + 1, 0, 0, 0);
  }
  return { steps: step, epochLosses, rateHalvings: guard.halvings };
}

/** Twice the loss of an even guess; a regression's has no such scale. */
const harmless = ({ loss, model }: Bilevel) => (loss === 'cross-entropy' ? 2 * Math.log(model.outputs) : 0);

const lowered = ({ metaLr }: Bilevel, step: number, trouble: string, { halvings, goodStep }: RateGuard) =>
  `step ${step} diverged: ${trouble}. metaLr is now ${metaLr * 0.5 ** halvings}, and the weights are those of step ${goodStep} again.`;

function diverged({ innerLr, metaLr, innerSteps }: Bilevel, step: number, trouble: string, guard: RateGuard) {
  const tried = guard.halvings > 0 ? ` metaLr was halved ${guard.halvings} times, which did not help.` : '';
  return new FewtuneError(
    'LOSS_NOT_FINITE',
    `meta-training diverged in step ${step}: ${trouble}.${tried} Lower innerLr (${innerLr}, ${innerSteps} steps), or metaLr (${metaLr}). The weights are the last good ones.`,
  );
}

/** MAML++ begins in first order, and with a loss after every inner step. Antoniou et al. 2019, section 4. */
function phaseOf({ variant }: Bilevel, epoch: number, epochs: number): Phase {
  const plus = variant === 'maml++';
  const early = plus && epoch < Math.floor(epochs / 3);
  return {
    firstOrder: ['fomaml', 'reptile', 'imaml'].includes(variant) || early,
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

function totalSteps({ metaSchedule }: Bilevel, batches: TaskBatches, options: MetaTrainOptions): number {
  const perEpoch = options.batchesPerEpoch ?? (Array.isArray(batches) ? batches.length : undefined);
  if (perEpoch !== undefined) return perEpoch * (options.epochs ?? 1);
  if (metaSchedule !== 'cosine') return 0;
  throw new FewtuneError(
    'OPTION_INVALID',
    'a cosine lowers the rate over the run: say batchesPerEpoch, or give an array.',
  );
}
