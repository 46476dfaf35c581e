import { showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import { hostTensor } from '../host-tensor.js';
import type { Op, Tensor } from '../tensor.js';
import { apply } from '../tensor.js';
import { customVjp } from '../transforms/custom-vjp.js';
import { div, mul, neg, sizeOf } from './arithmetic.js';
import { gatherElements } from './elements.js';
import { exp } from './elementwise.js';
import { logSoftmax } from './normalize.js';
import { mean } from './reduce.js';
import { unsqueeze } from './shape.js';
import { wideSum } from './wide.js';

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
  return crossEntropyRule(logits, targets);
}

/**
 * The gradient of the logits is (softmax − one-hot) / batch. With a vocabulary of 50 000 the logits are the largest
 * tensor of a step, so they are passed over as rarely as can be: once forward, once backward.
 */
const crossEntropyRule = customVjp(
  (logits: Tensor, targets: Tensor) => neg(mean(gatherElements(logSoftmax(logits), unsqueeze(targets, -1), 1))),
  ([logits, targets], dy) => {
    const probabilities = exp(logSoftmax(logits));
    const perRow = div(dy, sizeOf([logits.shape[0]!], logits.dtype));
    return [mul(apply(minusOneAtOp, [probabilities, targets]), perRow), undefined];
  },
);

/** x [..., classes] less 1 at each row's index, int64 [...]. */
const minusOneAtOp: Op = {
  name: 'MinusOneAt',
  shape: ([x]) => x!,
  emit: (context, node, [x, indices]) => {
    const [rows] = context.node('Unsqueeze', [indices!, context.constant(hostTensor('int64', [1], [-1]))]);
    return wideSum(context, node.inputs[0]!.dtype, [x!], ([values], dtype) => {
      const minusOne = context.constant(hostTensor(dtype, [1], [-1]));
      const [updates] = context.node('Expand', [minusOne, context.shape([...node.inputs[1]!.shape, 1])]);
      return context.node('ScatterElements', [values!, rows!, updates!], { axis: -1, reduction: 'add' });
    });
  },
  vjp: (_, dy) => [dy, undefined],
  batch: (_, { node, full }) => apply(node.op, [full(0), full(1)]),
};
