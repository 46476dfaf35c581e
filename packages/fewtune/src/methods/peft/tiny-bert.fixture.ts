import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { compile, constant, type HostTensor, type Named, type Tensor } from '@fewtune/engine';
import { type EncodeHooks, type Encoder, encode, type LinearFn, readSafetensors } from '@fewtune/models';
import { asLora, type LoraAdapter } from './adapter.js';
import { readAdapter } from './peft-files.js';

const place = (path: string) => fileURLToPath(new URL(path, import.meta.url));

const base = '../../../../models/test/fixtures/bert-tiny';
export const adapterFolder = (name: string) => place(`../../../test/fixtures/peft/${name}`);

/** A golden adapter that is LoRA. */
export async function readLora(name: string): Promise<LoraAdapter> {
  return asLora(await readAdapter(adapterFolder(name)), name);
}

/** The two-layer BERT with random weights that the golden adapters were made for. */
export const tinyConfig = JSON.parse(await readFile(place(`${base}/config.json`), 'utf8')) as Record<string, unknown>;
export const tinyWeights = (await readSafetensors(place(`${base}/model.safetensors`))).tensors;

/** Sentences of this one are token ids: "2 5 3". */
export const tinyEncoder = {
  id: 'tiny',
  config: tinyConfig,
  hidden: 16,
  layers: 2,
  pooling: 'mean',
  weights: tinyWeights,
  tokenizer: { encode: (text: string) => text.split(' ').map(Number), padId: 0, maxLength: 16, files: {} },
  fingerprint: 'f',
} as unknown as Encoder;

const { input_ids: inputIds, attention_mask: attentionMask } = (
  await readSafetensors(place(`${base}/reference.safetensors`))
).tensors as Record<string, HostTensor>;

/** The golden tokens: int64 [3, 9], padded. */
export const tinyInputs = { inputIds: inputIds!, attentionMask: attentionMask! };

export const constants = (weights: Named<HostTensor>): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(weights).map(([name, value]) => [name, constant(value)]));

/** Last hidden states of the golden tokens. */
export async function hiddenStates(weights: Named<HostTensor>, adapt?: Adapt): Promise<Float32Array> {
  const spec = { dtype: 'int64', shape: [3, 9] } as const;
  const program = await compile(
    (inputs) => {
      const adapted: ReturnType<Adapt> = adapt?.(constants(weights)) ?? { weights: constants(weights) };
      return encode(tinyConfig, adapted.weights, inputs, { linear: adapted.linear, hooks: adapted.hooks });
    },
    { inputIds: spec, attentionMask: spec } as const,
  );
  const { data } = await program.run(tinyInputs);
  await program.dispose();
  return data as Float32Array;
}

type Adapt = (weights: Record<string, Tensor>) => {
  weights: Named<Tensor>;
  linear?: LinearFn;
  hooks?: EncodeHooks;
};

/** Largest difference, real tokens only: what stands on padding is never read. */
export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const mask = attentionMask!.data as BigInt64Array;
  const width = a.length / mask.length;
  let largest = a.length === b.length ? 0 : Number.POSITIVE_INFINITY;
  for (let i = 0; i < a.length; i++) {
    if (mask[Math.floor(i / width)] === 1n) largest = Math.max(largest, Math.abs(a[i]! - b[i]!));
  }
  return largest;
}
