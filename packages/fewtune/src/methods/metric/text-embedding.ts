import type { HostTensor, Named } from '@fewtune/engine';
import { type Encoder, encode, type PackedInputs, packBatch, packedSpecs, packingOf, pool } from '@fewtune/models';
import { type Episode, shapeOf, wayLabels } from '../../data/episodes.js';
import type { EpisodeSource } from '../../data/meta-dataset.js';
import { createRandom, type Random } from '../../data/random.js';
import { withoutPooler } from '../peft/adaptation.js';
import { adaptEncoder, type LoraAdapter } from '../peft/adapter.js';
import { dropTokens } from '../peft/contrastive-stage.js';
import { initLora, type LoraOptions, loraLinear } from '../peft/lora-layer.js';
import { linearsMeant } from '../peft/targets.js';
import type { EmbeddingModel } from './embedding-model.js';
import type { MetricTask } from './metric-task.js';

export interface TextEmbeddingOptions extends Partial<LoraOptions> {
  readonly encoder: Encoder;
  readonly seed?: number;
}

/** Random word deletion; without `random` every token stays. */
export interface TokenDropout {
  readonly probability: number;
  readonly random: Random;
}

export interface TextEmbedding extends EmbeddingModel {
  /** Sentences as `embed` takes them: packed, without padding between the embeddings and the result. */
  inputsOf(texts: readonly string[], dropout?: TokenDropout): Record<keyof PackedInputs, HostTensor>;
  /** An episode of a source; with `dropout` rows and `views` leave out tokens of their own each. */
  taskOf(source: Pick<EpisodeSource, 'texts'>, episode: Episode, dropout?: TokenDropout): MetricTask;
  /** What was learned, in PEFT's terms; of `learner.weights`. */
  adapterOf(weights: Named<HostTensor>): LoraAdapter;
  /** The encoder with it merged. */
  encoderOf(weights: Named<HostTensor>): Encoder;
}

/**
 * A pretrained text encoder of which metric learning sees the LoRA weights, the rest frozen: `rank` 8, `alpha` 16, every
 * linear layer when left out. Embeddings [rows, hidden] are pooled and of any length; the cosine metric normalises.
 *
 * @throws FewtuneError OPTION_INVALID when a name of `targets` is that of no linear layer
 * @example
 * const model = textEmbedding({ encoder: await loadEncoder() });
 * await using learner = new MetricLearner({ model, metric: 'cosine', lr: 5e-4 });
 * const batches = [...sampler.batches(1, 200)].map((episodes) => episodes.map((one) => model.taskOf(train, one)));
 * await learner.metaTrain(batches).result;
 * const encoder = model.encoderOf(learner.weights);
 */
export function textEmbedding({
  encoder,
  rank = 8,
  alpha = 16,
  targets = 'all-linear',
  seed = 7,
}: TextEmbeddingOptions): TextEmbedding {
  const { config, tokenizer, pooling } = encoder;
  const frozen = withoutPooler(encoder.weights);
  const modules = linearsMeant(frozen, targets);
  const inputsOf: TextEmbedding['inputsOf'] = (texts, dropout) => {
    const ids = texts.map((text) => tokenizer.encode(text));
    const kept = dropout ? ids.map((row) => dropTokens(row, dropout.probability, dropout.random)) : ids;
    return packBatch(kept, tokenizer.padId);
  };
  const adapterOf = (weights: Named<HostTensor>): LoraAdapter => {
    const { id, revision, fingerprint } = encoder;
    const own = Object.fromEntries(Object.entries(weights).filter(([name]) => /\.lora_[AB]\.weight$/.test(name)));
    const base = { id, ...(revision && { revision }), fingerprint };
    return { method: 'lora', rank, alpha, targets: modules, weights: own, base };
  };
  return {
    weights: initLora(frozen, modules, rank, createRandom(seed)),
    frozen,
    dim: encoder.hidden,
    inputs: packedSpecs,
    embed(weights, x) {
      const inputs = x as unknown as PackedInputs;
      const linear = loraLinear(weights, alpha / rank);
      const states = encode(config, weights, inputs, { linear, packing: packingOf(inputs) });
      return pool(states, inputs.attentionMask, pooling);
    },
    inputsOf,
    taskOf({ texts }, episode, dropout) {
      const rows = [...episode.support, ...episode.query].map((row) => texts[row]!);
      const { ways, shots, queries } = shapeOf(episode);
      return {
        x: inputsOf(rows, dropout),
        ...(dropout && { views: inputsOf(rows, dropout) }),
        support: wayLabels(ways, shots),
        query: wayLabels(ways, queries),
      };
    },
    adapterOf,
    encoderOf: (weights) => adaptEncoder(encoder, adapterOf(weights)),
  };
}
