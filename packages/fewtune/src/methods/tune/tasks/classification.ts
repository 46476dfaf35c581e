import { crossEntropy, hostTensor } from '@fewtune/engine';
import { FewtuneError } from '../../../errors.js';
import { accuracy, argmaxRows, macroF1 } from '../../../evaluation/metrics.js';
import type { Task } from '../task.js';
import { linearHead, linearLogits } from './linear-head.js';

/**
 * One label of several for each text: softmax cross-entropy on a linear head.
 *
 * @param labels of each example, an index into `classes`
 * @throws FewtuneError CLASS_SINGLE, LABEL_UNKNOWN
 */
export function classification(labels: ArrayLike<number>, classes: readonly string[]): Task {
  if (classes.length < 2) {
    throw new FewtuneError('CLASS_SINGLE', `${classes.length} class; a classification needs at least two.`);
  }
  const own = Int32Array.from(labels);
  for (const [row, label] of Array.from(labels).entries()) {
    if (Number.isInteger(label) && label >= 0 && label < classes.length) continue;
    throw new FewtuneError(
      'LABEL_UNKNOWN',
      `example ${row} has the label ${label}; labels are whole numbers from 0 to ${classes.length - 1}.`,
    );
  }
  return {
    kind: 'classification',
    outputs: classes,
    reads: 'sentence',
    head: (hidden, random) => linearHead(classes.length, hidden, random),
    logits: linearLogits,
    loss: (logits, { labels }) => crossEntropy(logits, labels!),
    targetSpecs: { labels: { dtype: 'int64', shape: ['batch'] } },
    targets: (rows) => ({
      labels: hostTensor(
        'int64',
        [rows.length],
        rows.map((row) => own[row]!),
      ),
    }),
    score(logits, rows) {
      const predicted = argmaxRows(logits, classes.length);
      const truth = Int32Array.from(rows, (row) => own[row]!);
      const value = accuracy(predicted, truth);
      return { name: 'accuracy', value, macroF1: macroF1(predicted, truth, classes.length) };
    },
    strata: own,
    harmless: 2 * Math.log(classes.length),
  };
}
