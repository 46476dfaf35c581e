import type { KeptSupport } from './support.js';

/** A kept example near a text. */
export interface Neighbour {
  readonly label: string;
  /** Cosine of the two texts' features, −1 to 1. */
  readonly similarity: number;
  /** Absent where the model keeps no texts. */
  readonly text?: string;
}

/**
 * The kept examples nearest to each row by cosine, nearest first; on a draw in the order in which they were learned.
 *
 * @param rows features [n, hidden], rows of length 1
 */
export function nearestSupports(
  rows: Float32Array,
  support: KeptSupport,
  labels: readonly string[],
  count: number,
): Neighbour[][] {
  const { hidden, features, texts } = support;
  const kept = support.labels.length;
  return Array.from({ length: rows.length / hidden }, (_, n) => {
    const similarity = new Float64Array(kept);
    for (let i = 0; i < kept; i++) {
      let dot = 0;
      for (let j = 0; j < hidden; j++) dot += rows[n * hidden + j]! * features[i * hidden + j]!;
      similarity[i] = dot;
    }
    const order = [...similarity.keys()].sort((a, b) => similarity[b]! - similarity[a]! || a - b);
    return order.slice(0, count).map((i) => ({
      label: labels[support.labels[i]!]!,
      similarity: similarity[i]!,
      ...(texts && { text: texts[i]! }),
    }));
  });
}
