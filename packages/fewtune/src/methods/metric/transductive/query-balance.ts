import { argmaxRows } from '../../../evaluation/metrics.js';

/** What a transductive method answers for a batch of queries. */
export interface BatchAnswer {
  /** [queries, classes] */
  readonly probabilities: Float32Array;
  /** Share of the queries that the support alone gives to each class [classes]. */
  readonly marginal: Float64Array;
  /** Why the batch may be answered worse than query by query; empty when nothing speaks for it. */
  readonly warnings: readonly string[];
}

/**
 * How evenly a batch of queries spreads over the classes, by the answers of a head that saw the support alone. A warning
 * where Pearson's χ² of the counts against equal ones is beyond the 99 % quantile (Wilson and Hilferty 1931), and where
 * there are fewer queries than classes: methods that expect all classes equally often then move queries into classes
 * that are not there.
 *
 * @param scores inductive scores or probabilities [queries, classes]
 */
export function queryBalance(
  scores: Float32Array,
  classes: number,
): { marginal: Float64Array; warnings: readonly string[] } {
  const queries = scores.length / classes;
  const marginal = new Float64Array(classes);
  for (const answer of argmaxRows(scores, classes)) marginal[answer]! += 1 / queries;
  if (queries === 0 || classes < 2) return { marginal, warnings: [] };
  if (queries < classes) {
    const warning = `${queries} queries cannot be spread evenly over ${classes} classes; answer them one by one`;
    return { marginal, warnings: [warning] };
  }
  const squares = marginal.reduce((sum, share) => sum + (share - 1 / classes) ** 2, 0) * classes * queries;
  const freedom = classes - 1;
  const quantile = freedom * (1 - 2 / (9 * freedom) + 2.326 * Math.sqrt(2 / (9 * freedom))) ** 3;
  if (squares <= quantile) return { marginal, warnings: [] };
  const [least, most] = [Math.min(...marginal), Math.max(...marginal)];
  return {
    marginal,
    warnings: [
      `the queries look unbalanced: classes get ${percent(least)} to ${percent(most)} of them by the support alone; ` +
        'methods that expect all classes equally often may do worse than none',
    ],
  };
}

const percent = (share: number) => `${(100 * share).toFixed(0)} %`;
