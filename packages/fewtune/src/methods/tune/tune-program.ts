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
  type TrainStepOptions,
  trainStep,
  zeros,
} from '@fewtune/engine';
import { tracedWeights } from '@fewtune/models';
import { prefixed, under } from '../named.js';
import { type Adaptation, decays, heldFrozen } from '../peft/adaptation.js';
import { layerOf, type Stage } from '../peft/trained-layers.js';
import type { ActivationCache } from './activation-cache.js';
import { batchSpecs, packTokens, type TunedModel, targetsIn, taskLogits } from './forward.js';
import type { TuneSchedule, TuneSettings } from './options.js';
import type { Task } from './task.js';
import { unfrozenLater } from './unfreezing.js';

/** Rows of a batch with the tokens that are read of each. */
export interface MicroBatch {
  readonly rows: readonly number[];
  readonly ids: readonly (readonly number[])[];
  /** Token types of each row, where there are any. */
  readonly types?: readonly (readonly number[])[];
}

/** All that the steps of a run are made of. */
export interface Trained extends Omit<TunedModel, 'from'> {
  readonly adaptation: Adaptation;
  readonly task: Task;
  readonly head: Named<HostTensor>;
  readonly settings: TuneSettings;
  /** Steps of the whole run, for the schedule. */
  readonly steps: number;
  /** One an epoch. */
  readonly stages: readonly Stage[];
  /** Instead of that of the settings. */
  readonly schedule?: Schedule;
  readonly threads?: number;
}

type Step = TrainStep<Named<TensorSpec>>;

/** The compiled step of a run; opened anew when the rate is halved or other layers are trained, and its state moves on. */
export class TuneProgram {
  private current: { readonly share: number; readonly stage: Stage; readonly step: Step } | undefined;
  /** To go on from, when the step is opened. */
  private carried: Named<HostTensor> | undefined;

  /** @param cache is asked for when a stage needs states */
  constructor(
    private readonly trained: Trained,
    private readonly cache: () => Promise<ActivationCache>,
  ) {}

  async ready(rateShare: number, epoch = 0): Promise<void> {
    const stage = this.trained.stages[epoch]!;
    const { current } = this;
    if (current?.share === rateShare && current.stage.lowest === stage.lowest && current.stage.from === stage.from) {
      return;
    }
    const state = current ? await current.step.snapshot() : this.carried;
    const step = await trainStep(stepOptions(this.trained, stage, rateShare));
    if (state) await this.restoreInto(step, state);
    await current?.step.dispose();
    this.current = { share: rateShare, stage, step };
  }

  async run(batches: readonly MicroBatch[]): Promise<StepMetrics> {
    const { step, stage } = this.current!;
    const cache = stage.from > 0 ? await this.cache() : undefined;
    const feeds = await Promise.all(batches.map((batch) => feedsOf(this.trained, batch, cache)));
    return step.run(this.trained.settings.accumulate > 1 ? feeds : feeds[0]!);
  }

  /** What is trained or will be, the head among it, as it is now. */
  async params(): Promise<Record<string, HostTensor>> {
    const { adaptation, head } = this.trained;
    const now = this.current ? await this.current.step.params() : under('param', this.carried ?? {});
    return { ...adaptation.params, ...head, ...now };
  }

  async snapshot(): Promise<Named<HostTensor> | undefined> {
    return this.current?.step.snapshot();
  }

  async restore(state: Named<HostTensor>): Promise<void> {
    if (this.current) await this.restoreInto(this.current.step, state);
    else this.carried = state;
  }

  async dispose(): Promise<void> {
    await this.current?.step.dispose();
  }

  /** What a state from before has not, because it was not trained then, is as it was at the start. */
  private async restoreInto(step: Step, state: Named<HostTensor>): Promise<void> {
    const { adaptation, head } = this.trained;
    const start = prefixed('param', { ...adaptation.params, ...head });
    const own = await step.snapshot();
    const missing = Object.entries(own).filter(([name]) => !state[name]);
    await step.restore({
      ...state,
      ...Object.fromEntries(missing.map(([name, { dtype, shape }]) => [name, start[name] ?? zeros(dtype, shape)])),
    });
  }
}

