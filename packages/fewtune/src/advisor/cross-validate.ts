import { throwIfAborted } from '../errors.js';
import type { FitContext, Labelled, Method } from '../methods/method.js';

/** A method with the options it is to be fitted with. */
export interface Candidate {
  readonly method: Method<unknown>;
  readonly options: unknown;
}

/** Predictions for training rows, each by a fit that had not seen the row. */
export class OutOfFold {
  /** Uncalibrated logits [rows, classes]; rows of folds not yet done are zero. */
  readonly logits: Float32Array;
  /** 1 where a row was predicted. */
  readonly done: Uint8Array;
  foldsDone = 0;
  seconds = 0;
  private readonly classes: number;

  constructor(rows: number, classes: number) {
    this.logits = new Float32Array(rows * classes);
    this.done = new Uint8Array(rows);
    this.classes = classes;
  }

  /** Indices of the rows predicted so far, ascending. */
  rows(): number[] {
    return [...this.done.keys()].filter((row) => this.done[row] === 1);
  }

  /** Whether the highest logit of `row` is `label`'s. */
  isCorrect(row: number, label: number): boolean {
    return argMax(this.logits.subarray(row * this.classes, (row + 1) * this.classes)) === label;
  }

  /** Fits `candidate` on every fold but `fold` and predicts that one. */
  async addFold(
    candidate: Candidate,
    data: Labelled,
    folds: Int32Array,
    fold: number,
    context: FitContext,
  ): Promise<void> {
    throwIfAborted(context.signal);
    const started = performance.now();
    const rows = [...folds.keys()];
    const held = rows.filter((row) => folds[row] === fold);
    const learned = rows.filter((row) => folds[row] !== fold);
    const fitted = await candidate.method.fit(pick(data, learned), candidate.options, context);
    try {
      const logits = await fitted.logits(
        held.map((row) => data.texts[row]!),
        context.signal,
      );
      for (const [i, row] of held.entries()) {
        this.logits.set(logits.subarray(i * this.classes, (i + 1) * this.classes), row * this.classes);
        this.done[row] = 1;
      }
    } finally {
      await fitted.dispose?.();
    }
    this.foldsDone++;
    this.seconds += (performance.now() - started) / 1000;
  }
}

/** The rows of `data` with the given indices. */
export function pick(data: Labelled, rows: readonly number[]): Labelled {
  return {
    texts: rows.map((row) => data.texts[row]!),
    labels: Int32Array.from(rows, (row) => data.labels[row]!),
    classes: data.classes,
  };
}

function argMax(values: Float32Array): number {
  return values.reduce((best, value, i) => (value > values[best]! ? i : best), 0);
}
