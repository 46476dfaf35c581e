import { readFileSync } from 'node:fs';
import { compile, constant, type HostTensor } from '@fewtune/engine';
import { createTokenizer, padBatch } from '@fewtune/models';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { ClassifierGraph } from '../../artifact/graph.js';
import type { FitContext } from '../method.js';
import { tfidfRows } from './sparse.js';
import { tfidf, vocabulary } from './tfidf.js';
import { wordsOf, wordTokenizer } from './word-tokenizer.js';

const unused = () => Promise.reject(new Error('tfidf needs no encoder'));
const context: FitContext = { encoder: unused, features: unused, seed: 7 };

const texts = [
  'my card has not arrived yet',
  'where is my new card',
  'the card is late, when does it arrive?',
  'I want my money back',
  'please refund the payment',
  'when do I get my refund',
  'what is the exchange rate',
  'how much is a dollar in euro',
  'exchange euro to dollar',
];
const labels = Int32Array.from([0, 0, 0, 1, 1, 1, 2, 2, 2]);
const classes = ['card', '__proto__', 'rate'];

async function graphLogits(graph: ClassifierGraph, sentences: readonly string[]): Promise<Float32Array> {
  const tokenizer = createTokenizer(graph.tokenizer.files);
  const ids = { dtype: 'int64', shape: ['batch', 'seq'] } as const;
  const program = await compile(
    ({ inputIds, attentionMask }) => {
      const weights = Object.fromEntries(Object.entries(graph.weights).map(([name, w]) => [name, constant(w, name)]));
      return { logits: graph.forward(weights, { inputIds, attentionMask }).logits };
    },
    { inputIds: ids, attentionMask: ids },
    { threads: 1 },
  );
  const { logits } = await program.run(
    padBatch(
      sentences.map((text) => tokenizer.encode(text)),
      tokenizer.padId,
    ),
  );
  await program.dispose();
  return (logits as HostTensor).data as Float32Array;
}

describe('tokens', () => {
  test('training and serving divide any text alike', () => {
    const unit = fc.oneof(
      fc.constantFrom('a', 'B', 'é', 'e\u0301', ' ', '.', "'", '_', '#', '1', '名', '\n', '$', '🙂'),
      fc.string({ unit: 'grapheme', maxLength: 1 }),
    );
    const text = fc.string({ unit, maxLength: 40 });
    fc.assert(
      fc.property(text, (sentence) => {
        fc.pre(!/\[(pad|unk|cls)\]/i.test(sentence));
        const words = wordsOf(sentence);
        const tokenizer = wordTokenizer([...new Set(words)]);
        const [start, ...ids] = tokenizer.encode(sentence);
        expect(start).toBe(2);
        expect(ids.map((id) => [...new Set(words)][id - 3])).toEqual(words);
      }),
      { seed: 7, numRuns: 300 },
    );
  });

  test('words named like parts of Object are words', () => {
    const tokenizer = wordTokenizer(['constructor', 'hasownproperty', 'proto']);
    expect(tokenizer.encode('The constructor, hasOwnProperty __proto__')).toEqual([2, 1, 3, 1, 4, 1, 1, 5, 1, 1]);
  });
});

test('rows are those of scikit-learn', () => {
  const file = new URL('../linear/fixtures/linear-models.json', import.meta.url);
  const reference = JSON.parse(readFileSync(file, 'utf8')).tfidf;
  const { words, idf } = vocabulary(reference.texts, 1000);
  const tokenizer = wordTokenizer(words);
  const rows = tfidfRows(
    reference.texts.map((text: string) => tokenizer.encode(text)),
    idf,
  );
  for (const [i, expected] of reference.rows.entries()) {
    const entries = new Map<string, number>();
    for (let k = rows.starts[i]!; k < rows.starts[i + 1]!; k++)
      entries.set(words[rows.columns[k]! - 3]!, rows.values[k]!);
    expect([...entries.keys()].sort()).toEqual(Object.keys(expected).sort());
    for (const [word, value] of entries) expect(value).toBeCloseTo(expected[word], 6); // float32
  }
});

describe('the method', () => {
  test('learns its examples, and the most frequent words are kept', async () => {
    const fitted = await tfidf.fit({ texts, labels, classes }, tfidf.defaults, context);
    const logits = await fitted.logits([...texts, 'refund my payment please']);
    const winners = Array.from({ length: 10 }, (_, i) => {
      const row = [...logits.subarray(3 * i, 3 * i + 3)];
      return row.indexOf(Math.max(...row));
    });
    expect(winners).toEqual([...labels, 1]);
    expect(vocabulary(texts, 2).words).toEqual(['is', 'my']);
  });

  test('its graph gives the same logits: repeated, unknown and no words', async () => {
    const fitted = await tfidf.fit({ texts, labels, classes }, tfidf.defaults, context);
    const asked = ['card card card refund', 'Card! is my CARD card', 'nothing knownhere', '', '🙂', ...texts];
    const [direct, graph] = [await fitted.logits(asked), await graphLogits(await fitted.graph(), asked)];
    expect(graph).toHaveLength(direct.length);
    direct.forEach((value, i) => {
      expect(Math.abs(graph[i]! - value), `logit ${i}`).toBeLessThan(1e-5); // float32 sums in another order
    });
  });

  test('a wrong option is refused', () => {
    expect(tfidf.schema.safeParse({ C: -1 }).success).toBe(false);
    expect(tfidf.schema.safeParse({ c: 1 }).success).toBe(false);
  });
});
