import type { Encoder } from '@fewtune/models';
import { FewtuneError } from '../../errors.js';

/** What is learned from; a task holds the targets, row by row. */
export interface TuneExamples {
  readonly texts: readonly string[];
  /** Second sentences, one for each text, where a task is about pairs. */
  readonly pairs?: readonly string[];
}

/**
 * Token ids of each example, special tokens included.
 *
 * @throws FewtuneError ROWS_EMPTY, MODEL_UNSUPPORTED for pairs
 */
export function tokenise({ tokenizer }: Pick<Encoder, 'tokenizer'>, { texts, pairs }: TuneExamples): number[][] {
  if (texts.length === 0) throw new FewtuneError('ROWS_EMPTY', 'there is no example; give at least one.');
  if (pairs) throw new FewtuneError('MODEL_UNSUPPORTED', 'pairs of sentences cannot be read by this encoder.');
  return texts.map((text) => tokenizer.encode(text));
}
