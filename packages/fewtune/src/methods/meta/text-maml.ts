import { createHash } from 'node:crypto';
import type { HostTensor, Named } from '@fewtune/engine';
import type { Encoder } from '@fewtune/models';
import { type Episode, episodeSampler, shapeOf, wayLabels } from '../../data/episodes.js';
import type { EpisodeSource } from '../../data/meta-dataset.js';
import { type Run, startRun } from '../../run.js';
import { type MetaTextOptions, metaTextDefaults } from '../metric/meta-text-options.js';
import { metaTrainText } from '../metric/meta-train-text.js';
import { isTextCheckpoint } from '../metric/text-checkpoint.js';
import { adaptEncoder, adaptedModules, type LoraAdapter } from '../peft/adapter.js';
import { type LoraEncoder, labelTensor, loraEncoder } from './lora-encoder.js';
import { Maml } from './maml.js';
import type { MetaTask } from './meta-model.js';
import { isRate } from './task-loss.js';
import type { TextMamlSettings, TextMamlStart } from './text-maml-start.js';

export const textMamlSettings: TextMamlSettings = {
  variant: 'maml',
  innerLr: 0.1,
  innerSteps: 3,
  rank: metaTextDefaults.rank,
  alpha: metaTextDefaults.alpha,
  targets: metaTextDefaults.targets,
  scale: 20,
};

