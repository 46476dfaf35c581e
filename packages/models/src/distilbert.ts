import { add, arange, type Dim, gather, type Tensor } from '@fewtune/engine';
import {
  type Backbone,
  type EncoderInputs,
  type LayerNames,
  maskBias,
  norm,
  transformerLayers,
  weightOf,
} from './transformer-layer.js';

/**
 * DistilBERT: Sanh et al. 2019, arXiv:1910.01108. BERT without token types, under other names.
 *
 * @returns [batch, seq, hidden]
 */
export function distilbert(backbone: Backbone, { inputIds, attentionMask }: EncoderInputs): Tensor {
  const { weights } = backbone;
  const [, seq] = inputIds.shape as [Dim, Dim];
  const words = gather(weightOf(weights, 'embeddings.word_embeddings.weight'), inputIds); // [batch, seq, hidden]
  const places = gather(weightOf(weights, 'embeddings.position_embeddings.weight'), arange(seq)); // [seq, hidden]
  const bias = maskBias(attentionMask);
  const x = norm(backbone, add(words, places), 'embeddings.LayerNorm');
  return transformerLayers(backbone, x, bias, distilbertLayerNames);
}

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
