import { add, arange, gather, slice, type Tensor } from '@fewtune/engine';
import { type Architecture, type Backbone, type LayerNames, maskBias, norm, weightOf } from './transformer-layer.js';

/** BERT: Devlin et al. 2019, arXiv:1810.04805. Without `tokenTypeIds` there is one segment: every token has type 0. */
export const bert: Architecture = {
  embeddings: (backbone, { inputIds, tokenTypeIds }) =>
    bertEmbeddings(backbone, inputIds, arange(inputIds.shape[1]!), tokenTypeIds),
  scoreBias: (_, attentionMask) => maskBias(attentionMask),
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
  const words = gather(weightOf(weights, 'embeddings.word_embeddings.weight'), inputIds); // [batch, seq, hidden]
  const places = gather(weightOf(weights, 'embeddings.position_embeddings.weight'), positions);
  const table = weightOf(weights, 'embeddings.token_type_embeddings.weight');
  const type = types ? gather(table, types) : slice(table, 0, 0, 1); // [batch, seq, hidden] or [1, hidden]
  return norm(backbone, add(add(words, places), type), 'embeddings.LayerNorm');
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
