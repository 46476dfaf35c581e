import type { EvaluatedOn, Metrics } from '../artifact/manifest.js';
import { fitTemperature } from '../evaluation/calibration.js';
import { measure } from '../evaluation/metrics.js';

/** The four figures for calibrated `logits` [labels.length, classes]. */
export function metricsOf(logits: Float32Array, labels: Int32Array, classes: number, seed: number): Metrics {
  const { accuracy, macroF1, accuracyInterval, ece } = measure(logits, labels, classes, { seed });
  return { accuracy, macroF1, accuracyInterval: [accuracyInterval[0], accuracyInterval[1]], ece };
}

/**
 * The four figures for uncalibrated out-of-fold logits. The temperature of each fold is fitted on the other folds, so
 * that the calibration error, too, is measured on rows that the calibration had not seen.
 */
export function crossFittedMetrics(
  logits: Float32Array,
  labels: Int32Array,
  folds: Int32Array,
  classes: number,
  seed: number,
): Metrics {
  const calibrated = logits.slice();
  const distinct = [...new Set(folds)];
  for (const fold of distinct) {
    const isOther = (row: number) => folds[row] !== fold || distinct.length === 1;
    const others = [...folds.keys()].filter(isOther);
    const seen = new Float32Array(others.length * classes);
    for (const [i, row] of others.entries()) {
      seen.set(logits.subarray(row * classes, (row + 1) * classes), i * classes);
    }
    const otherLabels = Int32Array.from(others, (row) => labels[row]!);
    const temperature = fitTemperature(seen, otherLabels, classes);
    for (const [row, own] of folds.entries()) {
      for (let c = 0; own === fold && c < classes; c++) {
        calibrated[row * classes + c]! /= temperature;
      }
    }
  }
  return metricsOf(calibrated, labels, classes, seed);
}

/** Says how a cross-validated figure came about. */
export function describeFolds(examples: number, done: number, folds: number, raced: number): EvaluatedOn {
  const part = done === folds ? `${folds}-fold` : `${done} of ${folds} folds of a`;
  const selection =
    raced > 1 ? ` It is the best of ${raced} methods on these same rows, so it may be slightly optimistic.` : '';
  return {
    kind: 'cross-validation',
    examples,
    how:
      `${part} stratified cross-validation: ${examples} rows, each predicted by a model that had not seen it. ` +
      `The saved model was then fitted on all rows.${selection}`,
  };
}
