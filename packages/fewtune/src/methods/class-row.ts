import type { LinearHead } from '../artifact/linear-head.js';

/** One class of a linear head. */
export interface ClassRow {
  /** [hidden] */
  readonly weight: Float32Array;
  readonly bias: number;
}

/** A class to be learned into a head whose other rows stay as they are. */
export interface RowTask {
  readonly hidden: number;
  /** Rows of the other classes only. */
  readonly head: LinearHead;
  /** Kept examples of the other classes [rows, hidden]. */
  readonly others: Float32Array;
  /** [rows], indices into `head`. */
  readonly labels: Int32Array;
  /** What `head` says of them [rows, classes]. */
  readonly logits: Float32Array;
  /** The other labels' own words [classes, hidden], where the head learned from them. */
  readonly names?: Float32Array;
  /** What the training chose, as in the report. */
  readonly details: Readonly<Record<string, number | string | boolean>>;
  readonly options: Readonly<Record<string, unknown>>;
}

/**
 * Prepares what depends on the other classes only; the function it returns gives the row of a class with these examples
 * [rows, hidden], its own name among them where names are learned from.
 */
export type RowLearner = (task: RowTask) => (examples: Float32Array) => Promise<ClassRow>;

/** A number that the training left in the report. */
export function recorded({ details, options }: Pick<RowTask, 'details' | 'options'>, name: string): number {
  const value = details[name] ?? options[name];
  if (typeof value !== 'number') throw new Error(`the report has no number "${name}"`);
  return value;
}
