import { constant, div, exportOnnx, scalar, type Tensor } from '@fewtune/engine';
import type { ModelReport } from './classifier.js';
import type { ClassifierGraph } from './graph.js';
import type { LinearHead } from './linear-head.js';
import { manifestFile, printManifest } from './manifest.js';
import { modelCard } from './model-card.js';
import { replaceHead } from './onnx-head.js';
import { quantizeOnnx } from './quantize.js';
import { listFiles } from './sealed.js';
import { textOf } from './session.js';
import { type KeptSupport, packSupport } from './support.js';

/** What the Hub's class names begin with, by `model_type`. */
const architectures: Readonly<Record<string, string>> = {
  bert: 'Bert',
  distilbert: 'DistilBert',
  roberta: 'Roberta',
  'xlm-roberta': 'XLMRoberta',
  camembert: 'Camembert',
  mpnet: 'MPNet',
};

/** The Hub's class of a model with a head on its sentences or its tokens, for config.json. */
export const architectureOf = (modelType: string, reads: 'Sequence' | 'Token' = 'Sequence'): string =>
  `${architectures[modelType] ?? 'Bert'}For${reads}Classification`;

/** The files that make the classifier run: tokenizer, config.json and `onnx/model.onnx` with calibrated logits. */
export function packModel(
  graph: ClassifierGraph,
  labels: readonly string[],
  temperature: number,
  support?: KeptSupport,
): Map<string, Uint8Array | string> {
  return new Map<string, Uint8Array | string>([
    ['config.json', configJson(graph, labels)],
    ...Object.entries(graph.tokenizer.files),
    ['onnx/model.onnx', exportClassifier(graph, temperature)],
    ...(support === undefined ? [] : packSupport(support, labels)),
  ]);
}

/** The running parts with these labels and this head; tokenizer, encoder and temperature stay. */
export function repackModel(
  packed: ReadonlyMap<string, Uint8Array | string>,
  { labels, head, support }: { labels: readonly string[]; head: LinearHead; support: KeptSupport },
): Map<string, Uint8Array | string> {
  const { id2label: _, label2id: __, num_labels: ___, ...config } = JSON.parse(textOf(packed.get('config.json')!));
  const files = new Map(packed);
  for (const name of ['onnx/model_quantized.onnx', 'README.md', manifestFile]) files.delete(name); // made anew on saving
  files.set('config.json', printConfig({ ...config, ...labelFields(labels) }));
  files.set('onnx/model.onnx', replaceHead(packed.get('onnx/model.onnx') as Uint8Array, head));
  for (const [name, content] of packSupport(support, labels)) files.set(name, content);
  return files;
}

/** Adds what a folder has beside the running parts: quantised weights, model card and, last, the manifest. */
export function completeFolder(
  packed: ReadonlyMap<string, Uint8Array | string>,
  report: ModelReport,
): Map<string, Uint8Array | string> {
  const files = new Map(packed);
  files.set('onnx/model_quantized.onnx', quantizeOnnx(packed.get('onnx/model.onnx') as Uint8Array));
  files.set('README.md', modelCard(report));
  files.set(manifestFile, printManifest({ ...report, files: listFiles(files) }));
  return files;
}

/** logits = forward(ids, mask) / temperature, as a portable ONNX model with dynamic batch and sequence. */
function exportClassifier(graph: ClassifierGraph, temperature: number): Uint8Array {
  const spec = { dtype: 'int64', shape: ['batch', 'seq'] } as const;
  return exportOnnx(
    ({ input_ids, attention_mask }) => {
      const weights: Record<string, Tensor> = Object.fromEntries(
        Object.entries(graph.weights).map(([name, value]) => [name, constant(value, name)]),
      );
      const { logits, features } = graph.forward(weights, { inputIds: input_ids!, attentionMask: attention_mask! });
      return { logits: div(logits, scalar(temperature)), ...(features && { features }) };
    },
    { input_ids: spec, attention_mask: spec },
  );
}

/** config.json of a classifier: `config` is that of its encoder. */
export function configJson(
  { config, modelType }: Pick<ClassifierGraph, 'config' | 'modelType'>,
  labels: readonly string[],
): string {
  return printConfig({
    ...config,
    architectures: [architectureOf(modelType)],
    model_type: modelType,
    problem_type: 'single_label_classification',
    ...labelFields(labels),
  });
}

/** Object.fromEntries defines own properties, so a label such as `__proto__` is a key like any other. */
export function labelFields(labels: readonly string[]) {
  return {
    num_labels: labels.length,
    id2label: Object.fromEntries(labels.map((label, i) => [String(i), label])),
    label2id: Object.fromEntries(labels.map((label, i) => [label, i])),
  };
}

export function printConfig(config: object): string {
  return `${JSON.stringify(config, null, 2)}\n`;
}
