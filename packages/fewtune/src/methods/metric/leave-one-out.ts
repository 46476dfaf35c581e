import { fitTemperature } from '../../evaluation/calibration.js';
import type { LabelledFeatures } from './class-means.js';
import { cosinesWithoutOneself, labelResponsibilities } from './support-attention.js';

/**
 * Cosine of every row to every class mean, its own class's without the row [rows, classes]: what the plain prototypes
 * would say of it had it not been shown, at the cost of one pass. A row that is alone in its class has cosine 0 to it.
 *
 * @param data features of unit length
 */
export function prototypeLeaveOneOut(data: LabelledFeatures): Float32Array {
  return cosinesWithoutOneself(data, labelResponsibilities(data), undefined, 0);
}

/**
 * The temperature under which softmax(cosine / temperature) of left-out rows is most likely right. Rows that are alone in
 * their class say nothing and are left out; with no others it is `fallback`.
 */
export function leaveOneOutTemperature(data: LabelledFeatures, fallback = 0.05): number {
  const { classes, labels } = data;
  const sizes = new Int32Array(classes);
  for (const label of labels) sizes[label]!++;
  const cosines = prototypeLeaveOneOut(data);
  const rows = [...labels.keys()].filter((i) => sizes[labels[i]!]! > 1);
  if (rows.length === 0) return fallback;
  const shown = rows.flatMap((i) => [...cosines.subarray(i * classes, (i + 1) * classes)]);
  return fitTemperature(
    shown,
    rows.map((i) => labels[i]!),
    classes,
  );
}
