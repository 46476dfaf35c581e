import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createTokenizer, type Tokenizer } from './tokenizer.js';

interface Reference {
  readonly maxLength: number;
  readonly files: Record<string, unknown>;
  readonly cases: { tokenizer: string; text: string; ids: number[]; offsets: number[][]; words: number[] }[];
  readonly pairs: { tokenizer: string; first: string; second: string; ids: number[]; types: number[] }[];
}

// By Python's tokenizers: test/fixtures/token-offsets.py.
const url = new URL('../test/fixtures/token-offsets.json', import.meta.url);
const reference: Reference = JSON.parse(readFileSync(url, 'utf8'));
const folder = join(dirname(createRequire(import.meta.url).resolve('@fewtune/encoder-minilm/package.json')), 'model');

function open(name: string, maxLength?: number): Tokenizer {
  const json =
    name === 'minilm' ? readFileSync(join(folder, 'tokenizer.json'), 'utf8') : JSON.stringify(reference.files[name]);
  return createTokenizer({ 'tokenizer.json': json }, { maxLength });
}

describe.each(['minilm', 'roberta', 'xlm-roberta', 'mpnet'])('%s', (name) => {
  const tokenizer = open(name);

  test.each(reference.cases.filter((one) => one.tokenizer === name))(
    'places of $text are those of Python',
    ({ text, ids, offsets, words }) => {
      const found = tokenizer.encodeWithOffsets(text);
      expect(found).toEqual({ ids, offsets, words, truncated: false });
      expect(found.ids).toEqual(tokenizer.encode(text));
    },
  );

  const short = open(name, reference.maxLength);
  test.each(reference.pairs.filter((one) => one.tokenizer === name))(
    '$first + $second: ids, types and what is cut are those of Python',
    ({ first, second, ids, types }) => {
      expect(short.encodePair(first, second)).toEqual({ ids, types });
    },
  );

  test('in any text, ids are those of encode, and places go forward inside it', () => {
    const piece = fc.oneof(
      fc.string({ unit: 'grapheme', maxLength: 6 }),
      fc.constantFrom(' ', '\n', 'ΑΣ', 'İ', 'e\u0301', '[SEP]', '<s>', '▁', '##', '\ud800', '𠀀', 'the', 'Hello '),
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 8 }), (pieces) => {
        const text = pieces.join('');
        const { ids, offsets } = tokenizer.encodeWithOffsets(text);
        expect(ids).toEqual(tokenizer.encode(text));
        let before = 0;
        for (const [start, end] of offsets.slice(1, -1)) {
          expect(start).toBeGreaterThanOrEqual(before);
          expect(end).toBeGreaterThanOrEqual(start);
          expect(end).toBeLessThanOrEqual(text.length);
          before = start;
        }
      }),
      { numRuns: 150, seed: 7 },
    );
  });
});

test('a cut text says so, and places count what was skipped before it', () => {
  const short = open('minilm', 4);
  expect(short.encodeWithOffsets('one two three')).toEqual({
    ids: [101, 2028, 2048, 102],
    offsets: [
      [0, 0],
      [0, 3],
      [4, 7],
      [0, 0],
    ],
    words: [-1, 0, 1, -1],
    truncated: true,
  });
  const lead = ' '.repeat(1000);
  expect(short.encodeWithOffsets(`${lead}one`).offsets[1]).toEqual([1000, 1003]);
});
