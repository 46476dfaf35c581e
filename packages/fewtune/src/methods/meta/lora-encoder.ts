import {
  constant,
  div,
  type HostTensor,
  hostTensor,
  l2Normalize,
  linear,
  matMul,
  maximum,
  mul,
  type Named,
  oneHot,
  reshape,
  sum,
  type Tensor,
  zeros,
} from '@fewtune/engine';
import { type Encoder, encode, type PackedInputs, packBatch, packedSpecs, packingOf, pool } from '@fewtune/models';
import { createRandom } from '../../data/random.js';
import { withoutPooler } from '../peft/adaptation.js';
import { initLora, type LoraOptions, loraLinear } from '../peft/lora-layer.js';
import { linearsMeant } from '../peft/targets.js';
import type { MetaModel } from './meta-model.js';

export interface LoraEncoderOptions extends Partial<LoraOptions> {
  readonly encoder: Pick<Encoder, 'config' | 'weights' | 'tokenizer' | 'pooling' | 'hidden'>;
  readonly ways: number;
  /**
   * Where a task's head begins. `zero`: meta-learned, from zero. `prototype`: at the directions of the support set's
   * class means, so that without any inner step the model is a prototypical network by cosine; the head is then no
   * part of what is meta-learned, and tasks of any number of ways share it. `zero` when left out.
   */
  readonly head?: LoraHead;
  /** Features are normalised to this length before the head; 10 when left out, 20 where the head is of prototypes. */
  readonly scale?: number;
  /** Longer sentences are cut; 64 when left out. */
  readonly maxTokens?: number;
  readonly seed?: number;
}

export const loraHeads = ['zero', 'prototype'] as const;
export type LoraHead = (typeof loraHeads)[number];

type PackedTensors<T> = Readonly<Record<keyof PackedInputs, T>>;

export interface LoraEncoder extends MetaModel<PackedTensors<Tensor>> {
  readonly scale: number;
  /** Sentences as the model takes them: a packed batch, without padding between the layers. */
  tokens(texts: readonly string[]): PackedTensors<HostTensor>;
}

/**
 * A pretrained text encoder of which meta-learning sees the LoRA weights and a linear head; the rest is frozen. Inner
 * loop and outer loop both move rank-r updates only: `<module>.lora_A.weight`, `<module>.lora_B.weight`, `head.weight`
 * [ways, hidden], `head.bias`.
 *
 * A head that starts at zero is, after one inner step, the support set's class means less their mean, whatever the order
 * of the ways (Kao et al. 2022, arXiv:2106.15367). One that starts at the prototypes is fo-Proto-MAML's with the gradient
 * kept (Triantafillou et al. 2020, section 3, arXiv:1903.03096), by cosine instead of Euclidean distance.
 *
 * @throws FewtuneError OPTION_INVALID when `targets` names no linear layer
 */
export function loraEncoder({
  encoder,
  ways,
  head = 'zero',
  rank = 8,
  alpha = 16,
  targets = ['query', 'value'],
  scale = head === 'prototype' ? 20 : 10,
  maxTokens = 64,
  seed = 7,
}: LoraEncoderOptions): LoraEncoder {
  const { config, tokenizer, hidden, pooling } = encoder;
  const frozen = withoutPooler(encoder.weights);
  const modules = linearsMeant(frozen, targets);
  const features = (weights: Named<Tensor>, inputs: PackedTensors<Tensor>): Tensor => {
    const states = encode(config, weights, inputs, {
      linear: loraLinear(weights, alpha / rank),
      packing: packingOf(inputs),
    });
    return l2Normalize(pool(states, inputs.attentionMask, pooling)); // [rows, hidden]
  };
  const prototypes = (shown: Tensor, y: Tensor) => ({
    'head.weight': l2Normalize(classMeans(shown, y, ways)), // [ways, hidden]
    'head.bias': constant(zeros('float32', [ways])),
  });
  return {
    weights: {
      ...initLora(frozen, modules, rank, createRandom(seed)),
      ...(head === 'zero' && {
        'head.weight': zeros('float32', [ways, hidden]),
        'head.bias': zeros('float32', [ways]),
      }),
    },
    frozen,
    headNames: ['head.weight', 'head.bias'],
    inputs: packedSpecs,
    outputs: ways,
    rowsAlone: true,
    scale,
    forward: (weights, inputs) =>
      linear(mul(features(weights, inputs), scale), weights['head.weight']!, weights['head.bias']!), // [rows, ways]
    ...(head === 'prototype' && { headStart: { features, head: prototypes } }),
    tokens: (texts) =>
      packBatch(
        texts.map((text) => cut(tokenizer.encode(text), maxTokens)),
        tokenizer.padId,
      ),
  };
}

/** Labels as tasks hold them, int64 [rows]. */
export const labelTensor = (labels: ArrayLike<number>): HostTensor =>
  hostTensor('int64', [labels.length], Array.from(labels));

/** Mean of each way's rows [ways, hidden]; 0 where a way has none. */
function classMeans(features: Tensor, y: Tensor, ways: number): Tensor {
  const own = oneHot(y, ways); // [rows, ways]
  const count = reshape(sum(own, { axes: [0] }), [ways, 1]);
  return div(matMul(own, features, { transposeA: true }), maximum(count, 1));
}

/** The first tokens and the last, which ends the sentence. */
const cut = (ids: readonly number[], most: number): readonly number[] =>
  ids.length <= most ? ids : [...ids.slice(0, most - 1), ids.at(-1)!];
