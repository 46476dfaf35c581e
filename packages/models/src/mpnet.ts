import { add, arange, constant, gather, maximum, minimum, reshape, sub, type Tensor, transpose } from '@fewtune/engine';
import { positionsAfter } from './encode-hooks.js';
import { rows } from './quantized-graph.js';
import { positionsFromPad } from './roberta.js';
import { type Architecture, type LayerNames, maskBiases, norm, promptWords, weightOf } from './transformer-layer.js';

/** Distances from here on share the last bucket; `transformers`' modeling_mpnet has no option for it. */
const maxDistance = 128;

/**
 * MPNet: Song et al. 2020, arXiv:2004.09297. RoBERTa's positions without token types, and a learnt bias by relative
 * distance (T5's buckets) that all layers share.
 */
export const mpnet: Architecture = {
  embeddings: (backbone, { inputIds, attentionMask }) => {
    const { weights } = backbone;
    const positions = positionsFromPad(backbone, attentionMask);
    const words = rows(weightOf(weights, 'embeddings.word_embeddings.weight'), inputIds);
    const places = rows(weightOf(weights, 'embeddings.position_embeddings.weight'), positions);
    return norm(backbone, add(words, places), 'embeddings.LayerNorm');
  },
  promptEmbeddings: (backbone, prompt) =>
    norm(backbone, promptWords(backbone, prompt, backbone.config.padId + 1), 'embeddings.LayerNorm'),
  // Distances of all tokens, those of a prompt standing before the sentence; a prefix has none.
  scoreBias: (backbone, attentionMask) => {
    const table = weightOf(backbone.weights, 'encoder.relative_attention_bias.weight'); // [buckets, heads]
    const virtual = (backbone.hooks.prompt?.shape[0] as number | undefined) ?? 0;
    const places = [positionsAfter(virtual, attentionMask.shape[1]!), arange(virtual)];
    return maskBiases(backbone, attentionMask).map((row, i) =>
      row.map((mask, j) => {
        const distances = relativeBias(table, places[i]!, places[j]!);
        return mask ? add(mask, distances) : distances; // [batch, heads, queries, keys]
      }),
    );
  },
  layerNames: mpnetLayerNames,
};

/** Bias of a key at distance `key - query`. @returns [heads, queries, keys] */
function relativeBias(table: Tensor, queries: Tensor, keys: Tensor): Tensor {
  const buckets = table.shape[0] as number;
  const byDistance = BigInt64Array.from({ length: 2 * maxDistance + 1 }, (_, i) =>
    BigInt(relativeBucket(i - maxDistance, buckets)),
  );
  const distance = sub(reshape(keys, [1, keys.shape[0]!]), reshape(queries, [queries.shape[0]!, 1])); // [query, key]
  const clipped = add(minimum(maximum(distance, -maxDistance), maxDistance), maxDistance);
  const bucketOf = constant({ dtype: 'int64', shape: [byDistance.length], data: byDistance });
  return transpose(gather(gather(table, bucketOf), clipped), [2, 0, 1]);
}

/**
 * T5's buckets (Raffel et al. 2020, section 2.1, arXiv:1910.10683): half for each direction; near distances have one
 * each, farther ones share logarithmically wider ones.
 */
export function relativeBucket(distance: number, buckets: number): number {
  const half = buckets / 2;
  const exact = half / 2;
  const side = distance > 0 ? half : 0;
  const far = Math.abs(distance);
  if (far < exact) return side + far;
  const wide = (Math.log(far / exact) / Math.log(maxDistance / exact)) * (half - exact);
  return side + Math.min(half - 1, exact + Math.floor(wide + 1e-6)); // 1e-6: powers of two land on the boundary
}

function mpnetLayerNames(layer: number): LayerNames {
  const at = `encoder.layer.${layer}`;
  return {
    query: `${at}.attention.attn.q`,
    key: `${at}.attention.attn.k`,
    value: `${at}.attention.attn.v`,
    attentionOutput: `${at}.attention.attn.o`,
    attentionNorm: `${at}.attention.LayerNorm`,
    up: `${at}.intermediate.dense`,
    down: `${at}.output.dense`,
    outputNorm: `${at}.output.LayerNorm`,
  };
}
