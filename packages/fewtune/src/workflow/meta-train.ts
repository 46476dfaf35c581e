import { mkdir } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { type Encoder, loadEncoder } from '@fewtune/models';
import { z } from 'zod';
import type { MetaReport } from '../artifact/meta-manifest.js';
import { sha256Of } from '../artifact/sealed.js';
import { type ClassFold, type SplitName, splitClasses } from '../data/class-split.js';
import { quoteSome, type TextDataset } from '../data/dataset.js';
import { type EpisodeSource, metaDataset } from '../data/meta-dataset.js';
import { FewtuneError } from '../errors.js';
import { mamlVariants } from '../methods/meta/task-loss.js';
import {
  type MetaMamlOptions,
  type MetaMamlResult,
  metaMamlDefaults,
  metaTrainMaml,
} from '../methods/meta/text-maml.js';
import { episodeAccuracy } from '../methods/metric/episode-accuracy.js';
import { type MetaTextOptions, metaTextDefaults } from '../methods/metric/meta-text-options.js';
import { type MetaTextResult, metaTrainText } from '../methods/metric/meta-train-text.js';
import { adaptEncoder } from '../methods/peft/adapter.js';
import { type Run, startRun } from '../run.js';
import { version } from '../version.js';
import { MetaTrained, roundedToHalf } from './meta-trained.js';

export const metaMethods = ['prototype', 'maml'] as const;
export type MetaMethod = (typeof metaMethods)[number];

export interface MetaTrainEncoderOptions {
  /** `prototype`: contrastive, for every method. `maml`: after that also for inner steps of `--method maml`. Default `prototype`. */
  readonly method?: MetaMethod;
  /** Classes of each part. Give this or `split`. */
  readonly fold?: ClassFold;
  /** Numbers of classes of each part, or fractions; default half to train on, a quarter each to validate and test. */
  readonly split?: Partial<Readonly<Record<SplitName, number>>>;
  /** Options of the training, as {@link metaTextDefaults} or {@link metaMamlDefaults} lists them. */
  readonly options?: Readonly<Record<string, unknown>>;
  /** Hub id or folder of the encoder; default: the embedded one. */
  readonly encoder?: string;
  /** Where the state of the run is kept, so that an interrupted one can go on. */
  readonly checkpoint?: string;
  /** Go on from `checkpoint`: the result is that of a run without a break. */
  readonly resume?: boolean;
  /** Default 7. */
  readonly seed?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

/** What a run of meta-training is doing. */
export interface MetaTrainEncoderEvent {
  readonly stage: 'read' | 'train' | 'measure';
  /** Of the whole run, 0..1, never falling; an estimate. */
  readonly fraction: number;
  readonly elapsedMs: number;
  readonly metrics: Readonly<Record<string, number | string>>;
}

export const metaTrainDefaults = {
  method: 'prototype' as MetaMethod,
  split: { train: 0.5, validation: 0.25, test: 0.25 },
  seed: 7,
} as const;

const count = z.number().int().positive();
const loraOptions = {
  rank: count.optional(),
  alpha: z.number().positive().optional(),
  targets: z.union([z.literal('all-linear'), z.array(z.string()).min(1)]).optional(),
  steps: count.optional(),
};
const metricSchema = z.strictObject({
  ...loraOptions,
  lr: z.number().positive().optional(),
  classesPerBatch: z.number().int().min(2).optional(),
  perClass: z.union([z.number().int().min(2), z.literal('auto')]).optional(),
  temperature: z.number().positive().optional(),
  tokenDropout: z.number().min(0).max(0.9).optional(),
  weightDecay: z.number().min(0).optional(),
  interpolation: z.union([z.number().min(0).max(1), z.literal('auto')]).optional(),
  validateEvery: count.optional(),
  patience: count.optional(),
});
const mamlSchema = z.strictObject({
  ...loraOptions,
  variant: z.enum(mamlVariants).optional(),
  innerLr: z.number().positive().optional(),
  innerSteps: z.number().int().min(0).optional(),
  scale: z.number().positive().optional(),
  tasksPerStep: count.optional(),
  ways: z.number().int().min(2).optional(),
  shots: count.optional(),
  queries: count.optional(),
  metaLr: z.number().positive().optional(),
  clipNorm: z.number().positive().optional(),
});
const recipes = {
  prototype: { schema: metricSchema, defaults: metaTextDefaults },
  maml: { schema: mamlSchema, defaults: metaMamlDefaults },
} as const;

/**
 * Meta-trains an encoder on some classes of a table, so that classes it has never seen lie apart: a start from which every
 * method needs fewer examples (`train(data, { from })`). Validation classes choose the step that is kept; test classes,
 * which nothing is chosen on, say what it is worth.
 *
 * @throws (through `result` and through iteration) FewtuneError OPTION_INVALID, CLASS_SINGLE, CLASS_TOO_SMALL,
 *   LABEL_UNKNOWN, LABELS_CONFLICT, LOSS_NOT_FINITE, INTERRUPTED; of a checkpoint FILE_NOT_FOUND, FILE_UNREADABLE,
 *   OUTPUT_UNWRITABLE
 * @example
 * const run = metaTrainEncoder(await readTable('intents.csv'), { seed: 7 });
 * for await (const event of run) console.log(event.stage, event.fraction, event.metrics);
 * await (await run.result).save('starts/intents');
 */
export function metaTrainEncoder(
  data: TextDataset,
  options: MetaTrainEncoderOptions = {},
): Run<MetaTrainEncoderEvent, MetaTrained> {
  return startRun((emit) => metaTrained(data, options, emit));
}

/**
 * Finds wrong options before any work is done; `metaTrainEncoder` does so itself.
 * @throws FewtuneError OPTION_INVALID
 */
export function checkMetaTrainOptions({
  method = metaTrainDefaults.method,
  fold,
  split,
  options = {},
  checkpoint,
  resume,
}: MetaTrainEncoderOptions) {
  if (!metaMethods.includes(method)) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `method ${JSON.stringify(method)}: meta-training knows ${metaMethods.join(' and ')}.`,
    );
  }
  if (fold !== undefined && split !== undefined) {
    throw new FewtuneError('OPTION_INVALID', 'class folds and split fractions were both given; give one of them.');
  }
  if (resume && checkpoint === undefined) {
    throw new FewtuneError('OPTION_INVALID', 'resume: there is no checkpoint to go on from; name one.');
  }
  const { schema, defaults } = recipes[method];
  const parsed = schema.safeParse(options);
  if (parsed.success) return { ...defaults, ...parsed.data };
  const wrong = parsed.error.issues.map(({ path, message }) =>
    path.length > 0 ? `${path.join('.')}: ${message}` : message,
  );
  const values: Readonly<Record<string, unknown>> = defaults;
  const known = Object.keys(schema.shape).map((name) => (name in values ? `${name}=${values[name]}` : name));
  throw new FewtuneError(
    'OPTION_INVALID',
    `meta-train: ${wrong.join('; ')}. Its options, with their defaults: ${known.join(', ')}.`,
    { cause: parsed.error },
  );
}

