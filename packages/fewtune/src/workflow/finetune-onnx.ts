import { basename } from 'node:path';
import {
  elementCount,
  type HostTensor,
  hostTensor,
  mergeLora,
  type Named,
  type OnnxFunction,
  toOnnx,
} from '@fewtune/engine';
import { z } from 'zod';
import { pick } from '../advisor/cross-validate.js';
import { checkAdapterName } from '../artifact/adapter-names.js';
import type { ModelReport } from '../artifact/classifier.js';
import type { LinearHead } from '../artifact/linear-head.js';
import { asClassifier, type TextGraph } from '../artifact/onnx-classifier.js';
import { configJson } from '../artifact/pack.js';
import { ClassifierSession } from '../artifact/session.js';
import { labelIndices, requireTrainable, type TextDataset } from '../data/dataset.js';
import { createRandom, type Random } from '../data/random.js';
import { stratifiedSplit } from '../data/split.js';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { fitTemperature, negativeLogLikelihood } from '../evaluation/calibration.js';
import { accuracy, argmaxRows } from '../evaluation/metrics.js';
import type { Labelled } from '../methods/method.js';
import type { LoraAdapter } from '../methods/peft/adapter.js';
import { adapterFolderFiles } from '../methods/peft/model-adapters.js';
import { insertOnnxLora, type OnnxLora, onnxAdapter } from '../methods/peft/onnx-lora.js';
import { epochBatches, stepsOf } from '../methods/tune/batches.js';
import { linearHead } from '../methods/tune/tasks/linear-head.js';
import { type Run, startRun } from '../run.js';
import { version } from '../version.js';
import { divide } from './hold-out.js';
import { metricsOf } from './measure.js';
import { explained, type OnnxText, openOnnxText, withoutClassifier } from './onnx-text.js';
import {
  feedTexts,
  headBias,
  headWeight,
  OnnxLogits,
  type OnnxTrainable,
  openOnnxStep,
  outputWidth,
  tokenise,
} from './onnx-training.js';
import { fingerprintOf } from './train.js';
import { TrainedModel } from './trained-model.js';

const pattern = z.record(z.string(), z.number().positive()).default({});

export const finetuneOnnxSchema = z.strictObject({
  targets: z.union([z.string().min(1), z.array(z.string().min(1)).min(1)]).default('all-linear'),
  rank: z.number().int().positive().default(8),
  alpha: z.number().positive().default(16),
  rsLora: z.boolean().default(false),
  rankPattern: pattern.refine((value) => Object.values(value).every(Number.isInteger), { message: 'ranks are whole' }),
  alphaPattern: pattern,
  epochs: z.number().int().positive().default(5),
  batchSize: z.number().int().positive().default(16),
  lr: z.number().positive().default(5e-4),
  headLr: z.union([z.number().positive(), z.literal('same')]).default('same'),
  schedule: z.enum(['linear', 'constant']).default('linear'),
  warmup: z.number().min(0).max(1).default(0.1),
  weightDecay: z.number().min(0).default(0.01),
  clipNorm: z.number().positive().default(1),
  validation: z.number().gt(0).lt(1).default(0.2),
  patience: z.union([z.number().int().positive(), z.literal('none')]).default(3),
  classifier: z.enum(['auto', 'new']).default('auto'),
});

export type FinetuneOnnxSettings = z.output<typeof finetuneOnnxSchema>;

