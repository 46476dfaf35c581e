import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { compile, constant, type HostTensor } from '@fewtune/engine';
import { type Encoder, loadEncoder, padBatch } from '@fewtune/models';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { CachedFeatures } from './features.js';
import type { FitContext } from './method.js';
import { prototype } from './metric/prototype.js';

const sentences = ['my card was swallowed', 'where is my card', 'refund me please', 'I want my money back, now!'];
const labels = Int32Array.of(0, 0, 1, 1);

let folder: string;
let encoder: Encoder;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fewtune-head-'));
  encoder = await loadEncoder();
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test('features are kept on disk: a second source computes nothing', async () => {
  const cache = join(folder, 'cache');
  await using first = new CachedFeatures(encoder, { cache, threads: 1 });
  const computed = await first.features([...sentences, sentences[0]!]);
  expect(computed.subarray(0, encoder.hidden)).toEqual(computed.subarray(-encoder.hidden));
  const length = Math.hypot(...computed.subarray(0, encoder.hidden));
  expect(length).toBeCloseTo(1, 5);
  // An encoder that cannot compute: whatever comes, comes from the disk.
  await using second = new CachedFeatures({ ...encoder, weights: {} }, { cache, threads: 1 });
  expect(await second.features(sentences)).toEqual(computed.subarray(0, -encoder.hidden));
  await expect(second.features(['never seen'])).rejects.toThrow();
});

test('a cache that cannot be written is said once, and features come all the same', async () => {
  await writeFile(join(folder, 'file'), 'in the way');
  const warnings: string[] = [];
  const options = { cache: join(folder, 'file'), threads: 1, onWarning: (text: string) => warnings.push(text) };
  await using source = new CachedFeatures(encoder, options);
  await source.features(sentences.slice(0, 1));
  await source.features(sentences.slice(1, 2));
  expect(warnings).toHaveLength(1);
  expect(warnings[0]).toMatch(/FEWTUNE_CACHE/);
});

test('an abort interrupts', async () => {
  await using source = new CachedFeatures(encoder, { cache: false, threads: 1 });
  await expect(source.features(sentences, { signal: AbortSignal.abort() })).rejects.toMatchObject({
    code: 'INTERRUPTED',
  });
});

test('the graph of a head on the encoder gives the logits of the head on cached features', async () => {
  await using source = new CachedFeatures(encoder, { cache: false, threads: 1 });
  const context: FitContext = { encoder: async () => encoder, features: async () => source, seed: 7, threads: 1 };
  const fitted = await prototype.fit(
    { texts: sentences, labels, classes: ['card', 'refund'] },
    prototype.defaults,
    context,
  );
  const graph = await fitted.graph();
  const ids = { dtype: 'int64', shape: ['batch', 'seq'] } as const;
  const program = await compile(
    ({ inputIds, attentionMask }) => {
      const weights = Object.fromEntries(Object.entries(graph.weights).map(([name, w]) => [name, constant(w, name)]));
      return { logits: graph.forward(weights, { inputIds, attentionMask }).logits };
    },
    { inputIds: ids, attentionMask: ids },
    { threads: 1 },
  );
  const batch = padBatch(
    sentences.map((text) => encoder.tokenizer.encode(text)),
    encoder.tokenizer.padId,
  );
  const { logits } = await program.run(batch);
  await program.dispose();
  const direct = await fitted.logits(sentences);
  const scale = Math.max(...direct.map(Math.abs));
  // Padding changes the order of float32 sums; logits are cosines over a temperature.
  direct.forEach((value, i) => {
    expect(Math.abs(((logits as HostTensor).data[i] as number) - value)).toBeLessThan(1e-4 * scale);
  });
});