async function metaTrained(
  data: TextDataset,
  options: MetaTrainEncoderOptions,
  emit: (event: MetaTrainEncoderEvent) => void,
): Promise<MetaTrained> {
  const began = performance.now();
  const settings = checkMetaTrainOptions(options);
  const { seed = metaTrainDefaults.seed, threads, signal, checkpoint, resume } = options;
  const tell = (
    stage: MetaTrainEncoderEvent['stage'],
    fraction: number,
    metrics: MetaTrainEncoderEvent['metrics'] = {},
  ) => emit({ stage, fraction, elapsedMs: performance.now() - began, metrics });
  const fold = options.fold ?? splitClasses(data.classes, options.split ?? metaTrainDefaults.split, seed);
  const { train, validation, test } = metaDataset(data, fold);
  requireEpisodes('validation', validation);
  requireEpisodes('test', test);
  tell('read', 0.01, {
    classes: train.classes.length,
    validation: validation.classes.length,
    test: test.classes.length,
  });

  const base = await loadEncoder(options.encoder, { signal });
  if (checkpoint !== undefined && !resume) await makeFolderOf(checkpoint); // now, not when it is first written
  const how = {
    ...(checkpoint !== undefined && { checkpoint: { path: checkpoint } }),
    ...(resume && { resume: checkpoint }),
    seed,
    threads,
    signal,
  };
  const given = validation.classes.length > 0 ? { validation } : {};
  const { method = metaTrainDefaults.method } = options;
  const onStep = (fraction: number, metrics: MetaTrainEncoderEvent['metrics']) =>
    tell('train', 0.02 + 0.93 * fraction, metrics);
  const trained =
    method === 'maml'
      ? await byMaml(base, train, { ...settings, ...how, warmUp: given }, onStep)
      : await byMetric(base, train, { ...settings, ...how, ...given }, onStep);
  const { steps, keptStep, keptShare, validation: looks, classes } = trained;
  const adapter = roundedToHalf(trained.adapter); // as it is saved: half the size, and measured as it will be used
  const encoder = adaptEncoder(base, adapter);
  tell('measure', 0.95);
  const measured = [
    ...looksMeasured(looks, keptStep, validation),
    ...(await testMeasured(base, encoder, test, { threads, signal })),
  ];
  tell('measure', 1, Object.fromEntries(measured.map(({ on, after }) => [on, after])));
  const report: MetaReport = {
    schemaVersion: 1,
    kind: method === 'maml' ? 'maml' : 'metric',
    library: { name: 'fewtune', version },
    created: new Date().toISOString(),
    base: { id: base.id, ...(base.revision && { revision: base.revision }), fingerprint: base.fingerprint },
    pooling: base.pooling,
    options: settings,
    head: { metric: 'cosine', temperature: trained.temperature },
    trainingData: { source: basename(data.source), fingerprint: fingerprintOf(train), examples: train.texts.length },
    classes: [...classes],
    validationClasses: [...validation.classes],
    measured,
    steps,
    keptStep,
    keptShare,
    seed,
    seconds: (performance.now() - began) / 1000,
  };
  return new MetaTrained({ report, adapter, encoder, base, ...(trained.rates && { meta: trained.rates }) });
}

