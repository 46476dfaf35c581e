import { add, cumSum, mul, type Tensor } from '@fewtune/engine';
import { bert, bertEmbeddings, withType } from './bert.js';
import { virtualTokens } from './encode-hooks.js';
import { type Architecture, type Backbone, promptWords } from './transformer-layer.js';

/**
 * RoBERTa: Liu et al. 2019, arXiv:1907.11692; also XLM-R and CamemBERT. BERT with positions counted from
 * `padId + 1` over the real tokens.
 */
export const roberta: Architecture = {
  ...bert,
  embeddings: (backbone, { inputIds, attentionMask }) =>
    bertEmbeddings(backbone, inputIds, positionsFromPad(backbone, attentionMask)),
  promptEmbeddings: (backbone, prompt) => withType(backbone, promptWords(backbone, prompt, backbone.config.padId + 1)),
};

/** padId on padding, padId + 1, padId + 2, … on real tokens, after those of a prompt or prefix. @returns int64 [batch, seq] */
export function positionsFromPad({ config, hooks }: Backbone, attentionMask: Tensor): Tensor {
  const counted = cumSum(attentionMask, 1);
  const before = virtualTokens(hooks);
  return add(mul(before > 0 ? add(counted, before) : counted, attentionMask), config.padId);
}
