import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hostTensor, linear } from '@fewtune/engine';
import { afterAll, expect, test } from 'vitest';
import type { EmbeddingModel } from './embedding-model.js';
import { MetricLearner } from './metric-learner.js';

const folder = mkdtempSync(join(tmpdir(), 'fewtune-metric-refusals-'));
afterAll(() => rmSync(folder, { recursive: true }));

const waves = (rows: number, columns: number) =>
  hostTensor(
    'float32',
    [rows, columns],
    Array.from({ length: rows * columns }, (_, i) => Math.sin(i * 1.7)),
  );

/** Two dense layers, 3 → 4 → 4, of which the second is not learned. */
const over = (frozen: number): EmbeddingModel => ({
  weights: { 'a.weight': waves(4, 3) },
  frozen: { 'b.weight': hostTensor('float32', [4, 4], new Float32Array(16).fill(frozen)) },
  dim: 4,
  inputs: { rows: { dtype: 'float32', shape: ['rows', 3] } },
  embed: (w, { rows }) => linear(linear(rows!, w['a.weight']!), w['b.weight']!),
});

test('a run is not resumed over other frozen weights', async () => {
  const path = join(folder, 'run.safetensors');
  const task = { x: { rows: waves(6, 3) }, support: Int32Array.of(0, 0, 1, 1), query: Int32Array.of(0, 1) };
  const batches = [[task], [task]];
  await using begun = new MetricLearner({ model: over(0.1) });
  await begun.metaTrain(batches, { checkpoint: { path } }).result;
  const resumed = async (frozen: number) => {
    await using learner = new MetricLearner({ model: over(frozen) });
    return learner.metaTrain(batches, { resume: path }).result;
  };
  await expect(resumed(0.9)).rejects.toMatchObject({ code: 'OPTION_INVALID' });
  await expect(resumed(0.9)).rejects.toThrow('other frozen of the model');
  expect((await resumed(0.1)).steps).toBe(2);
});

test('a run is not resumed without an option it was begun with, nor with one it was begun without', async () => {
  const path = join(folder, 'options.safetensors');
  const task = { x: { rows: waves(6, 3) }, support: Int32Array.of(0, 0, 1, 1), query: Int32Array.of(0, 1) };
  await using begun = new MetricLearner({ model: over(0.1), clipNorm: 1 });
  await begun.metaTrain([[task]], { checkpoint: { path } }).result;
  await using plain = new MetricLearner({ model: over(0.1), decaySteps: 9 });
  await expect(plain.metaTrain([[task]], { resume: path }).result).rejects.toThrow(
    'is of a run with decaySteps none, not 9; clipNorm 1, not none',
  );
});

test.each([
  [{ metric: 'mahalanobis', rank: 5 }, 'rank is 5; an embedding has 4 numbers'],
  [{ head: 'matching', attention: true }, 'attention is of prototypes; a matching head has none'],
  [{ head: 'relation', dimensionWeights: true }, 'dimensionWeights are of distances to prototypes'],
  [{ metric: 'cosine', dimensionWeights: true }, 'dimensionWeights are of distances to prototypes'],
  [{ head: 'matching', metric: 'cosine' }, 'metric would have no effect: it is of prototypes'],
  [{ rank: 2 }, 'rank would have no effect: it is of the mahalanobis metric'],
  [{ relationHidden: 8 }, 'relationHidden would have no effect'],
  [{ head: 'relation', scale: 2 }, 'scale would have no effect: a relation head has none'],
  [{ viewTemperature: 0.1 }, 'viewTemperature would have no effect: it is of viewContrast, which is 0'],
] as const)('%j is refused', (options, message) => {
  expect(() => new MetricLearner({ model: over(0.1), ...options })).toThrow(message);
});
