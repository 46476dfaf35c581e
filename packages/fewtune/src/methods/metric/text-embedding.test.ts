import { type Encoder, loadEncoder, SentenceEmbedder } from '@fewtune/models';
import { beforeAll, expect, test } from 'vitest';
import { tinyCheckpoint } from '../../../../models/src/tiny-checkpoint.fixture.js';
import { episodeSampler } from '../../data/episodes.js';
import { createRandom } from '../../data/random.js';
import { unitRows } from '../../evaluation/distances.js';
import { episodeAccuracy } from './episode-accuracy.js';
import { letters, train, unseen } from './letters.fixture.js';
import { MetricLearner } from './metric-learner.js';
import { textEmbedding } from './text-embedding.js';

let encoder: Encoder;
beforeAll(async () => {
  encoder = await loadEncoder(await tinyCheckpoint('bert'));
});

test('at the start embeddings are the encoder’s, and learned ones are those of the merged encoder', async () => {
  const model = textEmbedding({ encoder, rank: 2 });
  const texts = ['a b c', 'd', 'e f a b c d g'];
  const compare = async (start: Parameters<typeof model.encoderOf>[0], of: Encoder) => {
    await using learner = new MetricLearner({ model, start, threads: 1 });
    await using embedder = await SentenceEmbedder.create(of, { threads: 1 });
    const { data } = await learner.embed(model.inputsOf(texts));
    const found = unitRows(data as Float32Array, model.dim);
    (await embedder.embed(texts)).forEach((value, i) => {
      expect(found[i]).toBeCloseTo(value, 4);
    });
    return found;
  };
  const before = await compare(model.weights, encoder);
  const random = createRandom(3);
  const learned = Object.fromEntries(
    Object.entries(model.weights).map(([name, tensor]) => [
      name,
      { ...tensor, data: (tensor.data as Float32Array).map((value) => value + random.gaussian() / 4) },
    ]),
  );
  const after = await compare(learned, model.encoderOf(learned));
  expect(Math.max(...after.map((value, i) => Math.abs(value - before[i]!)))).toBeGreaterThan(0.05);
});

test('prototypical networks with a contrast of two views tell unseen classes apart', async () => {
  const model = textEmbedding({ encoder });
  const shape = { ways: 8, shots: 3, queries: 3 };
  const sampler = episodeSampler({ labels: train.labels, shape, seed: 1 });
  const dropout = { probability: 0.1, random: createRandom(5) };
  const batches = [...sampler.batches(1, 60)].map((batch) =>
    batch.map((episode) => model.taskOf(train, episode, dropout)),
  );
  await using learner = new MetricLearner({
    model,
    metric: 'cosine',
    lr: 5e-3,
    viewContrast: 0.1,
    threads: 1,
  });
  const { epochLosses } = await learner.metaTrain(batches).result;
  expect(epochLosses).toHaveLength(1);
  const before = await episodeAccuracy(encoder, unseen, { threads: 1 });
  const after = await episodeAccuracy(model.encoderOf(learner.weights), unseen, { threads: 1 });
  expect(after).toBeGreaterThan(before + 0.1);
});

test('dropout leaves out tokens of its own in each view', () => {
  const source = letters(['fg', 'hi'], 4, 1);
  const model = textEmbedding({ encoder, rank: 1 });
  const episode = episodeSampler({ labels: source.labels, shape: { ways: 2, shots: 2, queries: 1 }, seed: 1 }).episode(
    0,
  );
  const plain = model.taskOf(source, episode);
  expect(plain.views).toBeUndefined();
  const tokens = plain.x.places!.shape[0]!;
  const { x, views } = model.taskOf(source, episode, { probability: 0.5, random: createRandom(1) });
  expect(x.places!.shape[0]).toBeLessThan(tokens);
  expect([...views!.inputIds!.data].join()).not.toBe([...x.inputIds!.data].join());
});

test('layers that are not there are refused', () => {
  expect(() => textEmbedding({ encoder, targets: ['quarry'] })).toThrow(/no linear layer of this encoder/);
});
