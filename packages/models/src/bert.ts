import { add, arange, gather, slice, type Tensor } from '@fewtune/engine';
import { type Architecture, type Backbone, type LayerNames, maskBias, norm, weightOf } from './transformer-layer.js';

/** BERT: Devlin et al. 2019, arXiv:1810.04805. One segment: every token has type 0. */
export const bert: Architecture = {
  embeddings: (backbone, { inputIds }) => bertEmbeddings(backbone, inputIds, arange(inputIds.shape[1]!)),
  scoreBias: (_, attentionMask) => maskBias(attentionMask),
  layerNames: bertLayerNames,
};

/**
 * Word, position and type-0 rows added, then normalised.
 *
 * @param positions int64 [seq] or [batch, seq]
 */
export function bertEmbeddings(backbone: Backbone, inputIds: Tensor, positions: Tensor): Tensor {
  const { weights } = backbone;
  const words = gather(weightOf(weights, 'embeddings.word_embeddings.weight'), inputIds); // [batch, seq, hidden]
  const places = gather(weightOf(weights, 'embeddings.position_embeddings.weight'), positions);
  const type = slice(weightOf(weights, 'embeddings.token_type_embeddings.weight'), 0, 0, 1); // [1, hidden]
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
