/**
 * Softmax of each row of logits / temperature, shifted by the row's maximum so that nothing overflows.
 * @param logits [rows, classes], row-major
 */
export function softmaxRows(logits: ArrayLike<number>, classes: number, temperature = 1): Float32Array {
  const out = new Float32Array(logits.length);
  for (let start = 0; start < logits.length; start += classes) {
    let max = Number.NEGATIVE_INFINITY;
    for (let c = 0; c < classes; c++) max = Math.max(max, logits[start + c]!);
    let sum = 0;
    for (let c = 0; c < classes; c++) sum += Math.exp((logits[start + c]! - max) / temperature);
    for (let c = 0; c < classes; c++) out[start + c] = Math.exp((logits[start + c]! - max) / temperature) / sum;
  }
  return out;
}

/**
 * Expected calibration error: Σ_bins (rows in bin / rows) · |accuracy − mean confidence|, over equal-width bins of the
 * top probability. Guo et al. 2017, equation 3, arXiv:1706.04599.
 */
export function expectedCalibrationError(
  probabilities: ArrayLike<number>,
  labels: ArrayLike<number>,
  classes: number,
  bins = 15,
): number {
  const gap = new Float64Array(bins); // Σ (right − confidence) of each bin
  for (let i = 0; i < labels.length; i++) {
    let best = 0;
    for (let c = 1; c < classes; c++) {
      if (probabilities[i * classes + c]! > probabilities[i * classes + best]!) best = c;
    }
    const confidence = probabilities[i * classes + best]!;
    // Bins are (lo, hi] as in the paper.
    const bin = Math.min(bins - 1, Math.max(0, Math.ceil(confidence * bins) - 1));
    gap[bin]! += (best === labels[i] ? 1 : 0) - confidence;
  }
  return labels.length === 0 ? 0 : gap.reduce((sum, g) => sum + Math.abs(g), 0) / labels.length;
}

/**
 * Mean negative log-likelihood of the labels under softmax(logits / temperature).
 * @param smoothing share of each label that is spread over all classes
 */
export function negativeLogLikelihood(
  logits: ArrayLike<number>,
  labels: ArrayLike<number>,
  classes: number,
  temperature = 1,
  smoothing = 0,
): number {
  let total = 0;
  for (let i = 0; i < labels.length; i++) {
    const start = i * classes;
    let max = Number.NEGATIVE_INFINITY;
    for (let c = 0; c < classes; c++) max = Math.max(max, logits[start + c]!);
    let sum = 0;
    let shifted = 0; // Σ_c (z_c − max) / T
    for (let c = 0; c < classes; c++) {
      const z = (logits[start + c]! - max) / temperature;
      sum += Math.exp(z);
      shifted += z;
    }
    const own = (logits[start + labels[i]!]! - max) / temperature;
    total += Math.log(sum) - (1 - smoothing) * own - (smoothing / classes) * shifted;
  }
  return total / Math.max(1, labels.length);
}

/** Temperatures looked at: beyond these, confidences are all but 0/1 or uniform. */
const COLDEST = 1e-3;
const HOTTEST = 1e3;

/**
 * The temperature that makes held-out labels most likely. In log T the loss has one valley, so golden-section search
 * finds it. Guo et al. 2017, section 4.2, but for one thing: 1 / (rows + 1) of each label is spread over all classes, as
 * Platt 1999 does, so that a handful of rows that are all right does not make the model certain of everything.
 *
 * @param logits out-of-fold or held-out logits [rows, classes]; rows with a label of -1 are left out by the caller
 */
export function fitTemperature(logits: ArrayLike<number>, labels: ArrayLike<number>, classes: number): number {
  if (labels.length === 0) return 1;
  const smoothing = 1 / (labels.length + 1);
  const loss = (logT: number) => negativeLogLikelihood(logits, labels, classes, Math.exp(logT), smoothing);
  const ratio = (Math.sqrt(5) - 1) / 2;
  let lo = Math.log(COLDEST);
  let hi = Math.log(HOTTEST);
  let left = hi - ratio * (hi - lo);
  let right = lo + ratio * (hi - lo);
  let atLeft = loss(left);
  let atRight = loss(right);
  while (hi - lo > 1e-4) {
    if (atLeft <= atRight) {
      hi = right;
      right = left;
      atRight = atLeft;
      left = hi - ratio * (hi - lo);
      atLeft = loss(left);
    } else {
      lo = left;
      left = right;
      atLeft = atRight;
      right = lo + ratio * (hi - lo);
      atRight = loss(right);
    }
  }
  return Math.exp((lo + hi) / 2);
}
