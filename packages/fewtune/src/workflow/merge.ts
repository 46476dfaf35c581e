import { stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import {
  compile,
  constant,
  type HostTensor,
  hostTensor,
  linear,
  mergeLora,
  type Named,
  OnnxFunction,
  type Program,
  type Tensor,
  toOnnx,
} from '@fewtune/engine';
import { type Encoder, encodeWith, lengthBatches, loadEncoder, padBatch, pool } from '@fewtune/models';
import { adaptersFolder } from '../artifact/adapter-names.js';
import { encoderFiles } from '../artifact/encoder-folder.js';
import { writeFolder } from '../artifact/folder.js';
import { readFolder } from '../artifact/load.js';
import { manifestFile } from '../artifact/manifest.js';
import { type MergeManifest, mergeManifestFile, mergeManifestSchema } from '../artifact/merge-manifest.js';
import { asClassifier } from '../artifact/onnx-classifier.js';
import { configJson } from '../artifact/pack.js';
import { listFiles, seal, sha256Of } from '../artifact/sealed.js';
import type { TextDataset } from '../data/dataset.js';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { accuracy, argmaxRows } from '../evaluation/metrics.js';
import { type Adapter, adaptedModules } from '../methods/peft/adapter.js';
import { besideEncoder, largestDifference, measureMerge, mergeInto, shareOf } from '../methods/peft/merge.js';
import { type LabelledHead, readAdapterWithHead } from '../methods/peft/model-adapters.js';
import { applyOnnxAdapter } from '../methods/peft/onnx-lora.js';
import { adapterFiles, weightsFile } from '../methods/peft/peft-files.js';
import { version } from '../version.js';
import { knownLabels } from './hold-out.js';
import { findOnnx, type OnnxText, openOnnxText, symbolsOf, withoutClassifier } from './onnx-text.js';
import { headBias, headWeight, OnnxLogits, type OnnxTrainable, outputWidth, tokenise } from './onnx-training.js';

export interface MergeOptions {
  /** Share of the update; 1. */
  readonly weight?: number;
  /** Labelled rows: then texts are measured on them, and how many are right before and after. */
  readonly test?: TextDataset;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

/** A base with an adapter in its weights, and what that changed. */
export interface Merged {
  readonly report: Omit<MergeManifest, 'files'>;
  /** Writes the folder. @throws FewtuneError OUTPUT_UNWRITABLE, INTERRUPTED */
  save(folder: string, options?: { signal?: AbortSignal }): Promise<void>;
}

/** What is measured on where there are no test rows: any text shows what rounding does. */
const sampleTexts = [
  'hello',
  'My card was swallowed by the machine.',
  'When will the parcel that I ordered last week arrive?',
  'The results of the third quarter were better than expected, and the outlook for the year was raised.',
  'thank you very much',
  'Please send me a new password; the link in your mail from Monday has expired.',
  'Two of the three delegates voted against it, although both had spoken in its favour the day before.',
  '42',
];

/**
 * Merges an adapter into an encoder (a Hub id, a folder, `minilm`), or into an ONNX model (a file, a transformers.js
 * folder, a model folder whose encoder was not tuned). The result is a folder of the same kind with a report.
 *
 * @param adapter a folder as PEFT writes it, or the name of one in the model folder
 * @throws FewtuneError MODEL_NOT_FOUND, MODEL_CORRUPT, MODEL_UNSUPPORTED, ADAPTER_MISMATCH, ADAPTER_UNKNOWN,
 *   OPTION_INVALID, LABEL_UNKNOWN
 * @throws ModelError of an encoder that is not there
 * @example
 * const merged = await merge('minilm', 'adapters/tickets');
 * console.log(merged.report.measured.largestDifference);
 * await merged.save('models/minilm-tickets');
 */
export async function merge(base: string, adapter: string, options: MergeOptions = {}): Promise<Merged> {
  const { adapter: read, head } = await readAdapterWithHead(await adapterFolder(base, adapter));
  const source = basename(resolve(adapter));
  const weight = options.weight ?? 1;
  const onnx = (await isFile(join(base, 'model.safetensors'))) ? undefined : await findOnnx(base);
  const made = onnx
    ? await mergeOnnx(base, read, head, weight, options)
    : await mergeEncoder(base, read, head, weight, options);
  const report: Omit<MergeManifest, 'files'> = {
    schemaVersion: 1,
    library: { name: 'fewtune', version },
    created: new Date().toISOString(),
    kind: onnx ? 'onnx' : 'encoder',
    adapter: {
      source,
      method: read.method,
      modules: adaptedModules(read).length,
      sha256: sha256Of(adapterFiles(read).get(weightsFile)!),
    },
    weight,
    base: made.base,
    merged: made.merged,
    measured: made.measured,
  };
  return {
    report,
    async save(folder, { signal } = {}) {
      throwIfAborted(signal);
      const files = new Map(made.files);
      files.set(mergeManifestFile, seal(mergeManifestSchema, { ...report, files: listFiles(files) }));
      await writeFolder(folder, files, mergeManifestFile);
    },
  };
}

interface Made extends Pick<MergeManifest, 'base' | 'merged' | 'measured'> {
  readonly files: Map<string, Uint8Array | string>;
}

/** The embedded encoder goes by its short name too. */
export const encoderNamed = (name: string, signal?: AbortSignal): Promise<Encoder> =>
  loadEncoder(name === 'minilm' ? undefined : name, signal ? { signal } : {});

async function mergeEncoder(
  base: string,
  adapter: Adapter,
  head: LabelledHead | undefined,
  weight: number,
  { test, threads, signal }: MergeOptions,
): Promise<Made> {
  const encoder = await encoderNamed(base, signal);
  const merged = mergeInto(encoder, adapter, weight);
  const texts = test?.texts ?? sampleTexts;
  const measured = await measureMerge(encoder, adapter, merged, texts, { weight, threads, signal });
  const accuracies =
    test && (await encoderAccuracies(encoder, adapter, merged, head, weight, test, { threads, signal }));
  return {
    base: { id: encoder.id, fingerprint: encoder.fingerprint },
    merged: true,
    measured: { of: 'embeddings', ...measured, ...accuracies },
    files: encoderFiles(merged),
  };
}

/** How many rows the adapter's head gets right, with the adapter beside the weights and in them. */
async function encoderAccuracies(
  encoder: Encoder,
  adapter: Adapter,
  merged: Encoder,
  head: LabelledHead | undefined,
  weight: number,
  test: TextDataset,
  options: Pick<MergeOptions, 'threads' | 'signal'>,
) {
  if (!head) throw noClassifier('the adapter has no head.safetensors beside it, and an encoder alone gives no labels');
  const labels = knownLabels(test, head.labels, "the adapter's head");
  const right = async (of: Encoder) =>
    accuracy(argmaxRows(await headLogits(of, head, test.texts, options), head.labels.length), labels);
  return {
    accuracyBefore: await right(besideEncoder(encoder, shareOf(adapter, encoder.weights, weight))),
    accuracyAfter: await right(merged),
  };
}

/** Logits [texts, labels] of a head on the pooled states, which are not normalised. */
export async function headLogits(
  encoder: Encoder,
  { weight, bias, labels }: LabelledHead,
  texts: readonly string[],
  { threads, signal }: Pick<MergeOptions, 'threads' | 'signal'>,
): Promise<Float32Array> {
  const ids = { dtype: 'int64', shape: ['batch', 'seq'] } as const;
  const head = constant(hostTensor('float32', [labels.length, encoder.hidden], weight));
  const program = (await compile(
    ({ inputIds, attentionMask }: Record<'inputIds' | 'attentionMask', Tensor>) => {
      const weights = Object.fromEntries(Object.entries(encoder.weights).map(([name, w]) => [name, constant(w, name)]));
      const states = encodeWith(encoder, weights, { inputIds, attentionMask });
      return linear(
        pool(states, attentionMask, encoder.pooling),
        head,
        constant(hostTensor('float32', [labels.length], bias)),
      );
    },
    { inputIds: ids, attentionMask: ids },
    { threads, name: 'head' },
  )) as unknown as Program<Named<HostTensor>, HostTensor>;
  try {
    const rows = texts.map((text) => encoder.tokenizer.encode(text));
    const result = new Float32Array(texts.length * labels.length);
    for (const batch of lengthBatches(rows, { tokensPerBatch: 768 })) {
      throwIfAborted(signal);
      const { data } = await program.run(
        padBatch(
          batch.map((row) => rows[row]!),
          encoder.tokenizer.padId,
        ),
      );
      for (const [i, row] of batch.entries()) {
        result.set((data as Float32Array).subarray(i * labels.length, (i + 1) * labels.length), row * labels.length);
      }
    }
    return result;
  } finally {
    await program.dispose();
  }
}

async function mergeOnnx(
  base: string,
  adapter: Adapter,
  head: LabelledHead | undefined,
  weight: number,
  { test, threads, signal }: MergeOptions,
): Promise<Made> {
  const text = await openOnnxText(base);
  const fingerprint = await baseFingerprint(text);
  const { model, graph } = head ? await withoutClassifier(text) : text;
  const share = shareOf(adapter, {}, weight);
  const { tuned, values, products } = applyOnnxAdapter(model, share, fingerprint);
  const merged = products.every(({ apart }) => apart === undefined);
  const bytes = merged ? toOnnx(model, mergeLora(tuned, values)) : toOnnx(tuned, values);
  const width = outputWidth(text.file, model, graph);
  const params = headParams(head, width);
  const labels = head?.labels ?? (graph.output.kind === 'logits' ? text.labels : undefined);
  const classes = head?.labels.length ?? width;
  const texts = test?.texts ?? sampleTexts;
  const ids = tokenise(text.tokenizer, texts);
  const logits = async (of: OnnxFunction, own: Named<HostTensor>) => {
    const trainable: OnnxTrainable = {
      file: text.file,
      tuned: of,
      graph,
      classes,
      params: { ...own, ...params },
      frozen: {},
    };
    const program = await OnnxLogits.open(trainable, threads);
    return program.of(trainable.params, ids, signal).finally(() => program.dispose());
  };
  const before = await logits(tuned, values);
  const after = await logits(await OnnxFunction.fromBytes(bytes, { sizes: symbolsOf(model) }), {});
  if (test && !labels) throw noClassifier('neither the adapter nor the model has one');
  const truth = test && labels ? knownLabels(test, labels, head ? "the adapter's head" : text.file) : undefined;
  const right = (of: Float32Array) => accuracy(argmaxRows(of, classes), truth!);
  const config = { ...text.config };
  const modelType = typeof config.model_type === 'string' ? config.model_type : 'bert';
  return {
    base: { id: text.id, fingerprint },
    merged,
    measured: {
      of: head || graph.output.kind === 'logits' ? 'logits' : 'outputs',
      texts: texts.length,
      largestDifference: largestDifference(before, after),
      largestChange: largestDifference(await logits(model, {}), after),
      ...(truth && { accuracyBefore: right(before), accuracyAfter: right(after) }),
    },
    files: new Map<string, Uint8Array | string>([
      ['config.json', head ? configJson({ config, modelType }, head.labels) : `${JSON.stringify(config, null, 2)}\n`],
      ...Object.entries(text.tokenizer.files),
      ['onnx/model.onnx', head ? asClassifier(bytes, graph, { head, classes, temperature: 1 }) : bytes],
    ]),
  };
}

function headParams(head: LabelledHead | undefined, width: number): Record<string, HostTensor> {
  if (!head) return {};
  const classes = head.labels.length;
  if (head.weight.length !== classes * width) {
    throw new FewtuneError(
      'ADAPTER_MISMATCH',
      `the adapter's head reads ${head.weight.length / classes} numbers, this model gives ${width}. Take the model it was trained on.`,
    );
  }
  return {
    [headWeight]: hostTensor('float32', [classes, width], head.weight),
    [headBias]: hostTensor('float32', [classes], head.bias),
  };
}

/** Methods that leave the encoder as it is. */
const untuned: readonly string[] = ['prototype', 'linear'];

/**
 * What an adapter's fingerprint is compared with: the file's own; in a model folder that of the encoder it was trained on,
 * which must then be what stands in the file.
 */
async function baseFingerprint(text: OnnxText): Promise<string> {
  const folder = await modelFolder(dirname(text.file));
  if (folder === undefined) return text.fingerprint;
  const { manifest } = await readFolder(folder);
  if (manifest.encoder && untuned.includes(manifest.method.name)) return manifest.encoder.fingerprint;
  throw new FewtuneError(
    'MODEL_UNSUPPORTED',
    `${folder}: the method ${manifest.method.name} changed the encoder in it, so an adapter for ${manifest.encoder?.id ?? 'an encoder'} does not ` +
      `fit any more. Merge into ${manifest.encoder?.id ?? 'the encoder'} itself.`,
  );
}

async function modelFolder(own: string): Promise<string | undefined> {
  for (const folder of [own, join(own, '..')]) if (await isFile(join(folder, manifestFile))) return folder;
  return undefined;
}

/** A folder of that name, or the adapter of a model folder. */
async function adapterFolder(base: string, adapter: string): Promise<string> {
  const within = join(base, adaptersFolder, adapter);
  const isName = /^[\w.-]+$/.test(adapter);
  return isName && (await isFile(join(within, 'adapter_config.json'))) ? within : adapter;
}

function noClassifier(why: string): FewtuneError {
  return new FewtuneError('OPTION_INVALID', `--test: there is no classifier to measure: ${why}. Leave --test out.`);
}

const isFile = (path: string): Promise<boolean> =>
  stat(path).then(
    (found) => found.isFile(),
    () => false,
  );
