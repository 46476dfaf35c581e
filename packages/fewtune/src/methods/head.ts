import { hostTensor, l2Normalize, linear } from '@fewtune/engine';
import { type Encoder, encodeWith, pool } from '@fewtune/models';
import type { ClassifierGraph } from '../artifact/graph.js';
import type { LinearHead } from './linear/logistic.js';

/**
 * A linear classifier on an encoder's sentence features: encode, pool, L2-normalise, x Wᵀ + b. The encoder's weights
 * keep their names; the head is `classifier.weight` [classes, hidden] and `classifier.bias` [classes].
 */
export function headGraph(encoder: Encoder, head: LinearHead): ClassifierGraph {
  const classes = head.bias.length;
  return {
    tokenizer: { files: encoder.tokenizer.files },
    modelType: String(encoder.config.model_type),
    config: encoder.config,
    weights: {
      ...encoder.weights,
      'classifier.weight': hostTensor('float32', [classes, encoder.hidden], head.weight),
      'classifier.bias': hostTensor('float32', [classes], head.bias),
    },
    forward(weights, inputs) {
      const hidden = encodeWith(encoder, weights, inputs); // [batch, seq, hidden]
      const features = l2Normalize(pool(hidden, inputs.attentionMask, encoder.pooling)); // [batch, hidden]
      const logits = linear(features, weights['classifier.weight']!, weights['classifier.bias']!); // [batch, classes]
      return { logits, features };
    },
  };
}