/** Then the loss is scaled, and a step is skipped now and then until the scale fits. */
export const computesInHalf = ({ precision }: Pick<TuneSettings, 'precision'>): boolean =>
  precision !== 'float32' && precision.compute === 'float16';

/** What a program that reads batches is run with. @param cache of states, where these are read instead of tokens */
export async function feedsOf(
  { adaptation, task }: { adaptation: Pick<Adaptation, 'padId'>; task: Pick<Task, 'targets'> },
  { rows, ...tokens }: MicroBatch,
  cache?: ActivationCache,
): Promise<Record<string, HostTensor>> {
  const packed = packTokens(tokens, adaptation.padId);
  const targets = prefixed('target', task.targets(rows));
  if (!cache) return { ...packed, ...targets };
  const { attentionMask, places, slots } = packed;
  return { states: await cache.states(tokens), attentionMask, places, slots, ...targets };
}

/** The step of a stage, at a share of its rate. */
export function stepOptions(
  trained: Trained,
  stage: Stage,
  rateShare = 1,
): TrainStepOptions<Record<string, TensorSpec>> {
  const { adaptation, task, head, settings, steps, stages, threads } = trained;
  const { lr, headLr, weightDecay, clipNorm, accumulate, precision, warmup } = settings;
  const rate = lr * rateShare;
  const headScale = headLr === 'same' ? 1 : headLr / lr;
  const { weight } = task;
  const model = { ...trained, from: stage.from };
  const isTrained = (name: string) => (layerOf(name) ?? Number.POSITIVE_INFINITY) >= stage.lowest;
  const part = (values: Named<HostTensor>, keep: (name: string) => boolean) =>
    Object.fromEntries(Object.entries(values).filter(([name]) => keep(name)));
  // Where states are read, nothing below them is.
  const isRead = (name: string) => stage.from === 0 || !isBelow(name, stage.from);
  const frozen = part({ ...adaptation.frozen, ...part(adaptation.params, (name) => !isTrained(name)) }, isRead);
  const optimizer = adamW({
    weightDecay,
    decays,
    lrScale: (name) => (Object.hasOwn(head, name) ? headScale : (adaptation.lrScale?.(name) ?? 1)),
  });
  return {
    params: { ...part(adaptation.params, isTrained), ...head },
    ...heldFrozen(frozen),
    batch: batchSpecs(model),
    loss: (params, { frozen: held, batch }) =>
      task.loss(taskLogits(model, params, tracedWeights(frozen, held), batch), targetsIn(batch)),
    optimizer: unfrozenLater(optimizer, stages, steps / stages.length),
    schedule:
      trained.schedule ?? scheduleOf(settings.schedule, { lr: rate, steps, warmup: Math.round(steps * warmup) }),
    clipNorm,
    // The scale stays 1: wanted is that a step whose gradient is not finite is not taken.
    lossScale: computesInHalf(settings) ? true : { init: 1, growth: 1, backoff: 1 },
    accumulate: accumulate > 1 && (weight ? { weight: (batch) => weight(targetsIn(batch)) } : true),
    ...(precision !== 'float32' && { precision }),
    threads,
  };
}

/** Tables of embeddings, and layers below; what all layers share is read above too. */
export function isBelow(name: string, layers: number): boolean {
  const layer = layerOf(name);
  return layer === -1 ? name.startsWith('embeddings.') : layer !== undefined && layer < layers;
}

function scheduleOf(name: TuneSchedule, at: { lr: number; steps: number; warmup: number }): Schedule {
  if (name === 'cosine') return cosineDecay(at);
  return linearDecay({ ...at, floor: name === 'constant' ? 1 : 0 });
}
