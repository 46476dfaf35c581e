import type { Encoder } from '@fewtune/models';
import { describe, expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { adaptationOf } from '../peft/adaptations.js';
import { classification } from './tasks/classification.js';
import { tinyEncoder } from './tiny-task.fixture.js';
import { tune } from './tune.js';

/** "a" + "b" as 2 a 3 b 3, the second text with type 1. */
const pairEncoder = {
  ...tinyEncoder,
  tokenizer: {
    ...tinyEncoder.tokenizer,
    encodePair(first: string, second: string) {
      const [a, b] = [first, second].map((text) => text.split(' ').map(Number));
      return { ids: [2, ...a!, 3, ...b!, 3], types: [0, ...a!.map(() => 0), 0, ...b!.map(() => 1), 1] };
    },
  },
} as unknown as Encoder;

describe('pairs of texts', () => {
  const random = createRandom(3);
  const word = () => String(10 + random.int(10));
  const texts = Array.from({ length: 24 }, word);
  const pairs = texts.map((text, i) => (i % 2 ? text : word()));
  const task = classification(
    texts.map((text, i) => Number(text === pairs[i])),
    ['other', 'same'],
  );
  const options = { epochs: 2, batchSize: 8, lr: 1e-3, validation: { on: 0.25 } };

  test('both are read, the second with types of its own', async () => {
    await using tuned = await tune(pairEncoder, { texts, pairs }, task, adaptationOf('full'), options);
    expect(tuned.history.looks).toHaveLength(2);
    const [one, swapped, plain] = [
      await tuned.logits(['10', '11'], { pairs: ['11', '12'] }),
      await tuned.logits(['11', '12'], { pairs: ['10', '11'] }),
      await tuned.logits(['2 10 3 11 3', '2 11 3 12 3']), // the same ids without types
    ];
    expect(one).toHaveLength(4);
    for (const other of [swapped, plain]) expect(Math.abs(one[0]! - other[0]!)).toBeGreaterThan(1e-5);
    // Fine-tuning moved the second row of types.
    const name = 'embeddings.token_type_embeddings.weight';
    const [before, after] = [tinyEncoder.weights[name]!.data, tuned.encoder().weights[name]!.data];
    expect(after[16]).not.toBe(before[16]);
  });

  test('what cannot be is refused', async () => {
    const lora = adaptationOf('lora');
    await expect(tune(pairEncoder, { texts, pairs: ['1'] }, task, lora)).rejects.toThrow(/24 texts and 1 second/);
    await expect(tune(pairEncoder, { texts, pairs }, task, lora, { tokenDropout: 0.1 })).rejects.toThrow(
      /tokenDropout/,
    );
  });
});
