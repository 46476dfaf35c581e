import {
  adamW,
  add,
  constantRate,
  crossEntropy,
  type HostTensor,
  hostTensor,
  linear,
  mul,
  type Named,
  type Tensor,
  type TensorSpec,
  trainStep,
} from '@fewtune/engine';
import {
  type Encoder,
  encode,
  type LinearFn,
  type PackedInputs,
  packedSpecs,
  packingOf,
  plainLinear,
  pool,
} from '@fewtune/models';
import { threads } from '../../lib/machine.js';
import { normals } from '../../lib/statistics.js';

/** What is trained: adapters on query and value, or everything. Both with the head. */
export type Kind = 'lora' | 'full';

export const classes = 77;
export const rank = 8;
export const lr = 2e-5;
export const clipNorm = 1;

export interface ClassifierWeights {
  readonly params: Named<HostTensor>;
  readonly frozen: Named<HostTensor>;
}

export const wordTable = 'embeddings.word_embeddings.weight';

/** Start weights of a sentence classifier over an encoder; the head's and the adapters' are drawn with fixed seeds. */
export function classifierWeights(kind: Kind, { weights, hidden }: Pick<Encoder, 'weights' | 'hidden'>) {
  const head = {
    'classifier.weight': hostTensor('float32', [classes, hidden], normals(classes * hidden, 1, 0.02)),
    'classifier.bias': hostTensor('float32', [classes], new Float32Array(classes)),
  };
  const trunk = Object.fromEntries(Object.entries(weights).filter(([name]) => !name.startsWith('pooler.')));
  return kind === 'lora'
    ? { params: { ...head, ...adapters(trunk) }, frozen: trunk }
    : { params: { ...head, ...trunk }, frozen: {} };
}

/** The encoder with only some rows of its word table. */
export function withRows(encoder: Encoder, rows: readonly number[]): Encoder {
  const { hidden } = encoder;
  const table = encoder.weights[wordTable]!.data as Float32Array;
  const cut = new Float32Array(rows.length * hidden);
  for (const [at, row] of rows.entries()) cut.set(table.subarray(row * hidden, (row + 1) * hidden), at * hidden);
  return {
    ...encoder,
    weights: { ...encoder.weights, [wordTable]: hostTensor('float32', [rows.length, hidden], cut) },
  };
}

const adapted = (name: string) => /attention\.self\.(query|value)$/.test(name);

/** Both matrices drawn: with B at zero, as training begins, half of the work would be products with zeros. */
function adapters(weights: Named<HostTensor>): Named<HostTensor> {
  const names = Object.keys(weights).flatMap((name) => (name.endsWith('.weight') ? [name.slice(0, -7)] : []));
  const pairs = names.filter(adapted).flatMap((name, seed): [string, HostTensor][] => {
    const [out, of] = weights[`${name}.weight`]!.shape as [number, number];
    return [
      [`${name}.lora_A`, hostTensor('float32', [rank, of], normals(rank * of, seed, 0.02))],
      [`${name}.lora_B`, hostTensor('float32', [out, rank], normals(out * rank, seed + 100, 0.02))],
    ];
  });
  return Object.fromEntries(pairs);
}

/** y = x Wᵀ + b + (alpha / r) x Aᵀ Bᵀ with alpha = 2 r. Hu et al. 2021, arXiv:2106.09685. */
function withAdapters(params: Named<Tensor>): LinearFn {
  return (x, name, weight, bias) => {
    const base = plainLinear(x, name, weight, bias);
    if (!adapted(name)) return base;
    const down = linear(x, params[`${name}.lora_A`]!);
    return add(base, linear(down, mul(params[`${name}.lora_B`]!, 2))); // the scale goes to B, which is small
  };
}

type Batch = Pick<PackedInputs, 'inputIds' | 'attentionMask'> & Partial<PackedInputs> & { labels: Tensor };

/** Cross entropy of the classes, from the mean over tokens. A batch with `places` and `slots` runs packed. */
export function classifierLoss(kind: Kind, { config }: Pick<Encoder, 'config'>) {
  return (params: Named<Tensor>, { frozen, batch }: { frozen: Named<Tensor>; batch: Batch }): Tensor => {
    const hidden = encode(config, kind === 'lora' ? frozen : params, batch, {
      linear: kind === 'lora' ? withAdapters(params) : plainLinear,
      packing: batch.places ? packingOf(batch as PackedInputs) : undefined,
    });
    const pooled = pool(hidden, batch.attentionMask, 'mean');
    return crossEntropy(linear(pooled, params['classifier.weight']!, params['classifier.bias']!), batch.labels);
  };
}

/** Batches of equal shape without padding. */
export const paddedBatch = (batch: number, tokens: number) =>
  ({
    inputIds: { dtype: 'int64', shape: [batch, tokens] },
    attentionMask: { dtype: 'int64', shape: [batch, tokens] },
    labels: { dtype: 'int64', shape: [batch] },
  }) as const;

/** Batches of sentences of any number and length, packed. */
export const packedBatch = { ...packedSpecs, labels: { dtype: 'int64', shape: ['batch'] } } as const;

/** The whole step: forward, backward, clipping, AdamW. */
export function classifierStep<B extends Record<keyof ReturnType<typeof paddedBatch>, TensorSpec>>(
  kind: Kind,
  encoder: Encoder,
  batch: B,
  takeParams = false,
) {
  return trainStep({
    ...classifierWeights(kind, encoder),
    takeParams,
    batch,
    loss: classifierLoss(kind, encoder) as never,
    optimizer: adamW(),
    schedule: constantRate(lr),
    clipNorm,
    threads,
  });
}
