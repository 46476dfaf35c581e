import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { constant, exportOnnx, type HostTensor, l2Normalize, linear, type Tensor } from '@fewtune/engine';
import { encode, loadEncoder, pool } from '@fewtune/models';
import { createRandom } from '../src/data/random.js';
import { writeTinyEncoder } from './tiny-encoder.js';

const subjects = ['card', 'parcel', 'refund'] as const;
const verbs = ['lost', 'late', 'gone', 'broken', 'stuck', 'wrong', 'missing', 'blocked'];

/** Twenty-four sentences of three classes, told by one word. */
export const subjectRows = subjects.flatMap((subject) =>
  verbs.map((verb) => ({ text: `my ${subject} is ${verb}`, label: subject })),
);
export const subjectTexts = subjectRows.map(({ text }) => text);

export type OnnxKind = 'states' | 'vector' | 'logits';

/** A classifier's head of the tiny encoder's width. */
export function tinyHead(classes: number): Record<'weight' | 'bias', HostTensor> {
  const random = createRandom(9);
  const numbers = (count: number) => Float32Array.from({ length: count }, () => 0.5 * random.gaussian());
  return {
    weight: { dtype: 'float32', shape: [classes, 32], data: numbers(classes * 32) },
    bias: { dtype: 'float32', shape: [classes], data: numbers(classes) },
  };
}

/**
 * Writes a tiny BERT as a transformers.js folder: config.json, tokenizer.json, onnx/model.onnx with hidden states, a
 * sentence vector, or logits of `labels`.
 */
export async function writeOnnxBase(place: string, kind: OnnxKind, labels: readonly string[] = []): Promise<string> {
  await writeTinyEncoder(place, subjectTexts);
  const encoder = await loadEncoder(place);
  const { config, weights } = encoder;
  const spec = { dtype: 'int64', shape: ['batch', 'seq'] } as const;
  const head = tinyHead(labels.length);
  const bytes = exportOnnx(
    (inputs): Record<string, Tensor> => {
      const { input_ids, attention_mask } = inputs as Record<'input_ids' | 'attention_mask', Tensor>;
      const named = Object.fromEntries(Object.entries(weights).map(([key, value]) => [key, constant(value, key)]));
      const states = encode(config, named, { inputIds: input_ids, attentionMask: attention_mask });
      if (kind === 'states') return { last_hidden_state: states };
      const vector = pool(states, attention_mask, 'mean');
      if (kind === 'vector') return { sentence_embedding: l2Normalize(vector) };
      return { logits: linear(vector, constant(head.weight, 'top.weight'), constant(head.bias, 'top.bias')) };
    },
    { input_ids: spec, attention_mask: spec },
  );
  await mkdir(join(place, 'onnx'), { recursive: true });
  await writeFile(join(place, 'onnx', 'model.onnx'), bytes);
  await rm(join(place, 'model.safetensors'));
  if (kind === 'logits') {
    const id2label = Object.fromEntries(labels.map((label, i) => [String(i), label]));
    await writeFile(join(place, 'config.json'), JSON.stringify({ ...config, id2label }));
  }
  return place;
}
