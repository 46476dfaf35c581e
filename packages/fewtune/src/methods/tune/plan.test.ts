import { loadEncoder } from '@fewtune/models';
import { expect, test } from 'vitest';
import { adaptationOf } from '../peft/adaptations.js';
import { describePlan, planTuning } from './plan.js';
import { tinyEncoder, tinyTask } from './tiny-task.fixture.js';
import { tune } from './tune.js';

const { examples, task } = tinyTask(24);
const options = { epochs: 4, batchSize: 8 };
const planOf = (adapt: ReturnType<typeof adaptationOf>, other: object = {}) =>
  planTuning(tinyEncoder, examples, task, adapt, { ...options, ...other }, { threads: 1 });

test('parameters, steps and batches are those of the run that follows', async () => {
  const plan = await planOf(adaptationOf('lora', { targets: 'query' }));
  await using tuned = await tune(tinyEncoder, examples, task, adaptationOf('lora', { targets: 'query' }), options);
  expect(plan.parameters).toEqual(tuned.report);
  expect(plan.steps).toBe(tuned.history.steps.length);
  expect(plan.settings).toEqual({ batchSize: 8, accumulate: 1, recompute: 0, cachedLayers: 0 });
});

test('operations: backward only where something is trained, lower layers once where their states are kept', async () => {
  const full = await planOf(adaptationOf('full'));
  const top = await planOf(adaptationOf('full', { layers: 1 }), { cacheActivations: false });
  const kept = await planOf(adaptationOf('full', { layers: 1 }));
  expect(Math.abs(top.flops.forward / full.flops.forward - 1)).toBeLessThan(0.1);
  // Of two equal layers one: what is left of the backward pass is less than half and more than a third.
  expect(top.flops.backward / full.flops.backward).toBeGreaterThan(1 / 3);
  expect(top.flops.backward / full.flops.backward).toBeLessThan(1 / 2);
  expect(kept.flops.backward / top.flops.backward).toBeCloseTo(1, 5);
  // The lower layer in one of four epochs.
  expect(kept.flops.cache / (top.flops.forward - kept.flops.forward)).toBeCloseTo(1 / 4, 2);
  expect(kept.settings.cachedLayers).toBe(1);
  expect(kept.seconds).toBeLessThan(top.seconds);
  const { total, ...parts } = kept.flops;
  expect(Object.values(parts).reduce((a, b) => a + b)).toBeCloseTo(total, 0);
});

test('memory: moments of what is trained, activations of the longest batch, states in memory or on disk', async () => {
  const [full, biases] = [await planOf(adaptationOf('full')), await planOf(adaptationOf('bitfit'))];
  expect(biases.memory.moments).toBeLessThan(full.memory.moments / 2);
  const large = await planOf(adaptationOf('full'), { batchSize: 24 });
  expect(large.memory.activations).toBeGreaterThan(2 * full.memory.activations);
  expect(large.memory.moments).toBe(full.memory.moments);
  const tokens = new Set(examples.texts);
  const bytes = [...tokens].join(' ').split(' ').length * 16 * 4;
  const top = adaptationOf('full', { layers: 1 });
  expect((await planOf(top)).memory).toMatchObject({ cache: bytes, disk: 0 });
  const disk = { memoryBytes: 0, dtype: 'float16' };
  expect((await planOf(top, { cacheActivations: disk })).memory).toMatchObject({ cache: 0, disk: bytes / 2 });
  for (const { memory } of [full, biases, await planOf(top)]) {
    const { total, disk: _, ...parts } = memory;
    expect(Object.values(parts).reduce((a, b) => a + b)).toBe(total);
  }
});

test('the table says each by itself', async () => {
  const text = describePlan(await planOf(adaptationOf('full', { layers: 1 }), { accumulate: 2 }));
  expect(text.split('\n').map((line) => line.split(' ')[0])).toEqual([
    'parameters',
    'steps',
    'operations',
    'seconds',
    'memory',
  ]);
  expect(text).toMatch(/steps +8 of 16 rows, 2 batches of 8 each, from the states after 1 layers/);
  expect(text).toMatch(/forward .* backward .* optimiser .* kept states/);
  expect(text).toMatch(/weights .* gradients .* moments .* activations .* kept states .* overhead/);
});

test('what does not fit is told before anything runs, with every change that would', async () => {
  const encoder = await loadEncoder();
  const { texts } = examples;
  const of = (memoryBytes: number | 'auto') =>
    planTuning(encoder, { texts }, task, adaptationOf('full'), { batchSize: 24, memoryBytes }, { threads: 1 });
  const { total, weights, moments, copies } = (await of('auto')).memory;
  expect(weights + moments + copies).toBeGreaterThan(0.7 * total);
  await expect(of(total - 1)).rejects.toMatchObject({
    code: 'MEMORY_EXCEEDED',
    message: expect.stringMatching(/24 rows needs .* are allowed\. Would fit: .*lora instead of full\./),
  });
});
