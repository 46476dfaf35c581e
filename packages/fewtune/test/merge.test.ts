import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type HostTensor, hostTensor } from '@fewtune/engine';
import { loadEncoder } from '@fewtune/models';
import { afterAll, expect, test } from 'vitest';
import { encoderFiles } from '../src/artifact/encoder-folder.js';
import { writeFolder } from '../src/artifact/folder.js';
import { createRandom } from '../src/data/random.js';
import type { Ia3Adapter, LoraAdapter } from '../src/methods/peft/adapter.js';
import { startLora } from '../src/methods/peft/lora-start.js';
import { largestWeightDifference, measureMerge, mergeInto, unmergeFrom } from '../src/methods/peft/merge.js';
import { subjectTexts } from './onnx-base.js';
import { writeTinyEncoder } from './tiny-encoder.js';

const folder = await mkdtemp(join(tmpdir(), 'fewtune-merge-'));
afterAll(() => rm(folder, { recursive: true, force: true }));
await writeTinyEncoder(join(folder, 'tiny'), subjectTexts);
const encoder = await loadEncoder(join(folder, 'tiny'));

const filled = (weights: Readonly<Record<string, HostTensor>>, make: () => number) =>
  Object.fromEntries(
    Object.entries(weights).map(([name, { shape, data }]) => [
      name,
      hostTensor('float32', shape, Float32Array.from(data as Float32Array, make)),
    ]),
  );

function lora(seed: number, dora = false): LoraAdapter {
  const random = createRandom(seed);
  const { adapter } = startLora(encoder.weights, { rank: 3, alpha: 6, targets: 'all-linear', dora }, random);
  return { ...adapter, weights: { ...adapter.weights, ...filled(adapter.weights, () => 0.2 * random.gaussian()) } };
}

const module = 'encoder.layer.0.attention.self.query';
const ia3: Ia3Adapter = {
  method: 'ia3',
  weights: {
    [`${module}.ia3_l`]: hostTensor(
      'float32',
      [32, 1],
      Float32Array.from({ length: 32 }, (_, i) => 0.5 + i / 20),
    ),
  },
};

test('merging costs rounding only, and what it did is measured', async () => {
  for (const weight of [1, 0.4, -1]) {
    const merged = mergeInto(encoder, lora(1), weight);
    const report = await measureMerge(encoder, lora(1), merged, subjectTexts, { weight });
    expect(report.texts).toBe(subjectTexts.length);
    expect(report.largestDifference).toBeLessThan(1e-5);
    expect(report.largestChange).toBeGreaterThan(1e-2);
  }
  const wrong = await measureMerge(encoder, lora(1), mergeInto(encoder, lora(2)), subjectTexts);
  expect(wrong.largestDifference).toBeGreaterThan(1e-2);
});

test('half the weight is half the update', () => {
  const [half, whole] = [mergeInto(encoder, lora(1), 0.5), mergeInto(encoder, lora(1))];
  const name = `${module}.weight`;
  const update = (of: typeof encoder, i: number) =>
    (of.weights[name]!.data[i] as number) - (encoder.weights[name]!.data[i] as number);
  for (const i of [0, 17, 500]) expect(update(half, i)).toBeCloseTo(update(whole, i) / 2, 6);
});

test.each([
  ['LoRA', lora(3)],
  ['(IA)³', ia3],
])('%s comes out of merged weights again, but for rounding', (_, adapter) => {
  for (const weight of [1, 0.3]) {
    const merged = mergeInto(encoder, adapter, weight);
    expect(largestWeightDifference(merged.weights, encoder.weights)).toBeGreaterThan(1e-2);
    const back = unmergeFrom(merged, adapter, weight);
    expect(largestWeightDifference(back.weights, encoder.weights)).toBeLessThan(1e-6);
  }
});

test('what cannot be shared or taken out is refused', () => {
  const dora = lora(4, true);
  expect(() => mergeInto(encoder, dora, 0.5)).toThrow(/DoRA/);
  expect(() => unmergeFrom(mergeInto(encoder, dora), dora)).toThrow(/norms that are gone/);
  const zero = { ...ia3, weights: { [`${module}.ia3_l`]: hostTensor('float32', [32, 1], new Float32Array(32)) } };
  expect(() => unmergeFrom(mergeInto(encoder, zero), zero)).toThrow(/factor of 0/);
  const bias = { 'encoder.layer.0.output.dense.bias': hostTensor('float32', [32], new Float32Array(32).fill(1)) };
  const saved = { ...lora(1), saved: bias };
  expect(() => unmergeFrom(mergeInto(encoder, saved), saved)).toThrow(/as a whole/);
  expect(() => mergeInto(encoder, { ...lora(1), base: { fingerprint: 'x' } })).toThrow(/fingerprint/);
  expect(() => mergeInto(encoder, lora(1), Number.NaN)).toThrow(/give a number/);
});

test('a merged encoder is written as others read it', async () => {
  const merged = mergeInto(encoder, lora(1));
  await writeFolder(join(folder, 'merged'), encoderFiles(merged));
  const again = await loadEncoder(join(folder, 'merged'));
  expect(again.weights).toEqual(merged.weights);
  expect(again).toMatchObject({ pooling: 'mean', hidden: 32, config: merged.config });
  expect(again.tokenizer.encode('my card')).toEqual(merged.tokenizer.encode('my card'));
});
