import { isQuantized, quantizeEncoder } from '@fewtune/models';
import { describe, expect, test } from 'vitest';
import { tinyEncoder, tinyTask } from '../tune/tiny-task.fixture.js';
import { tune } from '../tune/tune.js';
import { adaptationOf } from './adaptations.js';
import { adaptEncoder, checkAdapter } from './adapter.js';
import { adapterFiles, adapterFromFiles } from './peft-files.js';

const { examples, task } = tinyTask(24);
const options = { epochs: 12, batchSize: 8, lr: 1e-2, headLr: 3e-2 };

describe.each(['int8', 'int4', 'nf4'] as const)('LoRA on a base in %s', (base) => {
  test('learns; what comes out computes with the base that it was trained on; the files say how it was held', async () => {
    await using tuned = await tune(tinyEncoder, examples, task, adaptationOf('lora', { rank: 4, base }), options);
    const { steps } = tuned.history;
    expect(steps.at(-1)!.loss).toBeLessThan(0.5 * steps[0]!.loss);

    const adapter = adapterFromFiles(adapterFiles(tuned.adapter!));
    expect(adapter.base?.quantization).toMatchObject({ bits: base === 'int8' ? 8 : 4 });
    expect(adapter.base?.fingerprint).toBe(tinyEncoder.fingerprint);
    const held = quantizeEncoder(tinyEncoder, adapter.base!.quantization);
    checkAdapter(held, adapter);
    checkAdapter(tinyEncoder, adapter);
    const again = adaptEncoder(held, adapter).weights;
    const merged = tuned.encoder().weights;
    const name = 'encoder.layer.1.output.dense.weight';
    expect(again[name]!.data).toEqual(merged[name]!.data);
    expect(isQuantized(merged['embeddings.word_embeddings.weight']!)).toBe(true); // what no adapter changed stays so
  });
});

test.each([
  ['lora', { dora: true }],
  ['lora', { init: 'pissa' }],
  ['ia3', {}],
  ['vera', { rank: 8 }],
  ['bitfit', {}],
] as const)('%s %j on an encoder that is quantised is as on its values', async (name, given) => {
  const held = quantizeEncoder(tinyEncoder, { bits: 4 });
  const values = Object.entries(held.weights).map(([key, { dtype, shape, data }]) => [key, { dtype, shape, data }]);
  const plain = { ...held, weights: Object.fromEntries(values) };
  const losses = async (encoder: typeof held) => {
    await using tuned = await tune(encoder, examples, task, adaptationOf(name, given), {
      ...options,
      epochs: 2,
      lr: 5e-3,
    });
    return tuned.history.steps.map(({ loss }) => loss);
  };
  const [ours, theirs] = [await losses(held), await losses(plain)];
  for (const [i, loss] of ours.entries()) expect(loss).toBeCloseTo(theirs[i]!, 3);
});
