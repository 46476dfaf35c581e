import { constant, div, exportOnnx, type HostTensor, type Named, scalar, type Tensor } from '@fewtune/engine';
import { manifestFile } from './manifest.js';
import { architectureOf, labelFields, printConfig } from './pack.js';
import { quantizeOnnx } from './quantize.js';
import { listFiles } from './sealed.js';
import { taskCard } from './task-card.js';
import { printTaskManifest, type TunedKind, type TunedReport } from './task-manifest.js';

/** A fine-tuned model as data plus one traced function. */
export interface TaskGraph {
  readonly kind: TunedKind;
  readonly outputs: readonly string[];
  readonly tokenizer: { readonly files: Readonly<Record<string, string>> };
  /** The encoder's config.json. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Named weights, as in the checkpoint, with the head's beside them. */
  readonly weights: Named<HostTensor>;
  /** Whether the graph has the input `token_type_ids`. */
  readonly typed: boolean;
  /** @returns [batch, outputs]; of tokens [batch, seq, outputs] */
  forward(weights: Named<Tensor>, inputs: TaskInputs): Tensor;
}

/** int64 [batch, seq] each. */
export interface TaskInputs {
  readonly inputIds: Tensor;
  readonly attentionMask: Tensor;
  readonly tokenTypeIds?: Tensor;
}

const problems: Readonly<Record<TunedKind, string | undefined>> = {
  classification: 'single_label_classification',
  ordinal: 'single_label_classification',
  'multi-label': 'multi_label_classification',
  regression: 'regression',
  tokens: undefined,
};

/** The files that make the model run: tokenizer, config.json, `onnx/model.onnx`. */
export function packTask(graph: TaskGraph, temperature: number): Map<string, Uint8Array | string> {
  const { kind, outputs, config, tokenizer } = graph;
  const modelType = String(config.model_type);
  const problem = problems[kind];
  return new Map<string, Uint8Array | string>([
    [
      'config.json',
      printConfig({
        ...config,
        architectures: [architectureOf(modelType, kind === 'tokens' ? 'Token' : 'Sequence')],
        ...(problem && { problem_type: problem }),
        ...labelFields(outputs),
      }),
    ],
    ...Object.entries(tokenizer.files),
    ['onnx/model.onnx', exportTask(graph, temperature)],
  ]);
}

/** Adds quantised weights, model card and, last, the manifest. */
export function completeTaskFolder(
  packed: ReadonlyMap<string, Uint8Array | string>,
  report: TunedReport,
): Map<string, Uint8Array | string> {
  const files = new Map(packed);
  files.set('onnx/model_quantized.onnx', quantizeOnnx(packed.get('onnx/model.onnx') as Uint8Array));
  files.set('README.md', taskCard(report));
  files.set(manifestFile, printTaskManifest({ ...report, files: listFiles(files) }));
  return files;
}

function exportTask(graph: TaskGraph, temperature: number): Uint8Array {
  const spec = { dtype: 'int64', shape: ['batch', 'seq'] } as const;
  const specs = { input_ids: spec, attention_mask: spec, ...(graph.typed && { token_type_ids: spec }) };
  return exportOnnx(({ input_ids, attention_mask, token_type_ids }: Record<string, Tensor>) => {
    const weights = Object.fromEntries(
      Object.entries(graph.weights).map(([name, value]) => [name, constant(value, name)]),
    );
    const inputs = { inputIds: input_ids!, attentionMask: attention_mask!, tokenTypeIds: token_type_ids };
    const logits = graph.forward(weights, inputs);
    return { logits: temperature === 1 ? logits : div(logits, scalar(temperature)) };
  }, specs);
}
