import { bootstrapInterval } from './bootstrap.js';
import { expectedCalibrationError, softmaxRows } from './calibration.js';

/** How a number was measured: it never goes without. */
export interface EvaluatedOn {
  readonly kind: 'test' | 'cross-validation';
  /** Rows predicted while unseen. */
  readonly examples: number;
}

export interface Metrics {
  readonly accuracy: number;
  readonly macroF1: number;
  /** 95 % bootstrap interval of the accuracy. */
  readonly accuracyInterval: readonly [lo: number, hi: number];
  /** Expected calibration error of the confidences, 15 bins. */
  readonly ece: number;
}

export interface ClassReport {
  readonly label: string;
  readonly precision: number;
  readonly recall: number;
  readonly f1: number;
  readonly support: number;
}

/** Index of each row's largest logit (the first of equals). */
export function argmaxRows(logits: ArrayLike<number>, classes: number): Int32Array {
  const winners = new Int32Array(logits.length / classes);
  for (let i = 0; i < winners.length; i++) {
    let best = 0;
    for (let c = 1; c < classes; c++) {
      if (logits[i * classes + c]! > logits[i * classes + best]!) best = c;
    }
    winners[i] = best;
  }
  return winners;
}

/** 1 where the prediction is right, else 0. */
export function correctRows(predictions: ArrayLike<number>, labels: ArrayLike<number>): Uint8Array {
  return Uint8Array.from({ length: labels.length }, (_, i) => (predictions[i] === labels[i] ? 1 : 0));
}

/** Share of right predictions; 0 of nothing. */
export function accuracy(predictions: ArrayLike<number>, labels: ArrayLike<number>): number {
  const correct = correctRows(predictions, labels);
  return correct.length === 0 ? 0 : correct.reduce((sum, one) => sum + one, 0) / correct.length;
}

/**
 * Precision, recall and F1 of each class; 0 where a ratio has nothing below its line. Labels outside 0..classes-1
 * (unknown to the model) count as errors of the class that was predicted.
 */
export function perClass(
  predictions: ArrayLike<number>,
  labels: ArrayLike<number>,
  classes: readonly string[],
): ClassReport[] {
  const hits = new Float64Array(classes.length);
  const predicted = new Float64Array(classes.length);
  const support = new Float64Array(classes.length);
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i]!;
    const prediction = predictions[i]!;
    predicted[prediction]!++;
    if (label >= 0) support[label]!++;
    if (label === prediction) hits[label]!++;
  }
  const ratio = (above: number, below: number) => (below === 0 ? 0 : above / below);
  return classes.map((label, c) => ({
    label,
    precision: ratio(hits[c]!, predicted[c]!),
    recall: ratio(hits[c]!, support[c]!),
    f1: ratio(2 * hits[c]!, predicted[c]! + support[c]!),
    support: support[c]!,
  }));
}

/** Mean F1 over the classes that occur among labels or predictions, as scikit-learn's `f1_score(average="macro")`. */
export function macroF1(predictions: ArrayLike<number>, labels: ArrayLike<number>, classes: number): number {
  const occurs = new Set([...Array.from(predictions), ...Array.from(labels)].filter((c) => c >= 0));
  if (occurs.size === 0) return 0;
  const reports = perClass(
    predictions,
    labels,
    Array.from({ length: classes }, () => ''),
  );
  return [...occurs].reduce((sum, c) => sum + reports[c]!.f1, 0) / occurs.size;
}

/**
 * Every metric of one set of predictions.
 * @param logits [rows, classes], row-major
 * @param labels class of each row; -1 for a label the model does not know (always wrong)
 */
export function measure(
  logits: ArrayLike<number>,
  labels: Int32Array,
  classes: number,
  options: { temperature?: number; seed: number },
): Metrics {
  const predictions = argmaxRows(logits, classes);
  return {
    accuracy: accuracy(predictions, labels),
    macroF1: macroF1(predictions, labels, classes),
    accuracyInterval: bootstrapInterval(correctRows(predictions, labels), { seed: options.seed }),
    ece: expectedCalibrationError(softmaxRows(logits, classes, options.temperature), labels, classes),
  };
}
