import { expect, test } from 'vitest';
import * as e from '../index.js';
import { planStep } from './step-plan.js';

const wave = (shape: readonly number[], step = 0.7) =>
  e.hostTensor(
    'float32',
    shape,
    Array.from({ length: e.elementCount(shape) }, (_, i) => Math.sin(1 + i * step)),
  );

const [rows, wide] = [64, 160];
const names = ['a', 'b', 'c', 'd', 'e', 'f'];
const weights = Object.fromEntries(names.map((name, i) => [name, wave([wide, wide], 0.3 + i)]));
const layer = (h: e.Tensor, w: e.Tensor) => e.tanh(e.linear(e.gelu(h), w));

/** Six layers, the lowest of them frozen. */
function options(trained: readonly string[], wrap = false, accumulate = false) {
  const part = (wanted: boolean) =>
    Object.fromEntries(Object.entries(weights).filter(([name]) => trained.includes(name) === wanted));
  return {
    params: part(true),
    frozen: part(false),
    batch: { x: { dtype: 'float32', shape: ['batch', wide] } } as const,
    loss: (params: e.Named<e.Tensor>, { frozen, batch }: { frozen: e.Named<e.Tensor>; batch: { x: e.Tensor } }) => {
      const all = { ...params, ...frozen };
      const apply = wrap ? e.checkpoint(layer) : layer;
      return e.sumSquares(names.reduce((h, name) => apply(h, all[name]!), batch.x));
    },
    optimizer: e.adamW(),
    schedule: e.constantRate(0.01),
    clipNorm: 1,
    threads: 1,
    ...(accumulate && { accumulate }),
  };
}

const product = 2 * rows * wide * wide;

test('products are counted forward, and backward only as far down as something is trained', () => {
  const all = planStep(options(names)).flops({ batch: rows });
  // Backward: the weight of every layer, and the state of all but the lowest.
  expect(all.products).toBe((6 + 6 + 5) * product);
  const top = planStep(options(['e', 'f'])).flops({ batch: rows });
  expect(top.products).toBe((6 + 2 + 1) * product);
  expect(top.forward).toBe(all.forward);
  expect(top.optimizer).toBeLessThan(all.optimizer / 2);
  const again = planStep(options(names, true)).flops({ batch: rows });
  expect(again.products).toBe((6 + 6 + 5 + 6) * product);
});

test('memory is that of the opened step; sums over micro-batches and frozen weights count', async () => {
  await using step = await e.trainStep(options(names));
  const planned = planStep(options(names)).memory({ batch: rows });
  expect(planned.total / (await step.memory({ batch: rows })).total).toBeCloseTo(1, 3);
  const bytes = 4 * wide * wide;
  // Written over what they are read from, unless a step may be given up; a few scalars besides.
  expect(planned.weights / (6 * bytes)).toBeCloseTo(1, 2);
  expect(planned.moments).toBe(2 * 6 * bytes);
  const refusable = planStep({ ...options(names), lossScale: true }).memory({ batch: rows });
  expect(refusable.moments).toBe(2 * planned.moments);
  expect(planned.gradients + planned.activations).toBeGreaterThan(6 * 2 * 4 * rows * wide);
  const accumulated = planStep(options(names, false, true)).memory({ batch: rows });
  expect((accumulated.moments - planned.moments) / (6 * bytes)).toBeCloseTo(1, 2);
  // Once in the model, and once for each product that reads it: below what is trained there is no backward one.
  const weightsOf = (name: string) => planStep(options([name])).memory({ batch: rows }).weights / bytes;
  expect(weightsOf('f')).toBeCloseTo(1 + 2 * 5, 0);
  expect(weightsOf('e')).toBeCloseTo(1 + 2 * 4 + 3, 0);
});

test('layers that are computed again keep no more than their arguments, also where gradients are clipped together', () => {
  const batch = 4096;
  const state = 4 * batch * wide;
  const kept = planStep(options(names)).memory({ batch }).activations;
  const again = planStep(options(names, true)).memory({ batch }).activations;
  expect(kept).toBeGreaterThan(12 * state);
  expect(again).toBeLessThan(kept - 4 * state);
});
