import { lbfgs } from '../optimise/lbfgs.js';

/** Rows of few entries: those of row i stand at starts[i] .. starts[i + 1]. */
export interface SparseRows {
  readonly starts: Int32Array;
  readonly columns: Int32Array;
  readonly values: Float32Array;
}

/** tf-idf rows of token ids, L2-normalised: raw counts times idf; ids of weight 0 take no part. */
export function tfidfRows(ids: readonly (readonly number[])[], idf: Float32Array): SparseRows {
  const starts = new Int32Array(ids.length + 1);
  const columns: number[] = [];
  const values: number[] = [];
  ids.forEach((row, i) => {
    const counts = new Map<number, number>();
    for (const id of row) if (idf[id]! > 0) counts.set(id, (counts.get(id) ?? 0) + 1);
    let squares = 0;
    for (const [id, count] of counts) squares += (count * idf[id]!) ** 2;
    for (const [id, count] of counts) {
      columns.push(id);
      values.push((count * idf[id]!) / Math.sqrt(squares));
    }
    starts[i + 1] = columns.length;
  });
  return { starts, columns: Int32Array.from(columns), values: Float32Array.from(values) };
}

/** out[i, c] = Σ_k value_k · table[column_k, c] + bias[c]; the table is [columns, classes]. */
export function sparseLogits(
  { starts, columns, values }: SparseRows,
  table: Float64Array | Float32Array,
  bias: Float64Array | Float32Array,
  out: Float64Array | Float32Array,
): void {
  const classes = bias.length;
  for (let i = 0; i + 1 < starts.length; i++) {
    const to = i * classes;
    for (let c = 0; c < classes; c++) out[to + c] = bias[c]!;
    for (let k = starts[i]!; k < starts[i + 1]!; k++) {
      const value = values[k]!;
      const from = columns[k]! * classes;
      for (let c = 0; c < classes; c++) out[to + c]! += value * table[from + c]!;
    }
  }
}

/** Σ crossEntropy; turns the logits in place into softmax − onehot. */
function lossInPlace(logits: Float64Array, labels: Int32Array, classes: number): number {
  let loss = 0;
  for (let i = 0; i < labels.length; i++) {
    const start = i * classes;
    const end = start + classes;
    let max = logits[start]!;
    for (let c = start + 1; c < end; c++) if (logits[c]! > max) max = logits[c]!;
    const own = start + labels[i]!;
    const ownLogit = logits[own]! - max;
    let sum = 0;
    for (let c = start; c < end; c++) {
      const e = Math.exp(logits[c]! - max);
      logits[c] = e;
      sum += e;
    }
    loss += Math.log(sum) - ownLogit;
    for (let c = start; c < end; c++) logits[c]! /= sum;
    logits[own]! -= 1;
  }
  return loss;
}

/**
 * Multinomial logistic regression on sparse rows, with scikit-learn's `C`; see `createLogisticSolver` for the loss.
 * @returns table [columns, classes] and bias [classes]
 */
export async function fitSparseLogistic(
  rows: SparseRows,
  labels: Int32Array,
  classes: number,
  columnCount: number,
  options: { C: number; tolerance?: number; maxIterations?: number; signal?: AbortSignal },
): Promise<{ table: Float32Array; bias: Float32Array; iterations: number; converged: boolean }> {
  const { C, tolerance = 1e-4, maxIterations = 200, signal } = options;
  const size = columnCount * classes;
  const n = labels.length;
  const logits = new Float64Array(n * classes);
  let evaluations = 0;
  const result = await lbfgs(
    async (x, gradient) => {
      // The event loop turns now and then, so that an interrupt is heard.
      if (evaluations++ % 8 === 0) await new Promise(setImmediate);
      const table = x.subarray(0, size);
      sparseLogits(rows, table, x.subarray(size), logits);
      let value = lossInPlace(logits, labels, classes);
      let squares = 0;
      for (let k = 0; k < size; k++) {
        squares += table[k]! * table[k]!;
        gradient[k] = table[k]! / C;
      }
      gradient.fill(0, size);
      for (let i = 0; i < n; i++) {
        const from = i * classes;
        for (let k = rows.starts[i]!; k < rows.starts[i + 1]!; k++) {
          const entry = rows.values[k]!;
          const to = rows.columns[k]! * classes;
          for (let c = 0; c < classes; c++) gradient[to + c]! += entry * logits[from + c]!;
        }
        for (let c = 0; c < classes; c++) gradient[size + c]! += logits[from + c]!;
      }
      value += squares / (2 * C);
      for (let k = 0; k < gradient.length; k++) gradient[k]! /= n;
      return value / n;
    },
    new Float64Array(size + classes),
    { gradientTolerance: tolerance, maxIterations, memory: 6, signal },
  );
  return {
    table: new Float32Array(result.x.subarray(0, size)),
    bias: new Float32Array(result.x.subarray(size)),
    iterations: result.iterations,
    converged: result.converged,
  };
}
