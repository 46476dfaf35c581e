import { type RowLearner, recorded } from '../class-row.js';
import { lbfgs } from '../optimise/lbfgs.js';
import { withNames } from '../support.js';
import { headLogits } from './logistic.js';

/**
 * The row of one more class in a multinomial logistic regression whose other rows are fixed: the block of coordinates
 * that the whole problem has for this class. With ℓ_i = log Σ_c exp(z_ic) over the other classes it is a binary
 * regression of d_i = w·x_i + b − ℓ_i,
 *
 *   Σ_i log(1 + exp d_i) − Σ_{i in the class} d_i + ‖w‖² / (2C),
 *
 * convex, in hidden + 1 numbers, with the penalty of the fit that made the other rows; so its scale is theirs.
 */
export const logisticRow: RowLearner = (task) => {
  const { hidden, head } = task;
  const others = withNames({ features: task.others, labels: task.labels }, task.names).features; // what they are is in `head`
  const C = recorded(task, 'C');
  const classes = head.bias.length;
  const nameLogits = headLogits(head, others.subarray(task.others.length));
  const othersLevel = Float64Array.from([task.logits, nameLogits].flatMap((part) => [...logSumExpRows(part, classes)]));
  let start = new Float64Array(hidden + 1); // later calls drop a few examples only, and begin where the last ended
  return async (examples) => {
    const own = examples.length / hidden;
    const ownLevel = logSumExpRows(headLogits(head, examples), classes);
    const rows = own + othersLevel.length;
    const fit = await lbfgs(
      async (x, gradient) => {
        gradient.fill(0);
        const loss =
          addRows(examples, ownLevel, 1, x, gradient, hidden) + addRows(others, othersLevel, 0, x, gradient, hidden);
        let squares = 0;
        for (let j = 0; j < hidden; j++) {
          squares += x[j]! ** 2;
          gradient[j] = (gradient[j]! + x[j]! / C) / rows;
        }
        gradient[hidden]! /= rows;
        return (loss + squares / (2 * C)) / rows;
      },
      start,
      { gradientTolerance: 1e-5, maxIterations: 200 },
    );
    start = Float64Array.from(fit.x);
    return { weight: new Float32Array(fit.x.subarray(0, hidden)), bias: fit.x[hidden]! };
  };
};

/** Adds the gradient of Σ log(1 + exp d_i) − target · d_i, and returns the sum. */
function addRows(
  features: Float32Array,
  level: Float64Array,
  target: 0 | 1,
  x: Float64Array,
  gradient: Float64Array,
  hidden: number,
): number {
  let loss = 0;
  let bias = 0;
  for (let i = 0; i < level.length; i++) {
    const at = i * hidden;
    let d = x[hidden]! - level[i]!;
    for (let j = 0; j < hidden; j++) d += x[j]! * features[at + j]!;
    loss += Math.max(d, 0) + Math.log1p(Math.exp(-Math.abs(d))) - target * d;
    const error = 1 / (1 + Math.exp(-d)) - target;
    bias += error;
    for (let j = 0; j < hidden; j++) gradient[j]! += error * features[at + j]!;
  }
  gradient[hidden]! += bias;
  return loss;
}

function logSumExpRows(logits: Float32Array, classes: number): Float64Array {
  return Float64Array.from({ length: logits.length / classes }, (_, i) => {
    const row = logits.subarray(i * classes, (i + 1) * classes);
    const highest = row.reduce((a, b) => Math.max(a, b));
    return highest + Math.log(row.reduce((sum, value) => sum + Math.exp(value - highest), 0));
  });
}
