import type { Encoder } from '@fewtune/models';
import { FewtuneError } from '../../errors.js';

/** What is learned from; a task holds the targets, row by row. */
export interface TuneExamples {
  readonly texts: readonly string[];
  /** Second sentences, one for each text, where a task is about pairs. */
  readonly pairs?: readonly string[];
}

/** Examples as the encoder reads them, special tokens included. */
export interface Tokenised {
  readonly ids: readonly (readonly number[])[];
  /** Token types of each row: of pairs, where the encoder tells the two texts apart by them. */
  readonly types?: readonly (readonly number[])[];
}

/**
 * Token ids of each example. Whether there are types follows from the encoder and from whether there are pairs alone.
 *
 * @throws FewtuneError ROWS_EMPTY; OPTION_INVALID when there are not as many second sentences as first ones
 */
export function tokenise(encoder: Pick<Encoder, 'tokenizer' | 'weights'>, { texts, pairs }: TuneExamples): Tokenised {
  const { tokenizer } = encoder;
  if (texts.length === 0) throw new FewtuneError('ROWS_EMPTY', 'there is no example; give at least one.');
  if (!pairs) return { ids: texts.map((text) => tokenizer.encode(text)) };
  if (pairs.length !== texts.length) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `${texts.length} texts and ${pairs.length} second sentences; give one for each text.`,
    );
  }
  const rows = texts.map((text, row) => tokenizer.encodePair(text, pairs[row]!));
  const ids = rows.map((row) => row.ids);
  return readsTypes(encoder) ? { ids, types: rows.map(({ types }) => types) } : { ids };
}

/** Whether an encoder has a row for the second text of a pair: BERT; RoBERTa has one row, others none. */
export const readsTypes = ({ weights }: Pick<Encoder, 'weights'>): boolean =>
  (weights['embeddings.token_type_embeddings.weight']?.shape[0] ?? 0) > 1;
