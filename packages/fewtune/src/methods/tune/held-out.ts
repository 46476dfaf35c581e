import type { Encoder } from '@fewtune/models';
import { stratifiedSplit } from '../../data/split.js';
import { FewtuneError } from '../../errors.js';
import { type Tokenised, tokenise } from './examples.js';
import type { Validation } from './options.js';
import type { Task } from './task.js';

/** Rows of a task, with their tokens. */
export interface Rows extends Tokenised {
  readonly task: Task;
  readonly rows: readonly number[];
}

/**
 * The examples that are learned from, and those that the run is judged by.
 *
 * @param all the tokens of all examples
 * @throws FewtuneError OPTION_INVALID, ROWS_EMPTY
 */
export function splitRows(
  encoder: Pick<Encoder, 'tokenizer' | 'weights'>,
  task: Task,
  all: Tokenised,
  validation: Validation | undefined,
  seed: number,
): { train: Rows; heldOut?: Rows } {
  const { ids, types } = all;
  const train = { ...all, task, rows: [...ids.keys()] };
  if (!validation) return { train };
  const { on } = validation;
  if (typeof on !== 'number') {
    const others = tokenise(encoder, on.examples);
    if (on.task.kind !== task.kind || on.task.outputs.join('\n') !== task.outputs.join('\n')) {
      throw new FewtuneError(
        'OPTION_INVALID',
        'validation.on: its task must have the kind and outputs of the one trained.',
      );
    }
    if ((others.types === undefined) !== (types === undefined)) {
      throw new FewtuneError(
        'OPTION_INVALID',
        'validation.on: pairs of sentences go with pairs, and texts with texts.',
      );
    }
    return { train, heldOut: { ...others, task: on.task, rows: [...others.ids.keys()] } };
  }
  if (!(on > 0 && on < 1)) {
    throw new FewtuneError('OPTION_INVALID', `validation.on is ${on}; a share lies between 0 and 1.`);
  }
  const split = stratifiedSplit(task.strata ?? new Int32Array(ids.length), on, seed);
  const part = (chosen: Int32Array): Rows => {
    const rows = Array.from(chosen);
    return {
      task,
      rows,
      ids: rows.map((row) => ids[row]!),
      ...(types && { types: rows.map((row) => types[row]!) }),
    };
  };
  if (split.test.length === 0) {
    throw new FewtuneError('ROWS_EMPTY', `validation.on: a share of ${on} of ${ids.length} examples is none.`);
  }
  return { train: part(split.train), heldOut: part(split.test) };
}
