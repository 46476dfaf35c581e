import { add, gather, slice, type Tensor } from '@fewtune/engine';
import { positionsAfter, virtualTokens } from './encode-hooks.js';
import { rows } from './quantized-graph.js';
import {
  type Architecture,
  type Backbone,
  type LayerNames,
  maskBiases,
  norm,
  promptWords,
  weightOf,
} from './transformer-layer.js';

/** BERT: Devlin et al. 2019, arXiv:1810.04805. Without `tokenTypeIds` there is one segment: every token has type 0. */
export const bert: Architecture = {
  embeddings: (backbone, { inputIds, tokenTypeIds }) => {
    const positions = positionsAfter(virtualTokens(backbone.hooks), inputIds.shape[1]!);
    return bertEmbeddings(backbone, inputIds, positions, tokenTypeIds);
  },
  promptEmbeddings: (backbone, prompt) => withType(backbone, promptWords(backbone, prompt, 0)),
  scoreBias: maskBiases,
  layerNames: bertLayerNames,
};

/**
 * Word, position and type rows added, then normalised.
 *
 * @param positions int64 [seq] or [batch, seq]
 * @param types     int64 [batch, seq]; left out, all 0, which costs no gather
 */
export function bertEmbeddings(backbone: Backbone, inputIds: Tensor, positions: Tensor, types?: Tensor): Tensor {
  const { weights } = backbone;
  const words = rows(weightOf(weights, 'embeddings.word_embeddings.weight'), inputIds); // [batch, seq, hidden]
  const places = rows(weightOf(weights, 'embeddings.position_embeddings.weight'), positions);
  return withType(backbone, add(words, places), types);
}

/** Adds the rows of the types, 0 when left out, and normalises. */
export function withType(backbone: Backbone, x: Tensor, types?: Tensor): Tensor {
  const table = weightOf(backbone.weights, 'embeddings.token_type_embeddings.weight');
  const type = types ? gather(table, types) : slice(table, 0, 0, 1); // [batch, seq, hidden] or [1, hidden]
  return norm(backbone, add(x, type), 'embeddings.LayerNorm');
}

export function bertLayerNames(layer: number): LayerNames {
  const at = `encoder.layer.${layer}`;
  return {
    query: `${at}.attention.self.query`,
    key: `${at}.attention.self.key`,
    value: `${at}.attention.self.value`,
    attentionOutput: `${at}.attention.output.dense`,
    attentionNorm: `${at}.attention.output.LayerNorm`,
    up: `${at}.intermediate.dense`,
    down: `${at}.output.dense`,
    outputNorm: `${at}.output.LayerNorm`,
  };
}
