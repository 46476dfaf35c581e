import type { HostTensor, Named, Tensor, TensorSpec } from '@fewtune/engine';
import type { Random } from '../../data/random.js';

export type TaskKind = 'classification' | 'multi-label' | 'ordinal' | 'regression' | 'tokens';

/** How good a task's answers are; a higher value is better. What else was found stands beside it. */
export interface Score {
  readonly name: string;
  readonly value: number;
  readonly [other: string]: unknown;
}

/** What an encoder is fine-tuned for: the examples' targets, a head, a loss, a score. Rows are those of the examples. */
export interface Task {
  readonly kind: TaskKind;
  /** What each logit is of: names of labels; of the values, in a regression. */
  readonly outputs: readonly string[];
  /** Whether the head reads a sentence's pooled vector [batch, hidden], or every token, special ones too [tokens, hidden]. */
  readonly reads: 'sentence' | 'tokens';
  /** The head's weights at its start: `classifier.weight` [outputs, hidden], `classifier.bias` [outputs]. */
  head(hidden: number, random: Random): Record<string, HostTensor>;
  /** @param states [batch, hidden] or [tokens, hidden] @returns [batch or tokens, outputs] */
  logits(states: Tensor, head: Named<Tensor>): Tensor;
  /** A float32 scalar: the mean over what counts. */
  loss(logits: Tensor, targets: Named<Tensor>): Tensor;
  /** How much counts, a float32 scalar, where it is not every row: the sum of a mask, for a mean over some tokens. */
  weight?(targets: Named<Tensor>): Tensor;
  /** What `targets` gives for a batch; `batch` or `tokens` stands for its size. */
  readonly targetSpecs: Readonly<Record<string, TensorSpec>>;
  targets(rows: readonly number[]): Record<string, HostTensor>;
  /** @param logits of these rows, one after another (of all their tokens, where tokens are read) */
  score(logits: Float32Array, rows: readonly number[]): Score;
  /** A class of each row, where a share that is held out should have as many of each. */
  readonly strata?: Int32Array;
  /** About the loss of a guess: one up to here is no sign that a run diverges. */
  readonly harmless?: number;
}
