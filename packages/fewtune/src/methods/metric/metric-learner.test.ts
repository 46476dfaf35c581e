import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type HostTensor, hostTensor, linear, normals, relu } from '@fewtune/engine';
import { conv4 } from '@fewtune/models';
import { afterAll, describe, expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { type EmbeddingModel, imageEmbedding } from './embedding-model.js';
import { MetricLearner } from './metric-learner.js';
import type { MetricLearnerOptions } from './metric-options.js';
import type { MetricTask } from './metric-task.js';

const inputs = 12;
const folder = mkdtempSync(join(tmpdir(), 'fewtune-metric-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** A dense layer or two over `rows` [rows, 12]. */
function dense(dim = 8, hidden = 24): EmbeddingModel {
  const normal = normals(3);
  const he = (rows: number, columns: number) =>
    hostTensor(
      'float32',
      [rows, columns],
      Array.from({ length: rows * columns }, () => normal() / Math.sqrt(columns)),
    );
  return {
    weights: { 'a.weight': he(hidden, inputs), 'b.weight': he(dim, hidden) },
    dim,
    inputs: { rows: { dtype: 'float32', shape: ['rows', inputs] } },
    embed: (w, { rows }) => linear(relu(linear(rows!, w['a.weight']!)), w['b.weight']!),
  };
}

/** Two of twelve numbers tell classes apart; the noise in the others is larger than what they differ by. */
function task(seed: number, { ways = 5, shots = 3, queries = 6 } = {}): MetricTask {
  const random = createRandom(seed);
  const means = Array.from({ length: ways }, () => [random.gaussian() * 2, random.gaussian() * 2]);
  const draw = (each: number) =>
    Array.from({ length: ways * each }, (_, row) =>
      Array.from({ length: inputs }, (_, i) => {
        const mean = means[Math.floor(row / each)]![i];
        return mean === undefined ? random.gaussian() * 2 : mean + random.gaussian() * 0.4;
      }),
    ).flat();
  const labels = (each: number) => Int32Array.from({ length: ways * each }, (_, row) => Math.floor(row / each));
  const values = [...draw(shots), ...draw(queries)];
  const x = { rows: hostTensor('float32', [values.length / inputs, inputs], values) };
  return { x, views: x, support: labels(shots), query: labels(queries) };
}

const batches = (from: number, count: number, size = 2) =>
  Array.from({ length: count }, (_, i) => Array.from({ length: size }, (_, k) => task(1000 * from + size * i + k)));

function share(scores: HostTensor, answers: Int32Array): number {
  const ways = scores.shape[1]!;
  const hits = answers.filter((answer, row) => {
    const own = (scores.data as Float32Array).subarray(row * ways, (row + 1) * ways);
    return own.indexOf(Math.max(...own)) === answer;
  });
  return hits.length / answers.length;
}

async function accuracy(learner: MetricLearner): Promise<number> {
  let sum = 0;
  for (let i = 0; i < 40; i++) {
    const { x, support, query } = task(500_000 + i);
    sum += share(await learner.classify({ x, support, queries: query.length }), query);
  }
  return sum / 40;
}

describe.each<[string, Partial<MetricLearnerOptions>, number]>([
  ['euclidean prototypes', {}, 0.15],
  ['cosine prototypes', { metric: 'cosine' }, 0.15],
  ['a learned Mahalanobis metric', { metric: 'mahalanobis' }, 0.15],
  ['attention over the support, dimension weights', { attention: true, dimensionWeights: true }, 0.1],
  ['matching networks', { head: 'matching' }, 0.15],
  ['relation networks', { head: 'relation' }, 0.1],
  ['both regularisers', { viewContrast: 0.1, correlation: 0.01 }, 0.1],
])('%s', (_, options, gain) => {
  test('learned from episodes, they know unseen classes better', async () => {
    await using learner = new MetricLearner({ model: dense(), lr: 0.01, ...options });
    const before = await accuracy(learner);
    const { steps, epochLosses } = await learner.metaTrain(batches(1, 60), { epochs: 2 }).result;
    expect(steps).toBe(120);
    expect(epochLosses[1]!).toBeLessThan(epochLosses[0]!);
    expect(await accuracy(learner)).toBeGreaterThan(before + gain);
  });
});

test('a further support row of a way, as the embedding of its name, counts as one more example of it', async () => {
  await using learner = new MetricLearner({ model: dense() });
  const { x } = task(1, { ways: 2, shots: 1, queries: 1 });
  const values = x.rows!.data as Float32Array;
  const row = (i: number) => values.subarray(inputs * i, inputs * (i + 1));
  const given = (rows: Float32Array[]) => ({
    rows: hostTensor(
      'float32',
      [rows.length, inputs],
      rows.flatMap((r) => [...r]),
    ),
  });
  const named = { x: given([row(0), row(1), row(2), row(3)]), support: Int32Array.of(0, 1, 0), queries: 1 };
  const { data } = await learner.classify(named);
  const z = (await learner.embed(named.x)).data as Float32Array;
  const at = (i: number) => z.subarray(8 * i, 8 * (i + 1));
  const distance = (p: (i: number) => number) => at(3).reduce((sum, value, i) => sum + (value - p(i)) ** 2, 0);
  const [first, second] = [distance((i) => (at(0)[i]! + at(2)[i]!) / 2), distance((i) => at(1)[i]!)];
  expect(data[0]).toBeCloseTo(1 / (1 + Math.exp(first - second)), 5);
});

test('ways, shots and queries may differ from episode to episode', async () => {
  await using learner = new MetricLearner({ model: dense() });
  const mixed = [[task(1, { ways: 2, shots: 1 })], [task(2, { ways: 7, shots: 4, queries: 2 }), task(3)]];
  expect((await learner.metaTrain(mixed).result).steps).toBe(2);
});

test('a resumed run ends where one without a break does, bit for bit', async () => {
  const options = { model: dense(), metric: 'cosine', decaySteps: 16 } as const;
  const path = join(folder, 'run.safetensors');
  const all = batches(2, 8);
  await using whole = new MetricLearner(options);
  await whole.metaTrain(all, { epochs: 2 }).result;
  await using broken = new MetricLearner(options);
  const stop = new AbortController();
  const run = broken.metaTrain(all, {
    epochs: 2,
    checkpoint: { path, every: 5 },
    signal: stop.signal,
    onProgress: ({ step }) => step === 12 && stop.abort(),
  });
  await expect(run.result).rejects.toMatchObject({ code: 'INTERRUPTED' });
  await using resumed = new MetricLearner(options);
  const events: number[] = [];
  for await (const { step } of resumed.metaTrain(all, { epochs: 2, resume: path })) events.push(step);
  expect(events).toEqual([11, 12, 13, 14, 15, 16]);
  for (const [name, { data }] of Object.entries(whole.params)) {
    expect(Buffer.compare(Buffer.from(data.buffer), Buffer.from(resumed.params[name]!.data.buffer)), name).toBe(0);
  }
  await using other = new MetricLearner({ ...options, lr: 0.1 });
  const wrong = other.metaTrain(all, { epochs: 2, resume: path }).result;
  await expect(wrong).rejects.toThrow(`${path} is of a run with lr 0.001, not 0.1`);
  expect(readFileSync(path).length).toBeGreaterThan(1000);
});

test('a rate at which it diverges is lowered and told; a run resumed after that ends where one without a break does', async () => {
  const options = { model: dense(), lr: 1.5 };
  const path = join(folder, 'halved.safetensors');
  const all = batches(4, 20);
  await using whole = new MetricLearner(options);
  const warnings: string[] = [];
  const { rateHalvings, steps, epochLosses } = await whole.metaTrain(all, {
    onProgress: ({ warning }) => warning && warnings.push(warning),
  }).result;
  expect(rateHalvings).toBeGreaterThan(0);
  expect(warnings).toHaveLength(rateHalvings);
  expect(warnings[0]).toMatch(
    /^step \d+ diverged: the loss rose to .*\. lr is now 0\.75, and the weights are those of step 0/,
  );
  expect([steps, epochLosses.length]).toEqual([20, 1]);
  await using broken = new MetricLearner(options);
  const stop = new AbortController();
  const run = broken.metaTrain(all, {
    checkpoint: { path, every: 1 },
    signal: stop.signal,
    onProgress: ({ warning }) => warning && stop.abort(),
  });
  await expect(run.result).rejects.toMatchObject({ code: 'INTERRUPTED' });
  await using resumed = new MetricLearner(options);
  const ended = await resumed.metaTrain(all, { resume: path }).result;
  expect(ended).toEqual({ rateHalvings, steps, epochLosses });
  for (const [name, { data }] of Object.entries(whole.params)) expect(resumed.params[name]!.data).toEqual(data);
});

test('episodes worked on at once teach the same, to the bit', async () => {
  const learned = async (replicas?: number) => {
    await using learner = new MetricLearner({ model: dense(), threads: 1, replicas });
    await learner.metaTrain(batches(5, 4, 3)).result;
    return learner.params;
  };
  expect(await learned(2)).toEqual(await learned());
});

test('images: a query does not depend on the others, unless it is asked for', async () => {
  const model = imageEmbedding(conv4({ filters: 4, size: 16 }), { size: 16 });
  await using learner = new MetricLearner({ model });
  const images = (rows: number) => ({
    images: hostTensor('float32', [rows, 1, 16, 16], Array.from({ length: rows * 256 }, normals(5))),
  });
  const support = Int32Array.of(0, 0, 1, 1);
  const first = async (queries: number, transductive: boolean) =>
    (await learner.classify({ x: images(4 + queries), support, queries }, { transductive })).data[0] as number;
  expect(await first(5, false)).toBeCloseTo(await first(1, false), 5);
  expect(await first(5, true)).not.toBeCloseTo(await first(1, true), 3);
  expect((await learner.embed(images(3))).shape).toEqual([3, model.dim]);
});

test('what cannot be learned from is named', async () => {
  const make = (options: object) => () => new MetricLearner({ model: dense(), ...options });
  expect(make({ head: 'siamese' })).toThrow('head is "siamese"; it must be one of prototype, matching, relation');
  expect(make({ lr: 0 })).toThrow('lr is 0');
  expect(make({ replicas: 0 })).toThrow('replicas is 0');
  expect(make({ rank: 1.5 })).toThrow('rank is 1.5; it must be a whole number of at least 1');
  expect(make({ start: {} })).toThrow('start: "a.weight" is missing, it must be [24, 12]');
  await using learner = new MetricLearner({ model: dense() });
  const run = (given: Partial<MetricTask>) => learner.metaTrain([[{ ...task(1), ...given }]]).result;
  await expect(run({ support: new Int32Array(15) })).rejects.toMatchObject({ code: 'CLASS_SINGLE' });
  await expect(run({ support: new Int32Array(0) })).rejects.toMatchObject({ code: 'ROWS_EMPTY' });
  await expect(run({ support: Int32Array.of(0, 2) })).rejects.toThrow('way 1 has no row in the support set');
  await expect(run({ query: Int32Array.of(9) })).rejects.toThrow('row 0 of the query set has way 9');
  await expect(run({ x: { rows: hostTensor('float32', [2, 3], new Float32Array(6)) } })).rejects.toThrow(
    'x: "rows" is float32 [2, 3]; the model takes float32 [rows, 12]; support and queries together are 45 rows',
  );
  await expect(run({ query: Int32Array.of(0, 1) })).rejects.toThrow(
    'x: "rows" is float32 [45, 12]; the model takes float32 [rows, 12]; support and queries together are 17 rows',
  );
  await expect(learner.metaTrain([]).result).rejects.toThrow('epoch 1 has no batch of tasks');
  await expect(learner.metaTrain([[]]).result).rejects.toThrow('a batch has no task');
  await using fast = new MetricLearner({ model: dense(), lr: 1e20 });
  const before = fast.params;
  await expect(fast.metaTrain(batches(3, 10)).result).rejects.toThrow('lr was halved 4 times, which did not help');
  await expect(fast.metaTrain(batches(3, 10), { rateHalvings: 0 }).result).rejects.toMatchObject({
    code: 'LOSS_NOT_FINITE',
  });
  expect(Object.keys(fast.params)).toEqual(Object.keys(before));
});
