import { abs, add, constant, div, hostTensor, linear, mean, minimum, mul, sub, type Tensor } from '@fewtune/engine';
import { FewtuneError } from '../../../errors.js';
import { regressionScores } from '../../../evaluation/regression.js';
import type { Task } from '../task.js';
import { linearHead } from './linear-head.js';

/** Mean and deviation of each value: what a head learns is how many deviations a text lies from the mean. */
export interface ValueScale {
  readonly mean: readonly number[];
  readonly deviation: readonly number[];
}

export interface RegressionOptions {
  /** Squared error, or Huber's, which grows along a line from one deviation on; `mse`. */
  readonly loss?: 'mse' | 'huber';
  /** Of the training values, for examples that are held out; their own when left out. */
  readonly scale?: ValueScale;
}

/**
 * A number for each text, or several. Logits are in the unit of the values; the loss is in deviations of the training
 * values, so that rates mean the same whatever the unit. Scored by R² (the mean of several).
 *
 * @param values [examples, names], row-major
 * @param names  of the values, one a column
 * @throws FewtuneError TARGET_INVALID for a value that is no number, or one that is the same in all examples
 */
export function regression(
  values: ArrayLike<number>,
  names: readonly string[] = ['value'],
  { loss = 'mse', scale = scaleOf(values, names) }: RegressionOptions = {},
): Task & { readonly scale: ValueScale } {
  const width = names.length;
  const own = Float32Array.from(values);
  const wrong = own.findIndex((value) => !Number.isFinite(value));
  if (wrong >= 0) {
    const row = Math.floor(wrong / width);
    throw new FewtuneError(
      'TARGET_INVALID',
      `example ${row}: ${names[wrong % width]} is ${values[wrong]}, not a number.`,
    );
  }
  const fixed = (numbers: readonly number[]): Tensor =>
    constant(hostTensor('float32', [width], Float32Array.from(numbers)));
  const truth = (rows: readonly number[]): Float32Array =>
    Float32Array.from(
      { length: rows.length * width },
      (_, i) => own[rows[Math.floor(i / width)]! * width + (i % width)]!,
    );
  return {
    kind: 'regression',
    outputs: names,
    reads: 'sentence',
    scale,
    head: (hidden, random) => linearHead(width, hidden, random),
    logits: (states, head) =>
      add(
        mul(linear(states, head['classifier.weight']!, head['classifier.bias']), fixed(scale.deviation)),
        fixed(scale.mean),
      ),
    loss(logits, { values }) {
      const error = div(sub(logits, values!), fixed(scale.deviation));
      return loss === 'mse' ? mean(mul(error, error)) : huber(error);
    },
    targetSpecs: { values: { dtype: 'float32', shape: ['batch', width] } },
    targets: (rows) => ({ values: hostTensor('float32', [rows.length, width], truth(rows)) }),
    score(logits, rows) {
      const wanted = truth(rows);
      const each = names.map((_, c) => {
        const column = (all: Float32Array) => all.filter((_, i) => i % width === c);
        return regressionScores(column(logits), column(wanted));
      });
      const average = (of: 'r2' | 'pearson' | 'spearman' | 'mse' | 'mae'): number =>
        each.reduce((sum, one) => sum + one[of], 0) / width;
      const [value, pearson, spearman, mae] = [average('r2'), average('pearson'), average('spearman'), average('mae')];
      return { name: 'R²', value, pearson, spearman, mae };
    },
    harmless: 2,
  };
}

/** Half the square within 1, then along a line: PyTorch's HuberLoss with δ = 1. Huber 1964. */
export function huber(error: Tensor): Tensor {
  const size = abs(error);
  const near = minimum(size, 1);
  return mean(mul(near, sub(size, mul(near, 0.5))));
}

function scaleOf(values: ArrayLike<number>, names: readonly string[]): ValueScale {
  const width = names.length;
  const rows = values.length / width;
  const scale = names.map((name, c) => {
    const column = Array.from({ length: rows }, (_, row) => values[row * width + c]!);
    const average = column.reduce((a, b) => a + b, 0) / rows;
    const deviation = Math.sqrt(column.reduce((sum, value) => sum + (value - average) ** 2, 0) / rows);
    if (deviation === 0) {
      throw new FewtuneError(
        'TARGET_INVALID',
        `${name} is ${average} in all ${rows} examples; there is nothing to learn. Choose another column.`,
      );
    }
    return { average, deviation };
  });
  return { mean: scale.map(({ average }) => average), deviation: scale.map(({ deviation }) => deviation) };
}
