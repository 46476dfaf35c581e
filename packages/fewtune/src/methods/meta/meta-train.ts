import type { HostTensor, Named } from '@fewtune/engine';
import { FewtuneError } from '../../errors.js';
import {
  type Batches,
  type EpochEvent,
  type EpochOptions,
  type EpochResult,
  type EpochsEnded,
  runEpochs,
} from '../epochs.js';
import { digestOf } from '../run-checkpoint.js';
import type { AnyMetaTask } from './meta-model.js';
import { type Bilevel, Programs } from './meta-step.js';
import type { Phase } from './task-loss.js';

/** Batches of tasks, for every epoch the same or made anew; each batch is one step of the meta-learner. */
export type TaskBatches = Batches<AnyMetaTask>;

export interface MetaTrainOptions extends EpochOptions<MetaTrainEvent> {
  /** Batches of an epoch. A cosine rate (MAML++) needs it, unless the batches are an array. */
  readonly batchesPerEpoch?: number;
}

/** The loss is the mean query loss of the batch's tasks after adaptation, before the step. */
export interface MetaTrainEvent extends EpochEvent {
  readonly order: 'first' | 'second';
}

export type MetaTrainResult = EpochResult;

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
): Promise<EpochsEnded> {
  const { innerLr, innerSteps, metaLr, loss, model } = bilevel;
  const { epochs = 1 } = options;
  const programs = new Programs(bilevel, params, totalSteps(bilevel, batches, options));
  // Twice the loss of an even guess; a regression's has no such scale.
  const harmless = loss === 'cross-entropy' ? 2 * Math.log(model.outputs) : 0;
  try {
    return await runEpochs<AnyMetaTask, Pick<MetaTrainEvent, 'order'>>(
      batches,
      options,
      {
        configuration: () => configurationOf(bilevel, options),
        ready: (tasks, { epoch, rateShare }) => programs.ready(phaseOf(bilevel, epoch, epochs), tasks, rateShare),
        run: async (tasks, { epoch }) => {
          const phase = phaseOf(bilevel, epoch, epochs);
          const found = await programs.run(phase, tasks, stepShares(innerSteps, epoch, epochs));
          return { ...found, shown: { order: phase.firstOrder ? 'first' : 'second' } };
        },
        snapshot: () => programs.snapshot(),
        restore: (state) => programs.restore(state),
        params: () => programs.params(),
        harmless: () => harmless,
        rate: { name: 'metaLr', value: metaLr },
        advice: `Lower innerLr (${innerLr}, ${innerSteps} steps), or metaLr (${metaLr}).`,
      },
      onStep,
    );
  } finally {
    await programs.dispose();
  }
}

/** Everything that must be the same for a resumed run to be the run it goes on from. */
function configurationOf(bilevel: Bilevel, { batchesPerEpoch = null }: { batchesPerEpoch?: number | null }) {
  const { variant, innerLr, innerSteps, metaLr, metaSchedule, clipNorm, loss, proximal, transductive, model } = bilevel;
  const weights = Object.entries(model.weights).map(([name, { shape }]) => `${name} [${shape.join(', ')}]`);
  const outer = { metaLr, metaSchedule, clipNorm: clipNorm ?? null, batchesPerEpoch };
  const own = { variant, innerLr, innerSteps, ...outer, loss, proximal, transductive };
  return { ...own, weights, frozen: digestOf(model.frozen) };
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
