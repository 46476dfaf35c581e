import {
  adamW,
  cosineDecay,
  type HostTensor,
  linearDecay,
  type Named,
  type Schedule,
  type StepMetrics,
  type TensorSpec,
  type TrainStep,
  trainStep,
} from '@fewtune/engine';
import { packBatch, packPairs, tracedWeights } from '@fewtune/models';
import { prefixed, under } from '../named.js';
import { type Adaptation, decays, heldFrozen } from '../peft/adaptation.js';
import { batchSpecs, type TunedModel, targetsIn, taskLogits } from './forward.js';
import type { TuneSchedule, TuneSettings } from './options.js';
import type { Task } from './task.js';

/** Rows of a batch with the tokens that are read of each. */
export interface MicroBatch {
  readonly rows: readonly number[];
  readonly ids: readonly (readonly number[])[];
  /** Token types of each row, where there are any. */
  readonly types?: readonly (readonly number[])[];
}

/** All that a step is made of. */
export interface Trained extends TunedModel {
  readonly adaptation: Adaptation;
  readonly task: Task;
  readonly head: Named<HostTensor>;
  readonly settings: TuneSettings;
  /** Steps of the whole run, for the schedule. */
  readonly steps: number;
  /** Instead of that of the settings. */
  readonly schedule?: Schedule;
  readonly threads?: number;
}

/** The compiled step of a run; opened anew when the rate is halved, and its state moves on. */
export class TuneProgram {
  private current: { readonly share: number; readonly step: TrainStep<Named<TensorSpec>> } | undefined;
  /** To go on from, when the step is opened. */
  private carried: Named<HostTensor> | undefined;

  constructor(private readonly trained: Trained) {}

  async ready(rateShare: number): Promise<void> {
    if (this.current?.share === rateShare) return;
    const step = await openStep(this.trained, rateShare);
    const state = this.current ? await this.current.step.snapshot() : this.carried;
    if (state) await step.restore(state);
    await this.current?.step.dispose();
    this.current = { share: rateShare, step };
  }

  run(batches: readonly MicroBatch[]): Promise<StepMetrics> {
    const feeds = batches.map((batch) => feedsOf(this.trained, batch));
    return this.current!.step.run(this.trained.settings.accumulate > 1 ? feeds : feeds[0]!);
  }

  /** What is trained, the head among it, as it is now. */
  async params(): Promise<Record<string, HostTensor>> {
    if (this.current) return this.current.step.params();
    const { adaptation, head } = this.trained;
    return this.carried ? under('param', this.carried) : { ...adaptation.params, ...head };
  }

  async snapshot(): Promise<Named<HostTensor> | undefined> {
    return this.current?.step.snapshot();
  }

  async restore(state: Named<HostTensor>): Promise<void> {
    if (this.current) await this.current.step.restore(state);
    else this.carried = state;
  }

  async dispose(): Promise<void> {
    await this.current?.step.dispose();
  }
}

/** Then the loss is scaled, and a step is skipped now and then until the scale fits. */
export const computesInHalf = ({ precision }: Pick<TuneSettings, 'precision'>): boolean =>
  precision !== 'float32' && precision.compute === 'float16';

/** What a program that reads batches is run with. */
export function feedsOf(
  { adaptation, task }: { adaptation: Pick<Adaptation, 'padId'>; task: Pick<Task, 'targets'> },
  { rows, ids, types }: MicroBatch,
): Record<string, HostTensor> {
  const packed = types
    ? packPairs(
        ids.map((row, i) => ({ ids: row, types: types[i]! })),
        adaptation.padId,
      )
    : packBatch(ids, adaptation.padId);
  return { ...packed, ...prefixed('target', task.targets(rows)) };
}

/** A step at a share of its rate. */
function openStep(trained: Trained, rateShare: number): Promise<TrainStep<Named<TensorSpec>>> {
  const { adaptation, task, head, settings, steps, threads } = trained;
  const { lr, headLr, weightDecay, clipNorm, accumulate, precision, warmup } = settings;
  const rate = lr * rateShare;
  const headScale = headLr === 'same' ? 1 : headLr / lr;
  const { weight } = task;
  return trainStep<Named<TensorSpec>>({
    params: { ...adaptation.params, ...head },
    ...heldFrozen(adaptation.frozen),
    batch: batchSpecs(task, trained.typed),
    loss: (params, { frozen, batch }) =>
      task.loss(taskLogits(trained, params, tracedWeights(adaptation.frozen, frozen), batch), targetsIn(batch)),
    optimizer: adamW({
      weightDecay,
      decays,
      lrScale: (name) => (Object.hasOwn(head, name) ? headScale : (adaptation.lrScale?.(name) ?? 1)),
    }),
    schedule:
      trained.schedule ?? scheduleOf(settings.schedule, { lr: rate, steps, warmup: Math.round(steps * warmup) }),
    clipNorm,
    // The scale stays 1: wanted is that a step whose gradient is not finite is not taken.
    lossScale: computesInHalf(settings) ? true : { init: 1, growth: 1, backoff: 1 },
    accumulate: accumulate > 1 && (weight ? { weight: (batch) => weight(targetsIn(batch)) } : true),
    ...(precision !== 'float32' && { precision }),
    threads,
  });
}

function scheduleOf(name: TuneSchedule, at: { lr: number; steps: number; warmup: number }): Schedule {
  if (name === 'cosine') return cosineDecay(at);
  return linearDecay({ ...at, floor: name === 'constant' ? 1 : 0 });
}