async function makeFolderOf(checkpoint: string): Promise<void> {
  try {
    await mkdir(dirname(checkpoint), { recursive: true });
  } catch (cause) {
    throw new FewtuneError('OUTPUT_UNWRITABLE', `the checkpoint cannot be written to ${checkpoint}.`, { cause });
  }
}

/** What both ways of training give. */
type Trained = Omit<MetaTextResult, 'encoder'> & {
  readonly temperature: number;
  readonly rates?: MetaMamlResult['rates'];
};
type OnStep = (fraction: number, metrics: MetaTrainEncoderEvent['metrics']) => void;

async function byMetric(
  base: Encoder,
  train: EpisodeSource,
  options: MetaTextOptions,
  onStep: OnStep,
): Promise<Trained> {
  const run = metaTrainText(base, train, options);
  for await (const { step, steps, loss, lr, validation: accuracy } of run) {
    onStep(step / steps, { step, loss, lr, ...(accuracy === undefined ? {} : { validation: accuracy }) });
  }
  return { ...(await run.result), temperature: options.temperature ?? metaTextDefaults.temperature };
}

/** Its warm-up is the other way, which takes about a third of the time. */
async function byMaml(base: Encoder, train: EpisodeSource, options: MetaMamlOptions, onStep: OnStep): Promise<Trained> {
  const run = metaTrainMaml(base, train, options);
  for await (const { stage, step, steps, loss, lr, warning } of run) {
    const fraction = stage === 'warm-up' ? (0.3 * step) / steps : 0.3 + (0.7 * step) / steps;
    onStep(fraction, { step, loss, lr, ...(warning === undefined ? {} : { warning }) });
  }
  const { adapter, rates, steps, classes, start } = await run.result;
  const whole = { keptStep: steps, keptShare: 1, validation: [] };
  return { adapter, rates, steps, classes, ...whole, temperature: 1 / start.settings.scale };
}

/** Parts that are measured on need two classes with two rows each. */
function requireEpisodes(part: SplitName, { classes, labels }: EpisodeSource): void {
  if (classes.length === 0) return;
  if (classes.length === 1) {
    throw new FewtuneError(
      'CLASS_SINGLE',
      `${part}: one class, ${quoteSome(classes)}, can be mistaken for no other; give two or none.`,
    );
  }
  const small = classes.filter((_, c) => labels.filter((label) => label === c).length < 2);
  if (small.length === 0) return;
  throw new FewtuneError(
    'CLASS_TOO_SMALL',
    `${part}: ${quoteSome(small)} have one example; two are needed, to learn from and to ask.`,
  );
}

const episodes = (classes: number) =>
  `plain prototypes, 40 episodes of all ${classes} classes, up to 5 examples to learn from and 5 to ask of each`;

function looksMeasured(
  looks: readonly { readonly step: number; readonly accuracy: number }[],
  keptStep: number,
  { classes }: EpisodeSource,
): MetaReport['measured'] {
  if (looks.length === 0) return [];
  // Of a step there is a look at each share of its update; the best was kept.
  const at = (step: number) => Math.max(...looks.flatMap((look) => (look.step === step ? [look.accuracy] : [])));
  const how = `${episodes(classes.length)}; the best of ${looks.length} looks, so slightly optimistic`;
  return [{ on: 'validation', classes: classes.length, before: at(0), after: at(keptStep), how }];
}

async function testMeasured(
  base: Encoder,
  tuned: Encoder,
  test: EpisodeSource,
  options: { threads?: number; signal?: AbortSignal },
): Promise<MetaReport['measured']> {
  const { length } = test.classes;
  if (length === 0) return [];
  const [before, after] = [await episodeAccuracy(base, test, options), await episodeAccuracy(tuned, test, options)];
  return [{ on: 'test', classes: length, before, after, how: episodes(length) }];
}

function fingerprintOf({ texts, labels, classes }: EpisodeSource): string {
  return sha256Of(JSON.stringify(texts.map((text, row) => [text, classes[labels[row]!]])));
}
