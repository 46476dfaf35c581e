import { createTokenizer, type Tokenizer } from '@fewtune/models';

/** Ids before the words: padding, unknown words, and a start that keeps every sequence longer than nothing. */
export const specialTokens = ['[PAD]', '[UNK]', '[CLS]'] as const;
/** The graph compares all tokens of a text with each other, so texts end here. */
const MAX_TOKENS = 512;

/**
 * A tokenizer of whole words: lower-cased, divided at white space and punctuation. `words[i]` has the id `i + 3`.
 * Made of parts that every reader of tokenizer.json knows, so that training, transformers.js and Python agree.
 */
export function wordTokenizer(words: readonly string[]): Tokenizer {
  // Without a prototype even `__proto__` is a word like any other.
  const vocab: Record<string, number> = Object.create(null);
  for (const [id, token] of [...specialTokens, ...words].entries()) vocab[token] = id;
  const tokenizer = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: specialTokens.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: { type: 'Sequence', normalizers: [{ type: 'NFC' }, { type: 'Lowercase' }] },
    pre_tokenizer: { type: 'BertPreTokenizer' },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '[CLS]', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [
        { SpecialToken: { id: '[CLS]', type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { Sequence: { id: 'B', type_id: 0 } },
      ],
      special_tokens: { '[CLS]': { id: '[CLS]', ids: [2], tokens: ['[CLS]'] } },
    },
    decoder: null,
    model: { type: 'WordLevel', vocab, unk_token: '[UNK]' },
  };
  const config = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    pad_token: '[PAD]',
    unk_token: '[UNK]',
    cls_token: '[CLS]',
    model_max_length: MAX_TOKENS,
    clean_up_tokenization_spaces: false,
  };
  return createTokenizer(
    { 'tokenizer.json': JSON.stringify(tokenizer), 'tokenizer_config.json': `${JSON.stringify(config, null, 2)}\n` },
    { source: 'the TF-IDF tokenizer' },
  );
}

/** A text's words, divided exactly as the tokenizer divides it (Lowercase after NFC, then BertPreTokenizer). */
export function wordsOf(text: string): string[] {
  return text.normalize('NFC').toLowerCase().match(WORDS) ?? [];
}

/** Punctuation as BERT has it: ASCII symbols and Unicode's P. */
const PUNCTUATION = '\\p{P}\\u0021-\\u002F\\u003A-\\u0040\\u005B-\\u0060\\u007B-\\u007E';
const WORDS = new RegExp(`[^\\s${PUNCTUATION}]+|[${PUNCTUATION}]`, 'gu');
