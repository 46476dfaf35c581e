import { hasWords, labelText } from './label-names.js';
import type { FitContext, Labelled } from './method.js';
import { classMeans } from './metric/class-means.js';

/** Whether label names are learned from: `auto` asks whether they agree with the examples. */
export type LabelNames = boolean | 'auto';

/** Training examples as features, with the label names as one example more of each class where that helps. */
export interface Support {
  readonly hidden: number;
  readonly classes: number;
  /** [rows, hidden], L2-normalised. */
  readonly features: Float32Array;
  readonly labels: Int32Array;
  /** [classes, hidden], one row a class; absent when label names are not used. */
  readonly names?: Float32Array;
  /** Share of label names whose nearest class mean is their own class; absent when they say nothing. */
  readonly nameAgreement?: number;
}

/** Features of the training examples and, where they help, of the label names. */
export async function embedSupport(data: Labelled, labelNames: LabelNames, context: FitContext): Promise<Support> {
  const source = await context.features();
  const { hidden } = source;
  const classes = data.classes.length;
  const features = await source.features(data.texts, {
    signal: context.signal,
    onProgress: (fraction) => context.onProgress?.(0.5 * fraction, {}),
  });
  const support = { hidden, classes, features, labels: data.labels };
  if (labelNames === false || (labelNames === 'auto' && !data.classes.every(hasWords))) return support;
  const names = await source.features(data.classes.map(labelText), { signal: context.signal });
  const nameAgreement = agreement(names, classMeans(support), hidden);
  // Names that mislead lie nearest another class. Half of the way from chance to certainty is asked for.
  const wanted = 0.5 + 0.5 / classes;
  return labelNames === true || nameAgreement >= wanted
    ? { ...support, names, nameAgreement }
    : { ...support, nameAgreement };
}

function agreement(names: Float32Array, means: Float32Array, hidden: number): number {
  const classes = names.length / hidden;
  let hits = 0;
  for (let c = 0; c < classes; c++) {
    let best = -1;
    let bestScore = Number.NEGATIVE_INFINITY;
    for (let k = 0; k < classes; k++) {
      let score = 0;
      for (let j = 0; j < hidden; j++) score += names[c * hidden + j]! * means[k * hidden + j]!;
      if (score > bestScore) {
        best = k;
        bestScore = score;
      }
    }
    if (best === c) hits++;
  }
  return hits / classes;
}

/** The support of some rows only; the names stay. */
export function withNames(
  rows: { features: Float32Array; labels: Int32Array },
  names: Float32Array | undefined,
): { features: Float32Array; labels: Int32Array } {
  if (names === undefined) return rows;
  const features = new Float32Array(rows.features.length + names.length);
  features.set(rows.features);
  features.set(names, rows.features.length);
  const hidden = rows.features.length / rows.labels.length;
  const labels = new Int32Array(rows.labels.length + names.length / hidden);
  labels.set(rows.labels);
  for (let c = 0; c < labels.length - rows.labels.length; c++) labels[rows.labels.length + c] = c;
  return { features, labels };
}
