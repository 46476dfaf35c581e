import { elementCount, type HostTensor, mergeLora, type Named, type OnnxFunction, toOnnx } from '@fewtune/engine';
import { z } from 'zod';
import { checkAdapterName } from '../artifact/adapter-names.js';
import type { LinearHead } from '../artifact/linear-head.js';
import { asClassifier, type TextGraph } from '../artifact/onnx-classifier.js';
import { configJson } from '../artifact/pack.js';
import { ClassifierSession } from '../artifact/session.js';
import { labelIndices, requireTrainable, type TextDataset } from '../data/dataset.js';
import { createRandom, type Random } from '../data/random.js';
import { FewtuneError } from '../errors.js';
import { fitTemperature } from '../evaluation/calibration.js';
import type { LoraAdapter } from '../methods/peft/adapter.js';
import { adapterFolderFiles } from '../methods/peft/model-adapters.js';
import { insertOnnxLora, type OnnxLora, onnxAdapter } from '../methods/peft/onnx-lora.js';
import { linearHead } from '../methods/tune/tasks/linear-head.js';
import type { Run } from '../run.js';
import {
  compareLogits,
  type FinetuneEvent,
  finetunedReport,
  holdOut,
  type MergeReport,
  type ShowFinetune,
  startFinetune,
} from './finetuned-report.js';
import { divide } from './hold-out.js';
import { fitOnnx } from './onnx-fit.js';
import { explained, type OnnxText, openOnnxText, withoutClassifier } from './onnx-text.js';
import { headBias, headWeight, OnnxLogits, type OnnxTrainable, outputWidth, tokenise } from './onnx-training.js';
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
  return startFinetune((show) => finetune(base, data, options, show), options.signal);
}

/** @throws FewtuneError OPTION_INVALID, naming each option */
export function parseFinetuneOnnx(options: Readonly<Record<string, unknown>> = {}): FinetuneOnnxSettings {
  const parsed = finetuneOnnxSchema.safeParse(options);
  if (parsed.success) return parsed.data;
  const known = Object.keys(finetuneOnnxSchema.shape).join(', ');
  const wrong = parsed.error.issues.map(({ path, message }) => `${path.join('.') || 'options'}: ${message}`);
  throw new FewtuneError('OPTION_INVALID', `finetune: ${wrong.join('; ')}. There are ${known}.`);
}

async function finetune(
  base: string,
  data: TextDataset,
  options: FinetuneOnnxOptions,
  show: ShowFinetune,
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
  let session: ClassifierSession | undefined;
  try {
    const fitted = await fitOnnx(
      trainable,
      { ids, labels: indices(learned, learned.classes) },
      held,
      logits,
      settings,
      {
        random,
        threads,
        signal,
        onStep: (share, metrics) => show('fit', 0.02 + 0.93 * share, metrics),
      },
    );
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
    session = await ClassifierSession.open(packed, { threads });
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
    const report = finetunedReport({
      started,
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
      session,
      labels,
      temperature,
      data,
      learned,
      held: validation.texts.length,
      logits: after,
      truth: measuredLabels,
      ...(test && { how: test.how }),
      seed,
    });
    show('evaluate', 1, { accuracy: report.metrics.accuracy });
    const model = new TrainedModel({ report, session }, async () => packed);
    return { model, adapter, ...(head && { head }), merge, parameters };
  } catch (error) {
    await session?.dispose();
    throw error;
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