export interface FinetuneOnnxOptions {
  /**
   * Of the training: targets, rank, alpha, rsLora, rankPattern, alphaPattern, epochs, batchSize, lr, headLr, schedule,
   * warmup, weightDecay, clipNorm, validation (the share of the rows that chooses the epoch), patience (epochs without a
   * better loss there), classifier (`auto` keeps the file's own where its labels match).
   */
  readonly options?: Readonly<Record<string, unknown>>;
  /** Rows to measure on: another dataset, or the fraction of the rows (of every class) that is put aside. */
  readonly test?: TextDataset | number;
  /** Folder with tokenizer.json, where it is not beside the file. */
  readonly tokenizer?: string;
  /** The output to read, where several could be meant. */
  readonly output?: string;
  /** What the adapter is called in the model folder; `tuned`. */
  readonly name?: string;
  /** Default 7. */
  readonly seed?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

export interface FinetuneEvent {
  readonly stage: 'read' | 'fit' | 'evaluate';
  /** Of the whole run, 0..1. */
  readonly fraction: number;
  readonly elapsedMs: number;
  readonly metrics: Readonly<Record<string, number | string>>;
}

/** What merging did, measured on texts that nothing was learned from. */
export interface MergeReport {
  /** False where adapters stay nodes of their own, beside weights that are quantised or used twice. */
  readonly merged: boolean;
  readonly texts: number;
  /** Largest |difference| of a logit, before the temperature, between adapters beside the weights and the written file. */
  readonly largestDifference: number;
  readonly accuracyBefore: number;
  readonly accuracyAfter: number;
}

export interface FinetunedOnnx {
  /** Runs the written file; `save` writes the model folder, with the adapter in `adapters/<name>`. */
  readonly model: TrainedModel;
  readonly adapter: LoraAdapter;
  /** The new classifier; absent where the file's own was kept. */
  readonly head?: LinearHead;
  readonly merge: MergeReport;
  readonly parameters: { readonly total: number; readonly adapter: number; readonly head: number };
}

export type FinetuneOnnxRun = Run<FinetuneEvent, FinetunedOnnx>;

/**
 * Trains LoRA in a text model that was exported elsewhere: a `.onnx` file or a transformers.js folder.
 *
 * The head is a new linear layer on the pooled states, the sentence vector, or what the file's own classifier reads; the
 * file's own classifier where config.json has its labels and the data's are among them.
 *
 * @throws (through `result` and through iteration) FewtuneError MODEL_NOT_FOUND, MODEL_CORRUPT, MODEL_UNSUPPORTED,
 *   OPTION_INVALID, CLASS_SINGLE, CLASS_TOO_SMALL, LABEL_UNKNOWN, LOSS_NOT_FINITE, INTERRUPTED
 * @example
 * const run = finetuneOnnx('models/all-MiniLM-L6-v2', await readTable('tickets.csv'), { options: { targets: 'query' } });
 * const { model, merge } = await run.result;
 * await model.save('models/tickets');
 */
export function finetuneOnnx(base: string, data: TextDataset, options: FinetuneOnnxOptions = {}): FinetuneOnnxRun {
  return startRun((emit) => {
    const started = performance.now();
    const show = (stage: FinetuneEvent['stage'], fraction: number, metrics: FinetuneEvent['metrics'] = {}) =>
      emit({ stage, fraction, elapsedMs: performance.now() - started, metrics });
    return finetune(base, data, options, show);
  });
}

/** @throws FewtuneError OPTION_INVALID, naming each option */
export function parseFinetuneOnnx(options: Readonly<Record<string, unknown>> = {}): FinetuneOnnxSettings {
  const parsed = finetuneOnnxSchema.safeParse(options);
  if (parsed.success) return parsed.data;
  const known = Object.keys(finetuneOnnxSchema.shape).join(', ');
  const wrong = parsed.error.issues.map(({ path, message }) => `${path.join('.') || 'options'}: ${message}`);
  throw new FewtuneError('OPTION_INVALID', `finetune: ${wrong.join('; ')}. There are ${known}.`);
}

type Show = (stage: FinetuneEvent['stage'], fraction: number, metrics?: FinetuneEvent['metrics']) => void;

async function finetune(
  base: string,
  data: TextDataset,
  options: FinetuneOnnxOptions,
  show: Show,
): Promise<FinetunedOnnx> {
  const started = performance.now();
  const { seed = 7, threads, signal, name = 'tuned' } = options;
  checkAdapterName(name);
  const settings = parseFinetuneOnnx(options.options);
  requireTrainable(data);
  const text = await openOnnxText(base, options);
  const { labels, own } = labelsFor(text, data, settings.classifier);
  const { learned: all, test } = divide(data, options.test, seed);
  const { learned, held: validation } = holdOut(all, settings.validation, seed, data.source);
  show('read', 0.01, { examples: learned.texts.length, classes: labels.length });

  const random = createRandom(seed);
  const {
    model: plain,
    trainable,
    lora,
    loraOptions,
  } = await openTrainable(text, labels.length, own, settings, seed, random);
  const ids = tokenise(text.tokenizer, learned.texts);
  const heldIds = tokenise(text.tokenizer, validation.texts);
  const indices = (rows: { readonly labels: Int32Array }, names: readonly string[]) =>
    labelIndices(
      Array.from(rows.labels, (label) => names[label]!),
      labels,
    );
  const held = { ids: heldIds, labels: indices(validation, learned.classes) };
  const logits = await OnnxLogits.open(trainable, threads).catch((cause: unknown) => {
    throw explained(cause, text.file);
  });
  try {
    const fitted = await fit(trainable, { ids, labels: indices(learned, learned.classes) }, held, logits, settings, {
      random,
      threads,
      signal,
      onStep: (share, metrics) => show('fit', 0.02 + 0.93 * share, metrics),
    });
    const heldLogits = await logits.of(fitted.params, held.ids, signal);
    const temperature = fitTemperature(heldLogits, held.labels, labels.length);
    const head = headOf(fitted.params);
    const written = writtenOnnx(plain, trainable.graph, lora, fitted.params, {
      head,
      classes: labels.length,
      temperature,
    });
    const adapter = onnxAdapter(lora, fitted.params, loraOptions, { id: text.id, fingerprint: text.fingerprint });
    const packed = packOnnx(text, labels, written.bytes, name, adapter, head);
    const session = await ClassifierSession.open(packed, { threads });
    show('evaluate', 0.96);

    const measured = test ?? validation;
    const measuredLabels = indices(measured, learned.classes);
    const after = await session.logits(measured.texts, { signal });
    const before = await logits.of(fitted.params, tokenise(text.tokenizer, measured.texts), signal);
    const merge: MergeReport = {
      merged: written.merged,
      ...compareLogits(before, after, temperature, measuredLabels, labels.length),
    };
    const sizes = (tensors: Named<{ shape: readonly number[] }>) =>
      Object.values(tensors).reduce((sum, { shape }) => sum + elementCount(shape), 0);
    const parameters = {
      total: sizes(text.model.weights) + sizes(trainable.params),
      adapter: sizes(adapter.weights),
      head: head ? head.weight.length + head.bias.length : 0,
    };
    const report: ModelReport = {
      schemaVersion: 1,
      task: 'text-classification',
      library: { name: 'fewtune', version },
      created: new Date().toISOString(),
      method: {
        name: 'lora',
        options: { ...settings },
        details: {
          epochsRun: fitted.epochs,
          keptEpoch: fitted.keptEpoch,
          steps: fitted.steps,
          adapterParameters: parameters.adapter,
          headParameters: parameters.head,
          totalParameters: parameters.total,
          ownClassifier: own,
          merged: merge.merged,
          largestMergeDifference: merge.largestDifference,
        },
      },
      encoder: { id: text.id, fingerprint: text.fingerprint },
      preprocessing: { maxLength: session.tokenizer.maxLength, padId: session.tokenizer.padId },
      labels: [...labels],
      temperature,
      trainingData: {
        source: basename(data.source),
        fingerprint: fingerprintOf(learned),
        examples: learned.texts.length,
        classes: learned.classes.length,
        repairs: data.repairs.map(({ kind, count, remedy }) => ({ kind, count, remedy })),
      },
      seed,
      seconds: (performance.now() - started) / 1000,
      metrics: metricsOf(after, measuredLabels, labels.length, seed),
      evaluatedOn: {
        kind: 'test',
        examples: measured.texts.length,
        how: test
          ? `${test.how} The epoch and the temperature were chosen on ${validation.texts.length} of the other rows.`
          : `${measured.texts.length} rows that were not learned from, but that the epoch and the temperature were chosen on: ` +
            'slightly optimistic. Give --test for rows that nothing was chosen on.',
      },
      advice: { requested: 'lora', chosen: 'lora', rule: 'Named, not chosen.', tried: [], skipped: [] },
    };
    show('evaluate', 1, { accuracy: report.metrics.accuracy });
    const model = new TrainedModel({ report, session }, async () => packed);
    return { model, adapter, ...(head && { head }), merge, parameters };
  } finally {
    await logits.dispose();
  }
}

/** The labels of the logits, and whether the file's own classifier gives them. */
function labelsFor(
  { labels, graph, width }: OnnxText,
  data: TextDataset,
  classifier: FinetuneOnnxSettings['classifier'],
): { labels: readonly string[]; own: boolean } {
  const fits =
    classifier === 'auto' &&
    graph.output.kind === 'logits' &&
    labels !== undefined &&
    (width === undefined || width === labels.length) &&
    data.classes.every((name) => labels.includes(name));
  return fits ? { labels, own: true } : { labels: data.classes, own: false };
}

/**
 * Puts a share of every class aside; each keeps a row to learn from.
 *
 * @throws FewtuneError CLASS_TOO_SMALL
 */
export function holdOut(
  all: Labelled,
  share: number,
  seed: number,
  source: string,
): { learned: Labelled; held: Labelled } {
  const { train, test } = stratifiedSplit(all.labels, share, seed);
  if (test.length > 0) return { learned: pick(all, [...train]), held: pick(all, [...test]) };
  throw new FewtuneError(
    'CLASS_TOO_SMALL',
    `${source}: ${all.texts.length} rows are too few to hold ${share} of them back, which the epoch is chosen on. Add rows, or ` +
      'give a larger share with --set validation=0.4.',
  );
}

async function openTrainable(
  text: OnnxText,
  classes: number,
  own: boolean,
  settings: FinetuneOnnxSettings,
  seed: number,
  random: Random,
) {
  const { model, graph } = own ? text : await withoutClassifier(text);
  const width = outputWidth(text.file, model, graph);
  if (own && width !== classes) {
    throw new FewtuneError(
      'MODEL_CORRUPT',
      `${text.file}: config.json names ${classes} labels, the model gives ${width} logits. Give --set classifier=new.`,
    );
  }
  const { targets, rank, alpha, rsLora, rankPattern, alphaPattern } = settings;
  const loraOptions = { targets, rank, alpha, rsLora, rankPattern, alphaPattern, seed };
  const lora = insertOnnxLora(model, loraOptions);
  const split = lora.tuned.split();
  const head = own ? {} : linearHead(classes, width, random);
  const trainable: OnnxTrainable = {
    file: text.file,
    tuned: lora.tuned,
    graph,
    classes,
    params: { ...split.params, ...head },
    frozen: split.frozen,
  };
  return { model, trainable, lora, loraOptions };
}

function headOf(params: Named<HostTensor>): LinearHead | undefined {
  const [weight, bias] = [params[headWeight], params[headBias]];
  return weight && bias && { weight: weight.data as Float32Array, bias: bias.data as Float32Array };
}

interface Rows {
  readonly ids: readonly (readonly number[])[];
  readonly labels: Int32Array;
}

interface FitContext {
  readonly random: Random;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  onStep(share: number, metrics: Readonly<Record<string, number>>): void;
}

/** Epochs of batches; the weights that are kept are those with the lowest loss on held-out rows. */
async function fit(
  model: OnnxTrainable,
  { ids, labels }: Rows,
  held: Rows,
  logits: OnnxLogits,
  settings: FinetuneOnnxSettings,
  { random, threads, signal, onStep }: FitContext,
) {
  const { epochs, batchSize, patience } = settings;
  const lengths = ids.map((row) => row.length);
  const shape = { batchSize, accumulate: 1, groupByLength: true };
  const perEpoch = stepsOf(ids.length, shape);
  const step = await openOnnxStep(model, { ...settings, steps: epochs * perEpoch, threads });
  try {
    let steps = 0;
    let best = { loss: Number.POSITIVE_INFINITY, epoch: 0, params: model.params };
    let epoch = 0;
    while (epoch < epochs && (patience === 'none' || epoch - best.epoch < patience)) {
      epoch++;
      for (const [rows = []] of epochBatches(lengths, shape, random)) {
        throwIfAborted(signal);
        const { loss, lr } = await step.run({
          ...feedOf(model, ids, rows),
          labels: hostTensor(
            'int64',
            [rows.length],
            rows.map((row) => labels[row]!),
          ),
        });
        steps++;
        if (!Number.isFinite(loss)) throw diverged(loss, steps, settings.lr);
        onStep(steps / (epochs * perEpoch), { epoch, loss, lr });
      }
      const params = await step.params();
      const found = await logits.of(params, held.ids, signal);
      const loss = negativeLogLikelihood(found, held.labels, model.classes, 1);
      if (!Number.isFinite(loss)) throw diverged(loss, steps, settings.lr);
      const validation = accuracy(argmaxRows(found, model.classes), held.labels);
      onStep(steps / (epochs * perEpoch), { epoch, validation, validationLoss: loss });
      if (loss < best.loss) best = { loss, epoch, params };
    }
    return { params: best.params, keptEpoch: best.epoch, epochs: epoch, steps };
  } finally {
    await step.dispose();
  }
}

function feedOf(model: OnnxTrainable, ids: readonly (readonly number[])[], rows: readonly number[]) {
  return feedTexts(
    model,
    rows.map((row) => ids[row]!),
  );
}

function diverged(loss: number, step: number, lr: number): FewtuneError {
  return new FewtuneError(
    'LOSS_NOT_FINITE',
    `the loss became ${loss} in step ${step} at the learning rate ${lr}; try --set lr=${(lr / 10).toPrecision(1)}.`,
  );
}

/** The file with what was trained in it: merged, or as nodes beside weights that cannot take it up. */
function writtenOnnx(
  plain: OnnxFunction,
  graph: TextGraph,
  { tuned, products }: OnnxLora,
  params: Named<HostTensor>,
  parts: { head?: LinearHead; classes: number; temperature: number },
): { bytes: Uint8Array; merged: boolean } {
  const { [headWeight]: _, [headBias]: __, ...own } = params;
  const merged = products.every(({ apart }) => apart === undefined);
  const bytes = merged ? toOnnx(plain, mergeLora(tuned, own)) : toOnnx(tuned, own);
  return { bytes: asClassifier(bytes, graph, parts), merged };
}

/** A transformers.js folder with the adapter in it. */
function packOnnx(
  text: OnnxText,
  labels: readonly string[],
  onnx: Uint8Array,
  name: string,
  adapter: LoraAdapter,
  head: LinearHead | undefined,
): Map<string, Uint8Array | string> {
  const { id2label: _, label2id: __, 'transformers.js_config': ___, ...config } = text.config;
  const modelType = typeof config.model_type === 'string' ? config.model_type : 'bert';
  return new Map<string, Uint8Array | string>([
    ['config.json', configJson({ config, modelType }, labels)],
    ...Object.entries(text.tokenizer.files),
    ['onnx/model.onnx', onnx],
    ...adapterFolderFiles(name, adapter, head && { ...head, labels }),
  ]);
}

/** Differences of uncalibrated logits, and how many rows are right by each. */
export function compareLogits(
  before: Float32Array,
  after: Float32Array,
  temperature: number,
  labels: Int32Array,
  classes: number,
) {
  const largestDifference = before.reduce(
    (most, value, i) => Math.max(most, Math.abs(value - temperature * after[i]!)),
    0,
  );
  const right = (logits: Float32Array) => accuracy(argmaxRows(logits, classes), labels);
  return { texts: labels.length, largestDifference, accuracyBefore: right(before), accuracyAfter: right(after) };
}
