import { type HostTensor, type Named, planStep, type StepFlops, type StepMemory, type StepPlan } from '@fewtune/engine';
import type { Encoder } from '@fewtune/models';
import { type Adapt, withoutPooler } from '../peft/adaptation.js';
import { matrixSpeed } from '../peft/fine-tune.js';
import type { Stage } from '../peft/trained-layers.js';
import { activationBytes, defaultMemory } from './activation-cache.js';
import { stepsOf } from './batches.js';
import type { TuneExamples } from './examples.js';
import { copiesOf, longestBatch } from './fit.js';
import { type TuneOptions, tuneChoices } from './options.js';
import { type Prepared, prepare } from './prepare.js';
import { type ParameterReport, parameterReport } from './report.js';
import type { Task } from './task.js';
import { isBelow, type MicroBatch, stepOptions } from './tune-program.js';

/** What a run will take, each kind of cost by itself. */
export interface TuningPlan {
  readonly parameters: ParameterReport;
  readonly steps: number;
  /** Floating-point operations of the whole run. */
  readonly flops: {
    readonly forward: number;
    /** Only what trained weights need. */
    readonly backward: number;
    readonly optimizer: number;
    /** Of the states that are computed once and kept. */
    readonly cache: number;
    /** Of looks at held-out examples. */
    readonly looks: number;
    readonly total: number;
  };
  /** By the speed that a matrix product has here and now; looks included. */
  readonly seconds: number;
  /** Bytes, at the longest batch: what the process grows by. */
  readonly memory: StepMemory & {
    /** The last good weights and moments, which a run that diverges goes back to. */
    readonly copies: number;
    /** The program that looks at held-out examples, with its weights. */
    readonly looks: number;
    /** What computing the states takes more than all the rest does, which comes after. */
    readonly lower: number;
    /** States that are kept in memory, */
    readonly cache: number;
    /** and in a file, which does not count. */
    readonly disk: number;
  };
  readonly settings: {
    readonly batchSize: number;
    readonly accumulate: number;
    readonly recompute: number;
    /** Layers of which states are kept, at first; 0 when they are not. */
    readonly cachedLayers: number;
  };
}

/**
 * What `tune` with the same arguments will take: parameters, operations, seconds and memory, before anything runs. The
 * steps are traced, not opened.
 *
 * @throws FewtuneError as `tune`; MEMORY_EXCEEDED when a step would not fit
 */
export async function planTuning(
  encoder: Encoder,
  examples: TuneExamples,
  task: Task,
  adapt: Adapt,
  options: TuneOptions = {},
  context: { readonly seed?: number; readonly threads?: number } = {},
): Promise<TuningPlan> {
  const { validation } = options;
  const prepared = await prepare(encoder, { examples, task, adapt }, tuneChoices(options), context, { validation });
  const { trained } = prepared;
  const { adaptation, head, stages, settings } = trained;
  const planned = plansOf(prepared);
  const epochs = stages.map((stage) => planned.find(({ key }) => key === keyOf(stage))!);
  const total = (of: (flops: StepFlops) => number) => epochs.reduce((sum, { epoch }) => sum + of(epoch), 0);
  const kept = keptStates(prepared, options);
  const firstCached = planned.find(({ stage }) => stage.from > 0);
  const whole = firstCached && epochFlops(prepared, planStep(stepOptions(trained, { ...firstCached.stage, from: 0 })));
  const lower = whole && firstCached ? whole.forward - firstCached.epoch.forward : 0;
  const looks = lookShare(prepared, options) * epochs[0]!.epoch.forward;
  const flops = {
    forward: total(({ forward }) => forward),
    backward: total(({ backward }) => backward),
    optimizer: total(({ optimizer }) => optimizer),
    cache: lower * kept.share,
    looks,
  };
  const products = total((epoch) => epoch.products) + flops.cache + looks;
  const sizes = longestBatch(
    prepared.train.ids.map(({ length }) => length),
    settings.batchSize,
  );
  const most = planned
    .map(({ plan }) => plan.memory(sizes))
    .reduce((largest, own) => (own.total > largest.total ? own : largest));
  const copies = copiesOf(trained);
  const { lower: below, looks: looking } = programBytes(prepared);
  const training = most.total + copies + looking;
  const lowerMore = Math.max(0, below - training);
  return {
    parameters: parameterReport(withoutPooler(encoder.weights), adaptation.params, head),
    steps: trained.steps,
    flops: { ...flops, total: Object.values(flops).reduce((sum, part) => sum + part, 0) },
    seconds: opening * planned.length + (overhead * products) / (await matrixSpeed(context.threads)),
    memory: {
      ...most,
      copies,
      looks: looking,
      lower: lowerMore,
      cache: kept.memory,
      disk: kept.disk,
      total: training + lowerMore + kept.memory,
    },
    settings: {
      batchSize: settings.batchSize,
      accumulate: settings.accumulate,
      recompute: trained.recompute ?? 0,
      cachedLayers: prepared.cached,
    },
  };
}

