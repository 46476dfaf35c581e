import { readSafetensors } from '@fewtune/models';
import { describe, expect, test } from 'vitest';
import { type Adapter, applyAdapter, mergeAdapter } from './adapter.js';
import { type Combination, combinations, combineAdapters } from './combine-adapters.js';
import { adapterFiles, adapterFromFiles } from './peft-files.js';
import {
  adapterFolder,
  constants,
  hiddenStates,
  largestDifference,
  readLora,
  tinyWeights,
} from './tiny-bert.fixture.js';

const expected = (await readSafetensors(adapterFolder('combinations.safetensors'))).tensors;
const one = await readLora('lora');
const other = await readLora('lora-other');
const parts = [
  { adapter: one, weight: 0.7 },
  { adapter: other, weight: -0.4 },
];

const compute = (adapter: Adapter) =>
  hiddenStates(tinyWeights, (weights) => applyAdapter(adapter, weights, constants(adapter.weights)));

describe('against Python PEFT', () => {
  const inPython: [Combination, string][] = [
    ['linear', 'linear'],
    ['cat', 'cat'],
    ['svd', 'svd'],
    ['ties', 'ties'],
    ['tiesSvd', 'ties_svd'],
    ['magnitudePrune', 'magnitude_prune'],
    ['magnitudePruneSvd', 'magnitude_prune_svd'],
  ];
  test.each(inPython)('%s', async (method, name) => {
    const hidden = await compute(adapterFromFiles(adapterFiles(combineAdapters(parts, { method, density: 0.5 }))));
    const reference = expected[name]!.data as Float32Array;
    expect(largestDifference(hidden, reference)).toBeLessThan(method.endsWith('vd') ? 1e-4 : 1e-5); // an iteration
    expect(largestDifference(hidden, await hiddenStates(tinyWeights))).toBeGreaterThan(5e-3);
  });
});

test('one adapter of weight 1 is itself, however it is combined with nothing dropped', async () => {
  const itself = await compute(one);
  for (const method of combinations) {
    const same = combineAdapters([{ adapter: one, weight: 1 }], { method, density: 1 });
    expect(largestDifference(await compute(same), itself), method).toBeLessThan(1e-4);
  }
});

test('cat is the sum of the updates, whatever the ranks', async () => {
  const patterned = await readLora('rslora-patterns');
  const sum = mergeAdapter(mergeAdapter(tinyWeights, one), patterned);
  const joined = combineAdapters(
    [one, patterned].map((adapter) => ({ adapter, weight: 1 })),
    { method: 'cat' },
  );
  expect(largestDifference(await compute(joined), await hiddenStates(sum))).toBeLessThan(1e-5);
});

test('DARE keeps the mean of the entries, and the seed decides which', () => {
  const name = 'encoder.layer.0.attention.self.query.lora_A.weight';
  const drop = (seed: number) =>
    combineAdapters([{ adapter: one, weight: 0.5 }], { method: 'dareLinear', seed }).weights[name]!;
  expect(drop(1)).toEqual(drop(1));
  expect(drop(1)).not.toEqual(drop(2));
  const original = one.weights[name]!.data as Float32Array; // scale 2 × weight 0.5, so √1 to each side
  const mean = new Float64Array(original.length);
  const draws = 400;
  for (let seed = 0; seed < draws; seed++)
    drop(seed).data.forEach((value, i) => {
      mean[i]! += Number(value) / draws;
    });
  // An entry is 0 or twice itself: the mean of 400 deviates by a twentieth of it.
  original.forEach((value, i) => {
    expect(Math.abs(mean[i]! - value)).toBeLessThan(0.25 * Math.abs(value));
  });
});

test('what cannot be combined is refused', async () => {
  const patterned = { adapter: await readLora('rslora-patterns'), weight: 1 };
  expect(() => combineAdapters([])).toThrow(/there are none/);
  expect(() => combineAdapters([...parts, patterned], { method: 'linear' })).toThrow(/query.*linear needs equal/);
  expect(() => combineAdapters(parts, { density: 0 })).toThrow(/density of 0/);
  expect(() => combineAdapters(parts, { rank: 0 })).toThrow(/rank of 0/);
  expect(() => combineAdapters(parts, { method: 'sum' as Combination })).toThrow(/"sum"; there are cat, linear/);
  const dora = { adapter: await readLora('dora'), weight: 1 };
  expect(() => combineAdapters([dora])).toThrow(/lora_magnitude_vector/);
  const on = (fingerprint: string) => ({ adapter: { ...one, base: { fingerprint } }, weight: 1 });
  expect(() => combineAdapters([on('a'), on('b')])).toThrow(/different encoders/);
});
