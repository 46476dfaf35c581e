import { mkdtemp, readdir, rm, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { HostTensor, Named } from '@fewtune/engine';
import { afterAll, describe, expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { adaptationOf } from '../peft/adaptations.js';
import { cachedLayers, gradually, layerOf, lowestTrained, stagesOf } from '../peft/trained-layers.js';
import { ActivationCache, activationBytes } from './activation-cache.js';
import { tokenise } from './examples.js';
import { tinyEncoder, tinyTask } from './tiny-task.fixture.js';
import { tune } from './tune.js';

const { examples, task } = tinyTask(24);
const folder = await mkdtemp(join(tmpdir(), 'fewtune-activations-'));
afterAll(() => rm(folder, { recursive: true, force: true }));

const farthest = (a: Named<HostTensor>, b: Named<HostTensor>) =>
  Math.max(
    ...Object.entries(a).flatMap(([name, { data }]) =>
      Array.from(data as Float32Array, (value, i) => Math.abs(value - (b[name]!.data[i] as number))),
    ),
  );

const topLora = adaptationOf('lora', { targets: '*.layer.1.*' });
const disk = { memoryBytes: 0, folder };

describe('what is trained', () => {
  test('a weight belongs to the layer in its name; tables and what layers share stand below all', () => {
    expect(layerOf('encoder.layer.5.output.dense.weight')).toBe(5);
    expect(layerOf('transformer.layer.11.ffn.lin1.lora_A.weight')).toBe(11);
    expect(layerOf('classifier.weight')).toBeUndefined();
    expect(layerOf('encoder.relative_attention_bias.weight')).toBe(-1);
    expect(lowestTrained(['encoder.layer.4.a', 'encoder.layer.3.b', 'classifier.bias'], 6)).toBe(3);
    expect(lowestTrained(['encoder.layer.4.a', 'embeddings.LayerNorm.bias'], 6)).toBe(-1);
    expect(lowestTrained(['classifier.bias'], 6)).toBe(6);
  });

  test('gradual unfreezing of four layers in six epochs, by hand', () => {
    expect(gradually(6, 4)).toEqual([3, 2, 1, 0, -1, -1]);
    expect(gradually(4, 4, 2)).toEqual([3, 2, 2, 2]);
  });

  test('states are kept where that saves most: layers times the epochs after the first that use them', () => {
    expect(cachedLayers([5, 5, 5])).toBe(5);
    expect(cachedLayers([5])).toBe(0);
    expect(cachedLayers([-1, -1])).toBe(0);
    // After 3 layers: epochs 5, 4 and 3 use them, which saves 3 · 2; after 4 only 4 · 1, after 2 as much as after 3.
    expect(cachedLayers([5, 4, 3, 2, 1, 0, -1])).toBe(3);
    const cached = { epochs: 4, unfreeze: 'gradual', cached: true } as const;
    expect(stagesOf(['encoder.layer.2.a', 'encoder.layer.0.a'], 3, cached)).toEqual([
      { lowest: 2, from: 1 },
      { lowest: 1, from: 1 },
      { lowest: 0, from: 0 },
      { lowest: 0, from: 0 },
    ]);
  });
});

describe('training on kept states is training without them', () => {
  const run = (adapt: typeof topLora, cacheActivations: boolean | typeof disk, other: object = {}) =>
    tune(tinyEncoder, examples, task, adapt, {
      epochs: 3,
      batchSize: 8,
      lr: 5e-3,
      validation: { on: 0.25, keep: 'last' },
      cacheActivations,
      ...other,
    });
  const kinds = [
    ['lora in the top layer', topLora],
    ['the top layer itself', adaptationOf('full', { layers: 1 })],
    [
      'factors in the top layer',
      adaptationOf('ia3', { targets: '*.layer.1.attention.self.value', feedforward: 'none' }),
    ],
  ] as const;

  test.each(kinds)('%s, in memory and on disk', async (_, adapt) => {
    const plain = await run(adapt, false);
    for (const kept of [true, disk]) {
      const cached = await run(adapt, kept);
      expect(farthest({ ...plain.params, ...plain.head }, { ...cached.params, ...cached.head })).toBeLessThan(1e-5);
      for (const [i, { loss, score }] of plain.history.looks.entries()) {
        expect(cached.history.looks[i]!.loss).toBeCloseTo(loss, 5);
        expect(cached.history.looks[i]!.score.value).toBe(score.value);
      }
      const [before, after] = [await plain.logits(examples.texts), await cached.logits(examples.texts)];
      expect(Math.max(...before.map((value, i) => Math.abs(value - after[i]!)))).toBeLessThan(1e-4);
    }
    expect(await readdir(folder)).toEqual([]);
    expect(farthest(plain.params, (await run(adapt, true, { lr: 1e-3 })).params)).toBeGreaterThan(1e-3);
  });

  test('with gradual unfreezing, whose first epochs use them', async () => {
    const gradual = { unfreeze: 'gradual', epochs: 4, warmup: 0 };
    const [plain, cached] = [
      await run(adaptationOf('full'), false, gradual),
      await run(adaptationOf('full'), 'auto' as never, gradual),
    ];
    expect(farthest(plain.params, cached.params)).toBeLessThan(1e-5);
  });

  test('where states cannot be kept, `auto` does without and `true` is an error that says why', async () => {
    const dropped = { tokenDropout: 0.2 };
    expect(
      farthest((await run(topLora, 'auto' as never, dropped)).params, (await run(topLora, false, dropped)).params),
    ).toBe(0);
    await expect(run(topLora, true, dropped)).rejects.toThrow(/cacheActivations.*tokenDropout is 0.2/);
    await expect(run(adaptationOf('lora'), true)).rejects.toThrow(/cacheActivations.*lowest layer is trained/);
  });
});

describe('the cache', () => {
  const tokens = tokenise(tinyEncoder, { texts: [...examples.texts, examples.texts[0]!, examples.texts[3]!] });
  const adaptation = async () => topLora(tinyEncoder, tokens.ids, createRandom(1));
  const some = { ids: [3, 0, 25, 11].map((row) => tokens.ids[row]!) };

  test('computes each distinct sentence once, and gives its states from memory and from disk', async () => {
    const given = await adaptation();
    await using memory = await ActivationCache.create(tinyEncoder, given, tokens, 1);
    expect([memory.computed, memory.onDisk]).toEqual([new Set(examples.texts).size, false]);
    expect(memory.bytes).toBe(activationBytes(tokens, 16));
    const expected = await memory.states(some);
    expect(expected.shape).toEqual([some.ids.flat().length, 16]);
    await using file = await ActivationCache.create(tinyEncoder, given, tokens, 1, disk);
    expect(file.onDisk).toBe(true);
    expect(await file.states(some)).toEqual(expected);
    await using halved = await ActivationCache.create(tinyEncoder, given, tokens, 1, { ...disk, dtype: 'float16' });
    expect(halved.bytes).toBe(memory.bytes / 2);
    const { data } = await halved.states(some);
    expect(
      Math.max(...(data as Float32Array).map((value, i) => Math.abs(value - Number(expected.data[i])))),
    ).toBeLessThan(2e-3);
  });

  test('a file that is to stay is used again, unless it is not whole or the weights below are others', async () => {
    const given = await adaptation();
    const keep = { ...disk, keep: true };
    await (await ActivationCache.create(tinyEncoder, given, tokens, 1, keep)).dispose();
    const [name] = await readdir(folder);
    const again = await ActivationCache.create(tinyEncoder, given, tokens, 1, keep);
    expect(again.computed).toBe(0);
    await again.dispose();
    await truncate(join(folder, name!), 100);
    const repaired = await ActivationCache.create(tinyEncoder, given, tokens, 1, keep);
    expect(repaired.computed).toBeGreaterThan(0);
    await repaired.dispose();
    const table = 'embeddings.LayerNorm.bias';
    const moved = { ...given.frozen[table]!, data: (given.frozen[table]!.data as Float32Array).map((x) => x + 1) };
    const other = { ...given, frozen: { ...given.frozen, [table]: moved } };
    await using fresh = await ActivationCache.create(tinyEncoder, other, tokens, 1, disk);
    expect(fresh.computed).toBeGreaterThan(0);
    expect(await readdir(folder)).toHaveLength(2);
  });

  test('a sentence it was not made for, a folder that cannot be written, and an interrupt are told', async () => {
    const given = await adaptation();
    await using cache = await ActivationCache.create(tinyEncoder, given, tokens, 1);
    await expect(cache.states({ ids: [[2, 29, 3]] })).rejects.toMatchObject({ code: 'INTERNAL' });
    const [file] = await readdir(folder);
    const nowhere = { memoryBytes: 0, folder: join(folder, file!, 'inside') };
    await expect(ActivationCache.create(tinyEncoder, given, tokens, 1, nowhere)).rejects.toMatchObject({
      code: 'OUTPUT_UNWRITABLE',
      message: expect.stringMatching(/FEWTUNE_CACHE/),
    });
    const before = await readdir(folder);
    const aborted = { signal: AbortSignal.abort() };
    await expect(ActivationCache.create(tinyEncoder, given, some, 1, disk, aborted)).rejects.toMatchObject({
      code: 'INTERRUPTED',
    });
    expect(await readdir(folder)).toEqual(before);
  });
});
