import { type RowLearner, recorded } from '../class-row.js';
import { attended } from './attention-prototype.js';
import { classMeans } from './class-means.js';
import { choleskySolveRows, shrunkCholesky, withinClassCovariance } from './covariance.js';

/**
 * The row of one more class beside fixed prototypes: M m / √(mᵀ M m) / T as {@link prototypeHead} has it, with the metric
 * M of the other classes' examples, and shrinkage and temperature T of the training.
 */
export const prototypeRow: RowLearner = (task) => {
  const { hidden, head, others, labels, names } = task;
  const shrinkage = recorded(task, 'shrinkage');
  const temperature = recorded(task, 'temperature');
  const examples = { hidden, classes: head.bias.length, features: others, labels, ...(names && { names }) };
  const { attention } = task.details;
  const doubting = attention === 'margin' || attention === 'reassign';
  const spread = doubting ? attended(examples, { attention, centre: false }).trusted : examples;
  const lower = shrinkage === 1 ? undefined : shrunkCholesky(withinClassCovariance(spread), hidden, shrinkage);
  return async (rows) => {
    const own = { hidden, classes: 1, features: rows, labels: new Int32Array(rows.length / hidden) };
    const mean = classMeans(own, lower === undefined);
    if (lower === undefined) return { weight: mean.map((value) => value / temperature), bias: 0 };
    const solved = choleskySolveRows(lower, mean, hidden);
    const squared = mean.reduce((sum, value, j) => sum + value * solved[j]!, 0);
    const scale = 1 / Math.sqrt(Math.max(squared, 1e-12)) / temperature;
    return { weight: Float32Array.from(solved, (value) => value * scale), bias: 0 };
  };
};
