import type { Encoder } from '@fewtune/models';
import { expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { withoutPooler } from './adaptation.js';
import { type AdaptationName, adaptationOf, adaptations } from './adaptations.js';
import { tinyConfig, tinyWeights } from './tiny-bert.fixture.js';

const weights = withoutPooler(tinyWeights);
const encoder = { config: tinyConfig, weights, tokenizer: { padId: 0 } } as unknown as Encoder;
const ids = [
  [2, 5, 3],
  [2, 9, 8, 7, 3],
];

const names = Object.keys(adaptations) as AdaptationName[];
/** What is computed along with the encoder begins as it too, but for virtual tokens: additions.test.ts. */
const added: readonly string[] = ['bottleneck', 'loreft', 'prefix', 'prompt'];

test.each(names.filter((name) => !added.includes(name)))('%s begins as the encoder it is made for', async (name) => {
  const { params, merge } = await adaptationOf(name, name === 'vera' ? { rank: 8 } : {})(encoder, ids, createRandom(1));
  expect(Object.keys(params).length).toBeGreaterThan(0);
  const merged = merge(params);
  expect(Object.keys(merged).sort()).toEqual(Object.keys(weights).sort());
  for (const [key, { data }] of Object.entries(merged)) {
    const base = weights[key]!.data as Float32Array;
    expect(Math.max(...(data as Float32Array).map((value, i) => Math.abs(value - base[i]!))), key).toBeLessThan(1e-6);
  }
});

test('an unknown name and unknown options are refused with those there are', () => {
  expect(() => adaptationOf('lorra' as 'lora')).toThrow(/no way of fine-tuning is named "lorra"; near are lora/);
  expect(() => adaptationOf('lora', { rank: 0 })).toThrow(/lora: rank: .*rank=8/);
  expect(() => adaptationOf('bitfit', { rank: 8 } as never)).toThrow(/has no options/);
});