/** Seconds to open a program; and what a step does beside its products (norms, activations, optimiser): on MiniLM. */
const [opening, overhead] = [1, 1.6];
/** Steps of an epoch that are looked at. */
const sampled = 24;

const keyOf = ({ lowest, from }: Stage): string => `${lowest} ${from}`;

/** One plan for each kind of stage, with the operations of an epoch of it. */
function plansOf(prepared: Prepared) {
  const { trained } = prepared;
  const distinct = new Map(trained.stages.map((stage) => [keyOf(stage), stage]));
  return [...distinct].map(([key, stage]) => {
    const plan = planStep(stepOptions(trained, stage));
    return { key, stage, plan, epoch: epochFlops(prepared, plan) };
  });
}

/** Of the first epoch's batches, of which some stand for all. */
function epochFlops({ batches, trained }: Prepared, plan: StepPlan): StepFlops {
  const steps = [...batches(0)];
  const every = Math.ceil(steps.length / sampled);
  const chosen = steps.filter((_, i) => i % every === 0);
  const sizesOf = ({ ids }: MicroBatch) => ({
    batch: ids.length,
    seq: ids.reduce((longest, { length }) => Math.max(longest, length), 1),
    tokens: ids.reduce((sum, { length }) => sum + length, 0),
  });
  const sum = { forward: 0, backward: 0, optimizer: 0, products: 0 };
  for (const step of chosen) {
    for (const [i, micro] of step.entries()) {
      const { forward, backward, optimizer, products } = plan.flops(sizesOf(micro));
      sum.forward += forward;
      sum.backward += backward;
      sum.products += products;
      if (i === 0) sum.optimizer += optimizer;
    }
  }
  const scale = trained.steps / trained.stages.length / chosen.length;
  return {
    forward: sum.forward * scale,
    backward: sum.backward * scale,
    optimizer: sum.optimizer * scale,
    products: sum.products * scale,
  };
}

/** Of a program beside its constants: the runtime, and values between operators of a batch of 768 tokens. */
const programOverhead = 32e6;

/** Bytes of the programs beside the step: constants stand in the model and as kernels read them. */
function programBytes({ trained, heldOut, cached, cachedLooks }: Prepared): { lower: number; looks: number } {
  const { frozen, params } = trained.adaptation;
  const bytes = (values: Named<HostTensor>, keep: (name: string) => boolean = () => true) =>
    Object.entries(values).reduce((sum, [name, { data }]) => sum + (keep(name) ? data.byteLength : 0), 0);
  const below = (name: string) => cached > 0 && isBelow(name, cached);
  const read = (name: string) => !(cachedLooks && below(name));
  return {
    lower: cached > 0 ? programOverhead + 2 * (bytes(frozen, below) + bytes(params, below)) : 0,
    // Its model is read where that of the step was, which is given back by then.
    looks: heldOut ? programOverhead + bytes(frozen, read) + 2 * bytes(params) : 0,
  };
}

