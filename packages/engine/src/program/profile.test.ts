import { expect, test } from 'vitest';
import * as e from '../index.js';

const f32 = (...shape: e.Dim[]) => ({ dtype: 'float32', shape }) as const;

test('a profile gives every operator to the line of the model that asked for it', async () => {
  await using program = await e.compile(
    ({ x, w }) => {
      const h = e.matMul(x, w); // two operators of this kind
      return e.sum(e.tanh(e.matMul(h, w)));
    },
    { x: f32('n', 64), w: f32(64, 64) },
  );
  const inputs = { x: e.zeros('float32', [32, 64]), w: e.zeros('float32', [64, 64]) };
  const profile = await program.profile(inputs, { runs: 3 });
  expect(profile.runs).toBe(3);
  expect(profile.byOperator.find(({ what }) => what === 'MatMul')?.count).toBe(2);
  expect(profile.byLine.length).toBe(2);
  expect(profile.byLine.every(({ what }) => /profile\.test\.ts:\d+$/.test(what))).toBe(true);
  const sum = (rows: readonly e.ProfileRow[], key: 'ms' | 'share') => rows.reduce((total, row) => total + row[key], 0);
  expect(sum(profile.byLine, 'share')).toBeCloseTo(1, 9);
  expect(sum(profile.byOperator, 'ms')).toBeCloseTo(profile.operatorsMs, 9);
  expect(profile.totalMs).toBeGreaterThanOrEqual(profile.operatorsMs);
  expect(profile.peakBytes).toBeGreaterThanOrEqual(2 * 32 * 64 * 4);
  expect(String(profile)).toMatch(/ms a run \(mean of 3\)[\s\S]* {2}MatMul\n[\s\S]*line\n[\s\S]*profile\.test\.ts/);
});

test.each([false, true])('a training step is profiled without being changed (accumulate: %s)', async (accumulate) => {
  await using step = await e.trainStep({
    params: { w: e.hostTensor('float32', [3, 2], [1, 2, 3, 4, 5, 6]) },
    batch: { x: f32('batch', 3) },
    loss: (p, { batch }) => e.mean(e.tanh(e.matMul(batch.x, p.w!))),
    optimizer: e.adamW(),
    schedule: e.constantRate(0.1),
    ...(accumulate && { accumulate }),
  });
  const batch = { x: e.hostTensor('float32', [2, 3], [1, 2, 3, 4, 5, 6]) };
  await step.run(batch);
  const before = await step.snapshot();
  const profile = await step.profile(batch, { runs: 2 });
  expect(await step.snapshot()).toEqual(before);
  expect(profile.byLine.map(({ what }) => what)).toContain('optimizer');
  expect(profile.byLine.some(({ gradientMs, what }) => gradientMs > 0 && /profile\.test\.ts/.test(what))).toBe(true);
});
