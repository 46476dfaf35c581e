import { headLogits, prototypeHead } from 'fewtune';
import { generator } from '../../lib/statistics.js';
import { share } from './feature-tasks.js';

/** Dimensions kept, as in the reference figures. */
const RANK = 300;
/** Steps of subspace iteration; the floor's accuracy no longer changes in its second digit before that. */
const STEPS = 8;

/** Texts of an episode; labels and answers are numbers of ways. */
export interface TextTask {
  readonly classes: number;
  readonly support: readonly string[];
  readonly labels: Int32Array;
  readonly query: readonly string[];
  readonly answers: Int32Array;
}

/** Latent semantic analysis: sentences as rows of tf-idf projected on the first right singular vectors of a pool. */
export interface LatentSemantic {
  readonly hidden: number;
  /** [texts, hidden], rows of unit length; zeros for a text without a known word. */
  features(texts: readonly string[]): Float32Array;
}

/**
 * Deerwester et al. 1990: words counted, tf-idf with smooth idf, rows of unit length, truncated singular value
 * decomposition. Cosines do not change when coordinates are turned, so an orthonormal basis of the leading subspace does;
 * it comes of subspace iteration on XᵀX (Halko, Martinsson & Tropp 2011, arXiv:0909.4061).
 *
 * @param pool sentences whose words are known; their labels are not looked at
 */
export function latentSemantic(pool: readonly string[], seed = 7): LatentSemantic {
  const frequency = new Map<string, number>();
  for (const text of pool)
    for (const word of new Set(wordsOf(text))) frequency.set(word, (frequency.get(word) ?? 0) + 1);
  const columns = new Map([...frequency.keys()].map((word, i) => [word, i]));
  const idf = Float64Array.from(frequency.values(), (df) => Math.log((1 + pool.length) / (1 + df)) + 1);
  const rowOf = (text: string): [column: number, value: number][] => {
    const counts = new Map<number, number>();
    for (const word of wordsOf(text)) {
      const column = columns.get(word);
      if (column !== undefined) counts.set(column, (counts.get(column) ?? 0) + 1);
    }
    const entries = [...counts].map(([column, count]): [number, number] => [column, count * idf[column]!]);
    const length = Math.hypot(...entries.map(([, value]) => value));
    return entries.map(([column, value]) => [column, value / length]);
  };
  const rows = pool.map(rowOf);
  const hidden = Math.min(RANK, columns.size, pool.length);
  const random = generator(seed);
  // [words, hidden]: a word's vector lies in one piece.
  let basis: Float64Array = Float64Array.from({ length: columns.size * hidden }, () => random() - 0.5);
  for (let step = 0; step < STEPS; step++) {
    const next = new Float64Array(basis.length);
    const projected = new Float64Array(hidden);
    for (const row of rows) {
      projected.fill(0);
      for (const [column, value] of row)
        for (let k = 0; k < hidden; k++) projected[k]! += value * basis[column * hidden + k]!;
      for (const [column, value] of row)
        for (let k = 0; k < hidden; k++) next[column * hidden + k]! += value * projected[k]!;
    }
    basis = orthonormalColumns(next, hidden);
  }
  return {
    hidden,
    features(texts) {
      const out = new Float32Array(texts.length * hidden);
      texts.forEach((text, i) => {
        const row = out.subarray(i * hidden, (i + 1) * hidden);
        for (const [column, value] of rowOf(text))
          for (let k = 0; k < hidden; k++) row[k]! += value * basis[column * hidden + k]!;
        const length = Math.hypot(...row);
        if (length > 0) for (let k = 0; k < hidden; k++) row[k]! /= length;
      });
      return out;
    },
  };
}

/** Accuracy of plain prototypes on it, in per cent. */
export function latentSemanticScore(analysis: LatentSemantic, task: TextTask): number {
  const { hidden } = analysis;
  const features = analysis.features(task.support);
  const head = prototypeHead({ hidden, classes: task.classes, features, labels: task.labels }, 1);
  return share(headLogits(head, analysis.features(task.query)), task);
}

const wordsOf = (text: string): string[] => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];

/** Columns of [rows, width] made orthonormal, from the Cholesky factor of their products; twice against rounding. */
function orthonormalColumns(x: Float64Array, width: number): Float64Array {
  let out = x;
  for (let pass = 0; pass < 2; pass++) {
    const lower = choleskyOf(productsOf(out, width), width);
    const next = new Float64Array(out.length);
    for (let at = 0; at < out.length; at += width) {
      for (let i = 0; i < width; i++) {
        let sum = out[at + i]!;
        for (let k = 0; k < i; k++) sum -= lower[i * width + k]! * next[at + k]!;
        next[at + i] = sum / lower[i * width + i]!;
      }
    }
    out = next;
  }
  return out;
}

/** xᵀ x of [rows, width], [width, width]. */
function productsOf(x: Float64Array, width: number): Float64Array {
  const out = new Float64Array(width * width);
  for (let at = 0; at < x.length; at += width) {
    for (let i = 0; i < width; i++) {
      const value = x[at + i]!;
      if (value === 0) continue;
      for (let k = 0; k <= i; k++) out[i * width + k]! += value * x[at + k]!;
    }
  }
  return out;
}

/** Lower triangle L with L Lᵀ = the matrix whose lower triangle is given. */
function choleskyOf(matrix: Float64Array, size: number): Float64Array {
  const lower = new Float64Array(size * size);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i * size + j]!;
      for (let k = 0; k < j; k++) sum -= lower[i * size + k]! * lower[j * size + k]!;
      lower[i * size + j] = i === j ? Math.sqrt(Math.max(sum, 1e-300)) : sum / lower[j * size + j]!;
    }
  }
  return lower;
}
