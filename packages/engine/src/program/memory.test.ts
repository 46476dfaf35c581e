import { expect, test } from 'vitest';
import * as e from '../index.js';

const f32 = (...shape: e.Dim[]) => ({ dtype: 'float32', shape }) as const;
const weight = (...shape: number[]) =>
  e.hostTensor(
    'float32',
    shape,
    Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i) / 10),
  );

test('counts what is alive at once: a chain needs two values, a fan all of them', async () => {
  await using chain = await e.compile(({ x, w }) => e.matMul(e.matMul(e.matMul(x, w), w), w), {
    x: f32('n', 64),
    w: f32(64, 64),
  });
  const plan = await chain.memory({ n: 1000 });
  expect(plan.activations).toBe(2 * 64_000 * 4);
  expect(plan.inputs).toBe(64_000 * 4 + 64 * 64 * 4);
  expect(plan.total).toBe(plan.inputs + plan.outputs + plan.constants + plan.activations + plan.overhead);
  expect(plan.byLine[0]!.what).toMatch(/memory\.test\.ts:\d+$/);
  expect(String(plan)).toMatch(/activations\n[\s\S]*total\n\nalive at the peak\n.*memory\.test\.ts/);
  await expect(chain.memory()).rejects.toMatchObject({ code: 'ARGUMENT_INVALID' });
});

test("agrees with ONNX Runtime's own count for a training step, within 15 %", async () => {
  await using step = await e.trainStep({
    params: { up: weight(256, 64), down: weight(64, 256), head: weight(10, 64) },
    batch: { x: f32('batch', 'tokens', 64), y: { dtype: 'int64', shape: ['batch'] } } as const,
    loss: (p, { batch }) => {
      const scores = e.attention(batch.x, batch.x, batch.x);
      const h = e.add(batch.x, e.linear(e.gelu(e.linear(scores, p.up!)), p.down!));
      return e.crossEntropy(e.linear(e.mean(h, { axes: [1] }), p.head!), batch.y);
    },
    optimizer: e.adamW(),
    schedule: e.constantRate(0.01),
  });
  const plan = await step.memory({ batch: 32, tokens: 64 });
  const { peakBytes } = await step.profile({ x: weight(32, 64, 64), y: e.zeros('int64', [32]) }, { runs: 1 });
  expect(plan.activations / peakBytes).toBeGreaterThan(0.85);
  expect(plan.activations / peakBytes).toBeLessThan(1.15);
});
