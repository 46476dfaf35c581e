export interface LabelledFeatures {
  readonly hidden: number;
  readonly classes: number;
  /** [rows, hidden] */
  readonly features: Float32Array;
  readonly labels: Int32Array;
}

/** Mean of each class [classes, hidden]; with unit length when `normalise` is left true, as cosine wants it. */
export function classMeans({ hidden, classes, features, labels }: LabelledFeatures, normalise = true): Float32Array {
  const sums = new Float64Array(classes * hidden);
  const counts = new Float64Array(classes);
  labels.forEach((label, i) => {
    counts[label]!++;
    for (let j = 0; j < hidden; j++) sums[label * hidden + j]! += features[i * hidden + j]!;
  });
  const means = new Float32Array(classes * hidden);
  for (let c = 0; c < classes; c++) {
    let squares = 0;
    for (let j = 0; j < hidden; j++) squares += sums[c * hidden + j]! ** 2;
    const scale = normalise ? 1 / Math.max(Math.sqrt(squares), 1e-12) : 1 / Math.max(counts[c]!, 1);
    for (let j = 0; j < hidden; j++) means[c * hidden + j] = sums[c * hidden + j]! * scale;
  }
  return means;
}
