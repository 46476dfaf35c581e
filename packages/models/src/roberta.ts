import { add, cumSum, mul, type Tensor } from '@fewtune/engine';
import { bert, bertEmbeddings } from './bert.js';
import type { Architecture } from './transformer-layer.js';

/**
 * RoBERTa: Liu et al. 2019, arXiv:1907.11692; also XLM-R and CamemBERT. BERT with positions counted from
 * `padId + 1` over the real tokens.
 */
export const roberta: Architecture = {
  ...bert,
  embeddings: (backbone, { inputIds, attentionMask }) =>
    bertEmbeddings(backbone, inputIds, positionsFromPad(attentionMask, backbone.config.padId)),
};

/** padId on padding, padId + 1, padId + 2, … on real tokens. @returns int64 [batch, seq] */
export function positionsFromPad(attentionMask: Tensor, padId: number): Tensor {
  return add(mul(cumSum(attentionMask, 1), attentionMask), padId);
}
