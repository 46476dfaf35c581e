import type { Encoder } from '@fewtune/models';
import { createRandom } from '../../data/random.js';
import { tinyConfig, tinyWeights } from '../peft/tiny-bert.fixture.js';
import { classification } from './tasks/classification.js';

/** The tiny BERT; its sentences are token ids: "2 5 3". */
export const tinyEncoder = {
  id: 'tiny',
  config: tinyConfig,
  hidden: 16,
  layers: 2,
  pooling: 'mean',
  weights: tinyWeights,
  tokenizer: { encode: (text: string) => text.split(' ').map(Number), padId: 0, maxLength: 8, files: {} },
  fingerprint: 'f',
} as unknown as Encoder;

/** Sentences of several lengths, their words the lower ones of twenty in one class, the upper ones in the other. */
export function tinyTexts(count: number, seed = 1): { texts: string[]; labels: number[] } {
  const random = createRandom(seed);
  const labels = Array.from({ length: count }, (_, i) => i % 2);
  const texts = labels.map((label) => {
    const words = Array.from({ length: 2 + random.int(6) }, () => 10 + 10 * label + random.int(10));
    return ['2', ...words, '3'].join(' ');
  });
  return { texts, labels };
}

/** The examples with their task. */
export function tinyTask(count: number, seed = 1) {
  const { texts, labels } = tinyTexts(count, seed);
  return { examples: { texts }, labels, task: classification(labels, ['lower', 'upper']) };
}