/** Where kept states stand, and how many tokens they are as a share of an epoch's. */
function keptStates(
  { trained, train, heldOut, ids, cached, cachedLooks }: Prepared,
  { cacheActivations }: TuneOptions,
) {
  if (cached === 0) return { memory: 0, disk: 0, share: 0 };
  const { memoryBytes = defaultMemory, dtype } = typeof cacheActivations === 'object' ? cacheActivations : {};
  const own = cachedLooks ? ids : ids.slice(0, train.ids.length);
  const types = train.types && [...train.types, ...(cachedLooks ? (heldOut?.types ?? []) : [])];
  const bytes = activationBytes({ ids: own, ...(types && { types }) }, trained.encoder.hidden);
  const tokens = train.ids.reduce((sum, { length }) => sum + length, 0);
  const share = bytes / 4 / trained.encoder.hidden / tokens;
  if (bytes <= memoryBytes) return { memory: bytes, disk: 0, share };
  return { memory: 0, disk: dtype === 'float16' ? bytes / 2 : bytes, share };
}

/** Tokens that looks read, as a share of an epoch's. */
function lookShare({ trained, train, heldOut }: Prepared, { validation }: TuneOptions): number {
  if (!heldOut) return 0;
  const tokens = (ids: readonly (readonly number[])[]) => ids.reduce((sum, { length }) => sum + length, 0);
  const every = validation?.everySteps ?? stepsOf(train.rows.length, trained.settings);
  return (Math.ceil(trained.steps / every) * tokens(heldOut.ids)) / tokens(train.ids);
}

/** A short table. */
export function describePlan({ parameters, steps, flops, seconds, memory, settings }: TuningPlan): string {
  const { trainableBody, trainableHead, total, percent } = parameters;
  const giga = (value: number) => `${(value / 1e9).toFixed(value < 1e10 ? 2 : 0)} GFLOP`;
  const mebi = (bytes: number) => `${(bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0)} MiB`;
  const listed = (parts: readonly (readonly [string, number])[], show: (value: number) => string) =>
    parts.flatMap(([name, value]) => (value > 0 ? [`${name} ${show(value)}`] : [])).join(', ');
  const { batchSize, accumulate, recompute, cachedLayers } = settings;
  const rows = [
    [
      'parameters',
      `${trainableBody + trainableHead} of ${total} trained (${percent.toFixed(2)} %), ${trainableHead} of them in the head`,
    ],
    [
      'steps',
      `${steps} of ${batchSize * accumulate} rows${accumulate > 1 ? `, ${accumulate} batches of ${batchSize} each` : ''}` +
        `${recompute > 0 ? `, ${recompute} layers computed twice` : ''}` +
        `${cachedLayers > 0 ? `, from the states after ${cachedLayers} layers` : ''}`,
    ],
    [
      'operations',
      `${giga(flops.total)}: ${listed(
        [
          ['forward', flops.forward],
          ['backward', flops.backward],
          ['optimiser', flops.optimizer],
          ['kept states', flops.cache],
          ['looks', flops.looks],
        ],
        giga,
      )}`,
    ],
    ['seconds', `about ${seconds.toFixed(seconds < 10 ? 1 : 0)}`],
    [
      'memory',
      `${mebi(memory.total)}: ${listed(
        [
          ['weights', memory.weights],
          ['gradients', memory.gradients],
          ['moments', memory.moments],
          ['activations', memory.activations],
          ['copies', memory.copies],
          ['looks', memory.looks],
          ['kept states', memory.cache + memory.lower],
          ['overhead', memory.overhead],
        ],
        mebi,
      )}${memory.disk > 0 ? `; on disk: kept states ${mebi(memory.disk)}` : ''}`,
    ],
  ];
  return rows.map(([name, value]) => `${name!.padEnd(11)} ${value}`).join('\n');
}
