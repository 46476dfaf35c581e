import { hostTensor, mean, mul, softplus, sub, type Tensor } from '@fewtune/engine';
import { FewtuneError } from '../../../errors.js';
import { multiLabelScores, plainThreshold } from '../../../evaluation/multi-label.js';
import type { Task } from '../task.js';
import { linearHead, linearLogits } from './linear-head.js';

/**
 * Any number of labels for each text: a sigmoid for each label. Scored by micro F1 at a threshold of 0.5.
 *
 * @param labels indices into `classes` of each example; none is allowed
 * @throws FewtuneError ROWS_EMPTY (no label at all), LABEL_UNKNOWN
 */
export function multiLabel(labels: readonly (readonly number[])[], classes: readonly string[]): Task {
  if (classes.length === 0) {
    throw new FewtuneError('ROWS_EMPTY', 'no example has a label; multi-label classification needs at least one.');
  }
  const width = classes.length;
  const own = new Float32Array(labels.length * width);
  for (const [row, some] of labels.entries()) {
    for (const label of some) {
      if (!Number.isInteger(label) || label < 0 || label >= width) {
        throw new FewtuneError(
          'LABEL_UNKNOWN',
          `example ${row} has the label ${label}; labels are whole numbers from 0 to ${width - 1}.`,
        );
      }
      own[row * width + label] = 1;
    }
  }
  const truth = (rows: readonly number[]): Float32Array => {
    const chosen = new Float32Array(rows.length * width);
    for (const [i, row] of rows.entries()) chosen.set(own.subarray(row * width, (row + 1) * width), i * width);
    return chosen;
  };
  return {
    kind: 'multi-label',
    outputs: classes,
    reads: 'sentence',
    head: (hidden, random) => linearHead(width, hidden, random),
    logits: linearLogits,
    loss: (logits, { labels }) => binaryCrossEntropy(logits, labels!),
    targetSpecs: { labels: { dtype: 'float32', shape: ['batch', width] } },
    targets: (rows) => ({ labels: hostTensor('float32', [rows.length, width], truth(rows)) }),
    score(logits, rows) {
      const cut = Math.log(plainThreshold / (1 - plainThreshold));
      const scores = multiLabelScores(
        logits.map((logit) => (logit > cut ? 1 : 0)),
        truth(rows),
        classes,
      );
      const { microF1, macroF1, subsetAccuracy } = scores;
      return { name: 'micro F1', value: microF1, macroF1, subsetAccuracy };
    },
    harmless: 2 * Math.log(2),
  };
}

/** −y log σ(x) − (1 − y) log(1 − σ(x)), the mean over all elements: PyTorch's BCEWithLogitsLoss. */
export const binaryCrossEntropy = (logits: Tensor, labels: Tensor): Tensor =>
  mean(sub(softplus(logits), mul(logits, labels)));

/** σ(x), row by row as the logits stand. */
export const sigmoids = (logits: Float32Array): Float32Array => logits.map((x) => 1 / (1 + Math.exp(-x)));
