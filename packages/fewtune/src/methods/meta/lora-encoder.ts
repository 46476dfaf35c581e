import {
  cast,
  equal,
  type HostTensor,
  l2Normalize,
  linear,
  logicalNot,
  mul,
  type Tensor,
  zeros,
} from '@fewtune/engine';
import { type Encoder, encode, padBatch, pool } from '@fewtune/models';
import { createRandom } from '../../data/random.js';
import { FewtuneError } from '../../errors.js';
import { initLora, type LoraOptions, loraLinear, loraTargets } from '../peft/lora-layer.js';
import type { MetaModel } from './meta-model.js';

export interface LoraEncoderOptions extends Partial<LoraOptions> {
  readonly encoder: Pick<Encoder, 'config' | 'weights' | 'tokenizer' | 'pooling' | 'hidden'>;
  readonly ways: number;
  /** Features are normalised to this length before the head; 10 when left out. */
  readonly scale?: number;
  /** Longer sentences are cut; 64 when left out. */
  readonly maxTokens?: number;
  readonly seed?: number;
}

export interface LoraEncoder extends MetaModel {
  /** Sentences as the model takes them: int64 [texts, longest], padded on the right. */
  tokens(texts: readonly string[]): HostTensor;
}

/**
 * A pretrained text encoder of which meta-learning sees the LoRA weights and a linear head; the rest is frozen. Inner
 * loop and outer loop both move rank-r updates only: `<module>.lora_A.weight`, `<module>.lora_B.weight`, `head.weight`
 * [ways, hidden], `head.bias`.
 *
 * The head starts at zero: after one inner step its rows are the support set's class means less their mean, whatever the
 * order of the ways (Kao et al. 2022, arXiv:2106.15367).
 *
 * @throws FewtuneError OPTION_INVALID when `targets` names no linear layer
 */
export function loraEncoder({
  encoder,
  ways,
  rank = 8,
  alpha = 16,
  targets = ['query', 'value'],
  scale = 10,
  maxTokens = 64,
  seed = 7,
}: LoraEncoderOptions): LoraEncoder {
  const { config, tokenizer, hidden, pooling } = encoder;
  const frozen = Object.fromEntries(Object.entries(encoder.weights).filter(([name]) => !name.startsWith('pooler.')));
  const modules = loraTargets(frozen, targets);
  if (modules.length === 0) {
    throw new FewtuneError('OPTION_INVALID', `no linear layer of this encoder is named ${JSON.stringify(targets)}.`);
  }
  const forward = (weights: Readonly<Record<string, Tensor>>, inputIds: Tensor): Tensor => {
    const attentionMask = cast(logicalNot(equal(inputIds, tokenizer.padId)), 'int64'); // [rows, tokens]
    const inputs = { inputIds, attentionMask };
    const states = encode(config, weights, inputs, { linear: loraLinear(weights, alpha / rank) });
    const features = mul(l2Normalize(pool(states, attentionMask, pooling)), scale); // [rows, hidden]
    return linear(features, weights['head.weight']!, weights['head.bias']!); // [rows, ways]
  };
  return {
    weights: {
      ...initLora(frozen, modules, rank, createRandom(seed)),
      'head.weight': zeros('float32', [ways, hidden]),
      'head.bias': zeros('float32', [ways]),
    },
    frozen,
    headNames: ['head.weight', 'head.bias'],
    freeSizes: true,
    outputs: ways,
    forward,
    tokens: (texts) =>
      padBatch(
        texts.map((text) => cut(tokenizer.encode(text), maxTokens)),
        tokenizer.padId,
      ).inputIds,
  };
}

/** The first tokens and the last, which ends the sentence. */
const cut = (ids: readonly number[], most: number): readonly number[] =>
  ids.length <= most ? ids : [...ids.slice(0, most - 1), ids.at(-1)!];
