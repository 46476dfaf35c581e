import type { ClassReport } from './metrics.js';

/** How good sets of labels are, as scikit-learn has it; a ratio with nothing below its line is 0. */
export interface MultiLabelScores {
  /** F1 of all labels' hits and misses together. */
  readonly microF1: number;
  /** Mean of the labels' F1. */
  readonly macroF1: number;
  readonly microPrecision: number;
  readonly microRecall: number;
  /** Share of rows whose labels are all right and none is missing. */
  readonly subsetAccuracy: number;
  readonly perLabel: readonly ClassReport[];
}

const ratio = (above: number, below: number): number => (below === 0 ? 0 : above / below);

/**
 * @param predicted 0 or 1, [rows, labels], row-major
 * @param truth     the same
 */
export function multiLabelScores(
  predicted: ArrayLike<number>,
  truth: ArrayLike<number>,
  labels: readonly string[],
): MultiLabelScores {
  const width = labels.length;
  const [hits, called, support] = [new Float64Array(width), new Float64Array(width), new Float64Array(width)];
  const rows = truth.length / width;
  let whole = 0;
  for (let row = 0; row < rows; row++) {
    let right = true;
    for (let c = 0; c < width; c++) {
      const [p, t] = [predicted[row * width + c]!, truth[row * width + c]!];
      called[c]! += p;
      support[c]! += t;
      hits[c]! += p * t;
      right &&= p === t;
    }
    if (right) whole++;
  }
  const sum = (values: Float64Array): number => values.reduce((a, b) => a + b, 0);
  const perLabel = labels.map((label, c) => ({
    label,
    precision: ratio(hits[c]!, called[c]!),
    recall: ratio(hits[c]!, support[c]!),
    f1: ratio(2 * hits[c]!, called[c]! + support[c]!),
    support: support[c]!,
  }));
  return {
    microF1: ratio(2 * sum(hits), sum(called) + sum(support)),
    macroF1: ratio(
      perLabel.reduce((a, { f1 }) => a + f1, 0),
      width,
    ),
    microPrecision: ratio(sum(hits), sum(called)),
    microRecall: ratio(sum(hits), sum(support)),
    subsetAccuracy: ratio(whole, rows),
    perLabel,
  };
}

/** The threshold of a label that too few held-out rows have to choose one by. */
export const plainThreshold = 0.5;

/** Positive rows a label needs for a threshold of its own: fewer, and it would fit their noise. */
const fewestPositives = 20;

/**
 * For each label the threshold with the best F1 on these rows, halfway between the two probabilities it divides. Where
 * several are as good, the one nearest to 0.5. Lewis 1995, "Evaluating and optimizing autonomous text classification".
 *
 * @param probabilities [rows, labels]
 * @param truth         0 or 1, the same
 */
export function chooseThresholds(
  probabilities: ArrayLike<number>,
  truth: ArrayLike<number>,
  labels: number,
): Float32Array {
  const rows = truth.length / labels;
  return Float32Array.from({ length: labels }, (_, c) => {
    const own = Array.from({ length: rows }, (_, row) => ({
      probability: probabilities[row * labels + c]!,
      truth: truth[row * labels + c]!,
    })).sort((a, b) => b.probability - a.probability);
    const positives = own.reduce((sum, { truth }) => sum + truth, 0);
    if (positives < fewestPositives) return plainThreshold;
    let hits = 0;
    let best = { f1: -1, threshold: plainThreshold };
    for (const [i, { probability, truth }] of own.entries()) {
      hits += truth;
      const next = own[i + 1]?.probability ?? 0;
      if (next === probability) continue;
      const threshold = (probability + next) / 2;
      const f1 = (2 * hits) / (i + 1 + positives);
      const nearer = Math.abs(threshold - plainThreshold) < Math.abs(best.threshold - plainThreshold);
      if (f1 > best.f1 || (f1 === best.f1 && nearer)) best = { f1, threshold };
    }
    return best.threshold;
  });
}
