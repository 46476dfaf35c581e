import {
  add,
  cast,
  div,
  equal,
  gather,
  hostTensor,
  matMul,
  maximum,
  mul,
  reshape,
  sqrt,
  type Tensor,
} from '@fewtune/engine';
import type { Tokenizer } from '@fewtune/models';
import type { ClassifierGraph, TokenInputs } from '../../artifact/graph.js';

export interface TfidfParameters {
  /** [vocabulary]; 0 for special tokens. */
  readonly idf: Float32Array;
  /** [vocabulary, classes] */
  readonly table: Float32Array;
  /** [classes] */
  readonly bias: Float32Array;
}

/**
 * TF-IDF and a linear classifier as a graph over token ids. A word that stands n times adds n · idf to its entry, so
 * with weights w_i = mask_i · idf[id_i] of the tokens and T = table:
 *
 *   logits_c = Σ_i w_i T[id_i, c] / √(Σ_ij w_i w_j [id_i = id_j]) + b_c
 *
 * which is exactly the L2-normalised tf-idf row times T. A text without known words has only its biases.
 */
export function tfidfGraph(tokenizer: Tokenizer, { idf, table, bias }: TfidfParameters): ClassifierGraph {
  const words = idf.length;
  const classes = bias.length;
  return {
    tokenizer: { files: tokenizer.files },
    modelType: 'bert',
    config: { model_type: 'bert', vocab_size: words, max_position_embeddings: tokenizer.maxLength, pad_token_id: 0 },
    weights: {
      'tfidf.idf': hostTensor('float32', [words], idf),
      'classifier.weight': hostTensor('float32', [words, classes], table),
      'classifier.bias': hostTensor('float32', [classes], bias),
    },
    forward(weights: Readonly<Record<string, Tensor>>, { inputIds, attentionMask }: TokenInputs) {
      const [batch, seq] = inputIds.shape as [string, string];
      const w = mul(gather(weights['tfidf.idf']!, inputIds), cast(attentionMask, 'float32')); // [batch, seq]
      const row = reshape(w, [batch, 1, seq]);
      const column = reshape(w, [batch, seq, 1]);
      const same = cast(equal(reshape(inputIds, [batch, seq, 1]), reshape(inputIds, [batch, 1, seq])), 'float32');
      const squares = reshape(matMul(matMul(row, same), column), [batch, 1]); // Σ_ij w_i w_j [id_i = id_j]
      const scores = reshape(matMul(row, gather(weights['classifier.weight']!, inputIds)), [batch, classes]);
      return { logits: add(div(scores, sqrt(maximum(squares, 1e-12))), weights['classifier.bias']!) };
    },
  };
}
