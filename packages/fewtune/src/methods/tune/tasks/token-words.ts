import type { EncodedText, Tokenizer } from '@fewtune/models';
import type { Entity } from '../../../data/entity.js';

/** A word as entities are made of: the first of its tokens, and where it stands in the text. */
export interface TokenWord {
  readonly token: number;
  readonly start: number;
  readonly end: number;
}

/** A text's tokens and words. */
export interface TokenRow {
  readonly text: string;
  readonly tokens: number;
  readonly words: readonly TokenWord[];
  /** Whether the text goes on where the encoder's reading ends. */
  readonly truncated: boolean;
}

export function tokenRow({ encodeWithOffsets }: Pick<Tokenizer, 'encodeWithOffsets'>, text: string): TokenRow {
  const encoded = encodeWithOffsets(text);
  return { text, tokens: encoded.ids.length, words: wordsOf(text, encoded), truncated: encoded.truncated };
}

const isMark = (character: string | undefined): boolean => character !== undefined && /[\p{P}\p{S}]/u.test(character);

/**
 * The words that tokens make. A tokenizer that divides at white space only (SentencePiece's) has marks in its words, and
 * an entity ends before a comma: where a token begins or ends with a mark, a word does too.
 */
function wordsOf(text: string, { offsets, words }: EncodedText): TokenWord[] {
  const found: { token: number; start: number; end: number; word: number }[] = [];
  for (const [token, [start, end]] of offsets.entries()) {
    const word = words[token]!;
    if (word < 0 || end <= start) continue;
    const last = found.at(-1);
    const goesOn = last?.word === word && !isMark(text[start]) && !isMark(text[last.end - 1]);
    if (goesOn) last.end = Math.max(last.end, end);
    else found.push({ token, start, end, word });
  }
  return found.map(({ token, start, end }) => ({ token, start, end }));
}

/** What became of entities when they were laid over words. */
export interface LaidOut {
  /** A tag of each word: 0 outside, 2k + 1 the begin of label k, 2k + 2 its inside. */
  readonly tags: Int32Array;
  /** Entities that begin or end inside a word, and take the whole of it. */
  readonly widened: readonly Entity[];
  /** Entities of which no word is left: after the end of what is read, or in a word that another one has. */
  readonly lost: readonly Entity[];
}

/** The tags of a row's words for its entities, which do not overlap. */
export function layOut({ words }: TokenRow, entities: readonly Entity[], labels: ReadonlyMap<string, number>): LaidOut {
  const tags = new Int32Array(words.length);
  const [widened, lost]: [Entity[], Entity[]] = [[], []];
  for (const entity of [...entities].sort((a, b) => a.start - b.start)) {
    const own = words.flatMap(({ start, end }, i) =>
      start < entity.end && end > entity.start && tags[i] === 0 ? [i] : [],
    );
    if (own.length === 0) {
      lost.push(entity);
      continue;
    }
    const [first, last] = [words[own[0]!]!, words[own.at(-1)!]!];
    if (first.start !== entity.start || last.end !== entity.end) widened.push(entity);
    const label = labels.get(entity.label)!;
    for (const [i, word] of own.entries()) tags[word] = 2 * label + (i === 0 ? 1 : 2);
  }
  return { tags, widened, lost };
}
