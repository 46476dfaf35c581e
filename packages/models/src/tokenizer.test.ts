import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { createTokenizer, type TokenizerFile } from './tokenizer.js';

const folder = join(dirname(createRequire(import.meta.url).resolve('@fewtune/encoder-minilm/package.json')), 'model');
const read = (file: TokenizerFile): string => readFileSync(join(folder, file), 'utf8');
const files = { 'tokenizer.json': read('tokenizer.json'), 'tokenizer_config.json': read('tokenizer_config.json') };
const minilm = createTokenizer(files);

describe('WordPiece of MiniLM', () => {
  test('ids are those of the Python tokenizer', () => {
    // transformers 4.57: AutoTokenizer.from_pretrained(...)("Hello world, unbelievable!").input_ids
    expect(minilm.encode('Hello world, unbelievable!')).toEqual([101, 7592, 2088, 1010, 23653, 999, 102]);
    expect(minilm.encodePair('a', 'b c')).toEqual({
      ids: [101, 1037, 102, 1038, 1039, 102],
      types: [0, 0, 0, 1, 1, 1],
    });
    expect(minilm.encode('')).toEqual([101, 102]);
    expect(minilm.padId).toBe(0);
    expect(minilm.maxLength).toBe(256);
  });

  test('truncation keeps the closing token', () => {
    const short = createTokenizer(files, { maxLength: 5 });
    expect(short.encode('one two three four five')).toEqual([101, 2028, 2048, 2093, 102]);
    expect(short.encodePair('one two three', 'four').ids).toEqual([101, 2028, 102, 2176, 102]);
    expect(short.encodePair('one', 'two three four').ids).toEqual([101, 2028, 102, 2048, 102]);
  });

  test('its files make it again', () => {
    const short = createTokenizer(files, { maxLength: 5 });
    expect(createTokenizer(short.files).maxLength).toBe(5);
    expect(minilm.files).toEqual(files); // nothing to change: verbatim
  });

  test('text of megabytes is cut first', () => {
    const started = performance.now();
    expect(minilm.encode('word '.repeat(1_000_000))).toHaveLength(256);
    expect(minilm.encode(' '.repeat(5_000_000))).toEqual([101, 102]);
    expect(minilm.encode('x'.repeat(5_000_000))).toEqual([101, 100, 102]); // one unknown word
    expect(minilm.encode(`${'a'.repeat(256 * 64 - 1)}😀 end`)).toEqual([101, 100, 102]); // no half emoji
    expect(performance.now() - started).toBeLessThan(5000); // uncut, each takes seconds
  });
});

describe('from memory', () => {
  const wordLevel = {
    version: '1.0',
    added_tokens: [],
    normalizer: { type: 'Lowercase' },
    pre_tokenizer: { type: 'Whitespace' },
    post_processor: null,
    decoder: null,
    model: { type: 'WordLevel', vocab: JSON.parse('{"[PAD]":0,"[UNK]":1,"card":2,"__proto__":3}'), unk_token: '[UNK]' },
  };

  test('a word-level vocabulary without special tokens', () => {
    const words = createTokenizer({ 'tokenizer.json': JSON.stringify(wordLevel) });
    expect(words.encode('Card __proto__ lost constructor')).toEqual([2, 3, 1, 1]);
    expect(words.encode('')).toEqual([]);
    expect([words.padId, words.maxLength]).toEqual([0, 512]);
  });

  test.each([
    [{}, 'tokenizer.json is missing'],
    [{ 'tokenizer.json': '{' }, 'tokenizer.json is not JSON'],
    [{ 'tokenizer.json': '[]' }, 'cannot be used'],
    [{ 'tokenizer.json': '{"model":{"type":"Magic"}}' }, 'cannot be used'],
  ])('%j is refused', (broken, message) => {
    expect(() => createTokenizer(broken)).toThrow(
      expect.objectContaining({ code: 'TOKENIZER_INVALID', message: expect.stringContaining(message) }),
    );
  });
});
