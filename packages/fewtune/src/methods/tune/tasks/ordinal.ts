import {
  add,
  concat,
  constant,
  crossEntropy,
  cumSum,
  exp,
  gather,
  hostTensor,
  log,
  logSigmoid,
  matMul,
  maximum,
  mean,
  mul,
  type Named,
  neg,
  reshape,
  slice,
  softplus,
  sub,
  sum,
  type Tensor,
} from '@fewtune/engine';
import { FewtuneError } from '../../../errors.js';
import { argmaxRows } from '../../../evaluation/metrics.js';
import { ordinalScores } from '../../../evaluation/ordinal.js';
import type { Task } from '../task.js';
import { linearHead } from './linear-head.js';

export interface OrdinalOptions {
  /**
   * `likelihood`: that of the class, as in proportional odds (McCullagh 1980). `coral`: binary cross-entropy of each
   * question "is it more than this?" (Cao, Mirjalili and Raschka 2020, arXiv:1901.07884, eq. 4); `likelihood`.
   */
  readonly loss?: 'likelihood' | 'coral';
}

/** Smallest gap between two thresholds at the start, where a class between them has no example. */
const smallestGap = 0.05;

/**
 * One of several classes in an order. The head is one score s and thresholds t₁ < t₂ < … : P(class > k) = σ(s − tₖ), one
 * slope for all (CORAL's shared weights). The thresholds are a first one and positive gaps, so that their order holds
 * at every step, not only at the optimum. Logits are log-probabilities of the classes: a softmax gives these back, and
 * P(class > k) falls with k whatever the text. Scored by quadratic kappa.
 *
 * @param labels  of each example, an index into `classes`
 * @param classes from the lowest to the highest
 * @throws FewtuneError CLASS_SINGLE, LABEL_UNKNOWN
 */
export function ordinal(
  labels: ArrayLike<number>,
  classes: readonly string[],
  { loss = 'likelihood' }: OrdinalOptions = {},
): Task {
  const count = classes.length;
  if (count < 2) throw new FewtuneError('CLASS_SINGLE', `${count} class; an order needs at least two.`);
  const own = Int32Array.from(labels);
  for (const [row, label] of Array.from(labels).entries()) {
    if (Number.isInteger(label) && label >= 0 && label < count) continue;
    throw new FewtuneError(
      'LABEL_UNKNOWN',
      `example ${row} has the label ${label}; labels are whole numbers from 0 to ${count - 1}.`,
    );
  }
  return {
    kind: 'ordinal',
    outputs: classes,
    reads: 'sentence',
    head: (hidden, random) => ({
      'classifier.weight': linearHead(1, hidden, random)['classifier.weight']!,
      'classifier.bias': hostTensor('float32', [count - 1], startOf(own, count)),
    }),
    logits: ordinalLogits,
    loss: (logits, { labels }) => (loss === 'coral' ? coral(logits, labels!) : crossEntropy(logits, labels!)),
    targetSpecs: { labels: { dtype: 'int64', shape: ['batch'] } },
    targets: (rows) => ({
      labels: hostTensor(
        'int64',
        [rows.length],
        rows.map((row) => own[row]!),
      ),
    }),
    score(logits, rows) {
      const predicted = ordinalGrades(logits, count);
      const { quadraticKappa, ...others } = ordinalScores(
        predicted,
        Int32Array.from(rows, (row) => own[row]!),
        count,
      );
      return { name: 'quadratic kappa', value: quadraticKappa, ...others };
    },
    strata: own,
    harmless: 2 * (loss === 'coral' ? (count - 1) * Math.log(2) : Math.log(count)),
  };
}

/**
 * The class of each row: the most probable one.
 *
 * @param logits [rows, classes], log-probabilities
 */
export const ordinalGrades = (logits: ArrayLike<number>, classes: number): Int32Array => argmaxRows(logits, classes);

/**
 * Log-probabilities of the classes. With a = s − tₖ above b = s − tₖ₊₁, σ(a) − σ(b) = σ(a) σ(−b) (1 − e^(b − a)), whose
 * logarithm loses nothing where both are near 0 or near 1.
 *
 * @param states [batch, hidden]
 * @param head   `classifier.weight` [1, hidden]; `classifier.bias` [classes − 1]: −t₁, then what becomes the gaps
 * @returns [batch, classes]
 */
export function ordinalLogits(states: Tensor, head: Named<Tensor>): Tensor {
  const bias = head['classifier.bias']!;
  const cuts = bias.shape[0] as number;
  const score = matMul(states, head['classifier.weight']!, { transposeB: true }); // [batch, 1]
  const first = slice(bias, 0, 0, 1);
  if (cuts === 1) {
    const above = add(score, reshape(first, [1, 1]));
    return concat([logSigmoid(neg(above)), logSigmoid(above)], 1);
  }
  const gaps = softplus(slice(bias, 0, 1, cuts)); // [cuts − 1]
  const ends = concat([first, sub(first, cumSum(gaps, 0))], 0); // −tₖ, falling
  const above = add(score, reshape(ends, [1, cuts])); // [batch, cuts]
  const [more, notMore] = [logSigmoid(above), logSigmoid(neg(above))];
  const between = add(slice(more, 1, 0, cuts - 1), slice(notMore, 1, 1, cuts));
  const inner = add(between, reshape(log(sub(1, exp(neg(gaps)))), [1, cuts - 1]));
  return concat([slice(notMore, 1, 0, 1), inner, slice(more, 1, cuts - 1, cuts)], 1);
}

/** The sum over k of −log P(class > k) or −log P(class ≤ k), whichever is true; the mean over the batch. */
export function coral(logits: Tensor, labels: Tensor): Tensor {
  const classes = logits.shape[1] as number;
  const cuts = classes - 1;
  const table = (value: (row: number, cut: number) => number): Tensor =>
    constant(
      hostTensor(
        'float32',
        [classes, cuts],
        Float32Array.from({ length: classes * cuts }, (_, i) => value(Math.floor(i / cuts), i % cuts)),
      ),
    );
  const probabilities = exp(logits);
  const more = matMul(
    probabilities,
    table((row, cut) => (row > cut ? 1 : 0)),
  ); // P(class > cut)
  const rest = matMul(
    probabilities,
    table((row, cut) => (row > cut ? 0 : 1)),
  );
  const isMore = gather(
    table((row, cut) => (row > cut ? 1 : 0)),
    labels,
  ); // [batch, cuts]
  const safeLog = (x: Tensor): Tensor => log(maximum(x, 1e-30));
  const likelihood = add(mul(isMore, safeLog(more)), mul(sub(1, isMore), safeLog(rest)));
  return neg(mean(sum(likelihood, { axes: [1] })));
}

/** −t₁ and the gaps' inner values with which the head begins at the classes' shares. */
function startOf(labels: Int32Array, count: number): Float32Array {
  const counts = new Float64Array(count).fill(0.5); // so that a class without an example has a share
  for (const label of labels) counts[label]!++;
  const total = counts.reduce((a, b) => a + b, 0);
  let above = total;
  const cuts = Array.from({ length: count - 1 }, (_, k) => {
    above -= counts[k]!;
    return Math.log(above / (total - above)); // logit of P(class > k)
  });
  const inverse = (gap: number): number => Math.log(Math.expm1(Math.max(gap, smallestGap)));
  return Float32Array.from(cuts, (cut, k) => (k === 0 ? cut : inverse(cuts[k - 1]! - cut)));
}
