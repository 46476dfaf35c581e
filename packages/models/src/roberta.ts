import { add, cumSum, mul, type Tensor } from '@fewtune/engine';
import { bertEmbeddings, bertLayerNames } from './bert.js';
import { type Backbone, type EncoderInputs, maskBias, transformerLayers } from './transformer-layer.js';

/**
 * RoBERTa: Liu et al. 2019, arXiv:1907.11692; also XLM-R and CamemBERT. BERT with positions counted from
 * `padId + 1` over the real tokens.
 *
 * @returns [batch, seq, hidden]
 */
export function roberta(backbone: Backbone, { inputIds, attentionMask }: EncoderInputs): Tensor {
  const bias = maskBias(attentionMask);
  const x = bertEmbeddings(backbone, inputIds, positionsFromPad(attentionMask, backbone.config.padId));
  return transformerLayers(backbone, x, bias, bertLayerNames);
}

/** padId on padding, padId + 1, padId + 2, … on real tokens. @returns int64 [batch, seq] */
export function positionsFromPad(attentionMask: Tensor, padId: number): Tensor {
  return add(mul(cumSum(attentionMask, 1), attentionMask), padId);
}
