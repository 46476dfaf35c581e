import { add } from '@fewtune/engine';
import { positionsAfter, virtualTokens } from './encode-hooks.js';
import { rows } from './quantized-graph.js';
import { type Architecture, type LayerNames, maskBiases, norm, promptWords, weightOf } from './transformer-layer.js';

/** DistilBERT: Sanh et al. 2019, arXiv:1910.01108. BERT without token types, under other names. */
export const distilbert: Architecture = {
  embeddings: (backbone, { inputIds }) => {
    const { weights } = backbone;
    const words = rows(weightOf(weights, 'embeddings.word_embeddings.weight'), inputIds); // [batch, seq, hidden]
    const positions = weightOf(weights, 'embeddings.position_embeddings.weight');
    const places = rows(positions, positionsAfter(virtualTokens(backbone.hooks), inputIds.shape[1]!)); // [seq, hidden]
    return norm(backbone, add(words, places), 'embeddings.LayerNorm');
  },
  promptEmbeddings: (backbone, prompt) => norm(backbone, promptWords(backbone, prompt, 0), 'embeddings.LayerNorm'),
  scoreBias: maskBiases,
  layerNames: distilbertLayerNames,
};

function distilbertLayerNames(layer: number): LayerNames {
  const at = `transformer.layer.${layer}`;
  return {
    query: `${at}.attention.q_lin`,
    key: `${at}.attention.k_lin`,
    value: `${at}.attention.v_lin`,
    attentionOutput: `${at}.attention.out_lin`,
    attentionNorm: `${at}.sa_layer_norm`,
    up: `${at}.ffn.lin1`,
    down: `${at}.ffn.lin2`,
    outputNorm: `${at}.output_layer_norm`,
  };
}