export interface MetaMamlOptions extends Partial<TextMamlSettings> {
  /** Steps of the meta-learner, and tasks of each. */
  readonly steps?: number;
  readonly tasksPerStep?: number;
  /** Of each task; all classes where there are fewer than that. */
  readonly ways?: number;
  readonly shots?: number;
  readonly queries?: number;
  /** Largest rate of Adam; it falls to 0 along a cosine. */
  readonly metaLr?: number;
  readonly clipNorm?: number;
  /**
   * Contrastive training on the same classes before the first step, which gives the LoRA weights a start that one step
   * at a time would take hours to reach; its options, or false for none.
   */
  readonly warmUp?: Pick<MetaTextOptions, 'steps' | 'lr' | 'interpolation' | 'validation'> | false;
  /** LoRA weights to begin with instead of the warm-up, of the same rank, alpha and layers. */
  readonly start?: LoraAdapter;
  /** A safetensors file for the run's state, written every so many steps (20 when left out). */
  readonly checkpoint?: { readonly path: string; readonly every?: number };
  /** A checkpoint of a run with the same options, data and encoder; the result is that of a run without a break. */
  readonly resume?: string;
  readonly seed?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

/** Tasks of many ways and few shots: those of five ways and shots are solved after the warm-up, and teach nothing. */
export const metaMamlDefaults = {
  ...textMamlSettings,
  steps: 20,
  tasksPerStep: 1,
  ways: 20,
  shots: 2,
  queries: 2,
  metaLr: 2e-4,
  clipNorm: 1,
  seed: 7,
} as const satisfies MetaMamlOptions;

export interface MetaMamlEvent {
  readonly stage: 'warm-up' | 'meta';
  /** Of this stage, from 1. */
  readonly step: number;
  readonly steps: number;
  readonly loss: number;
  readonly lr: number;
  readonly elapsedMs: number;
  /** What was done against a divergence. */
  readonly warning?: string;
}

export interface MetaMamlResult {
  /** What {@link adaptText} takes. */
  readonly start: TextMamlStart;
  /** The LoRA weights as an adapter of the encoder, and the rates that were learned besides: none with `maml`. */
  readonly adapter: LoraAdapter;
  readonly rates: Readonly<Record<string, HostTensor>>;
  /** The encoder with the adapter merged: features of it make the prototypes that a task begins with. */
  readonly encoder: Encoder;
  readonly steps: number;
  readonly epochLosses: readonly number[];
  readonly classes: readonly string[];
}

/**
 * Meta-trains an encoder's LoRA weights with MAML on the classes of a source, second order, each task's head begun at its
 * prototypes (proto-MAML: Triantafillou et al. 2020, section 3, arXiv:1903.03096), after a contrastive warm-up.
 *
 * @throws FewtuneError CLASS_SINGLE, CLASS_TOO_SMALL, OPTION_INVALID, LOSS_NOT_FINITE, INTERRUPTED; of a checkpoint
 *   FILE_NOT_FOUND, FILE_UNREADABLE, OUTPUT_UNWRITABLE
 * @example
 * const { train } = metaDataset(data, splitClasses(data.classes, { train: 0.7, test: 0.3 }, 7));
 * const { start } = await metaTrainMaml(await loadEncoder(), train).result;
 * const fitted = await adaptText(start, { texts, labels, classes });
 */
export function metaTrainMaml(
  encoder: Encoder,
  source: EpisodeSource,
  options: MetaMamlOptions = {},
): Run<MetaMamlEvent, MetaMamlResult> {
  return startRun((emit) => trained(encoder, source, { ...metaMamlDefaults, ...options }, emit));
}

type Settings = MetaMamlOptions & Required<Pick<MetaMamlOptions, keyof typeof metaMamlDefaults>>;

async function trained(
  encoder: Encoder,
  source: EpisodeSource,
  options: Settings,
  emit: (event: MetaMamlEvent) => void,
): Promise<MetaMamlResult> {
  const { shots, queries, steps, seed, signal, threads, resume } = options;
  const ways = Math.min(options.ways, source.classes.length);
  const sampler = episodeSampler({
    labels: source.labels,
    classNames: source.classes,
    shape: { ways, shots, queries },
    seed,
  });
  const settings = settingsOf(options);
  const model = mamlEncoder({ encoder, settings }, ways);
  // Made before the warm-up, so that a wrong option is refused at once.
  const fresh = new Maml({ model, ...bilevelOf(settings), ...outerOf(options) });
  const inWarmUp = resume !== undefined && (await isTextCheckpoint(resume));
  const goesOn = resume !== undefined && !inWarmUp;
  const begun = goesOn ? undefined : await startOf(encoder, source, options, inWarmUp, emit);
  await using learner = new Maml({
    model,
    ...bilevelOf(settings),
    ...outerOf(options),
    threads,
    start: { ...fresh.params, ...begun },
  });
  const batches = function* (epoch: number) {
    for (const episodes of sampler.batches(options.tasksPerStep, steps, epoch * steps)) {
      yield episodes.map((episode) => textTask(model, source, episode));
    }
  };
  const { checkpoint } = options;
  const run = learner.metaTrain(batches, {
    batchesPerEpoch: steps,
    data: dataKey(encoder, source, options),
    ...(checkpoint && { checkpoint: { path: checkpoint.path, every: checkpoint.every ?? 20 } }),
    ...(goesOn && { resume }),
    signal,
    onProgress: ({ step, loss, lr, elapsedMs, warning }) =>
      emit({ stage: 'meta', step, steps, loss, lr, elapsedMs, ...(warning && { warning }) }),
  });
  const { epochLosses } = await run.result;
  const { params } = learner;
  const rates = Object.fromEntries(Object.entries(params).filter(([name]) => isRate(name)));
  const { id, revision, fingerprint } = encoder;
  const adapter: LoraAdapter = {
    method: 'lora',
    rank: settings.rank,
    alpha: settings.alpha,
    weights: learner.weights,
    base: { id, ...(revision && { revision }), fingerprint },
  };
  const targets = adaptedModules(adapter);
  return {
    start: { encoder, params, settings: { ...settings, targets } },
    adapter: { ...adapter, targets },
    rates,
    encoder: adaptEncoder(encoder, adapter),
    steps,
    epochLosses,
    classes: source.classes,
  };
}

/** The LoRA weights that the first step finds; undefined where they are to be drawn. */
async function startOf(
  encoder: Encoder,
  source: EpisodeSource,
  options: Settings,
  resumes: boolean,
  emit: (event: MetaMamlEvent) => void,
): Promise<Named<HostTensor> | undefined> {
  if (options.start) return options.start.weights;
  if (options.warmUp === false) return undefined;
  const { rank, alpha, targets, seed, threads, signal, checkpoint, resume } = options;
  const run = metaTrainText(encoder, source, {
    ...options.warmUp,
    ...{ rank, alpha, targets, seed, threads, signal, checkpoint },
    ...(resumes && { resume }),
  });
  for await (const { step, steps, loss, lr, elapsedMs } of run) {
    emit({ stage: 'warm-up', step, steps, loss, lr, elapsedMs });
  }
  return (await run.result).adapter.weights;
}

const settingsOf = ({ variant, innerLr, innerSteps, rank, alpha, targets, scale }: Settings): TextMamlSettings => ({
  ...{ variant, innerLr, innerSteps, rank, alpha, targets, scale },
});

const outerOf = ({ metaLr, clipNorm }: Settings) => ({ metaLr, clipNorm, metaSchedule: 'cosine' }) as const;

export const bilevelOf = ({ variant, innerLr, innerSteps }: TextMamlSettings) => ({ variant, innerLr, innerSteps });

/** The model that tasks of so many ways share the params of. */
export function mamlEncoder(
  { encoder, settings }: Pick<TextMamlStart, 'encoder' | 'settings'>,
  ways: number,
): LoraEncoder {
  const { rank, alpha, targets, scale } = settings;
  // As many tokens as the encoder itself would read.
  const { maxLength } = encoder.tokenizer;
  return loraEncoder({ encoder, ways, head: 'prototype', rank, alpha, targets, scale, maxTokens: maxLength });
}

/** An episode of a source as a task. */
export function textTask(
  model: LoraEncoder,
  { texts }: Pick<EpisodeSource, 'texts'>,
  episode: Episode,
): MetaTask<ReturnType<LoraEncoder['tokens']>> {
  const { ways, shots, queries } = shapeOf(episode);
  const examples = (rows: Int32Array, perWay: number) => ({
    x: model.tokens(Array.from(rows, (row) => texts[row]!)),
    y: labelTensor(wayLabels(ways, perWay)),
  });
  return { support: examples(episode.support, shots), query: examples(episode.query, queries) };
}

/** What a resumed run must have in common with the one it goes on from, besides its options. */
function dataKey(encoder: Encoder, { texts, labels, classes }: EpisodeSource, options: Settings): string {
  const { ways, shots, queries, tasksPerStep, seed, warmUp } = options;
  const shape = { ways, shots, queries, tasksPerStep, seed, warmUp: warmUp ?? null };
  const own = JSON.stringify([encoder.fingerprint, texts, [...labels], classes, shape]);
  return createHash('sha256').update(own).digest('hex');
}
