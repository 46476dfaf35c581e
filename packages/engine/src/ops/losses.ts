import { showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import type { Tensor } from '../tensor.js';
import { mul, neg, sum } from './arithmetic.js';
import { oneHot } from './indexing.js';
import { logSoftmax } from './normalize.js';
import { mean } from './reduce.js';

/**
 * Mean cross-entropy of class logits.
 *
 * @param logits  [batch, classes]
 * @param targets int64 [batch], class indices
 */
export function crossEntropy(logits: Tensor, targets: Tensor): Tensor {
  const classes = logits.shape[1];
  if (logits.rank !== 2 || typeof classes !== 'number' || targets.rank !== 1) {
    throw new EngineError(
      'SHAPE_MISMATCH',
      `crossEntropy takes logits [batch, classes] and targets [batch], not ${showShape(logits.shape)} and ${showShape(targets.shape)}`,
    );
  }
  const picked = sum(mul(logSoftmax(logits), oneHot(targets, classes, logits.dtype)), { axes: [1] });
  return neg(mean(picked));
}
