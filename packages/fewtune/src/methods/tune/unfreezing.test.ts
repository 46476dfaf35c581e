import { adamW, constantRate, hostTensor, mul, type Named, sum, type Tensor, trainStep } from '@fewtune/engine';
import { expect, test } from 'vitest';
import { unfrozenLater } from './unfreezing.js';

const high = 'encoder.layer.1.w';
const low = 'encoder.layer.0.w';
const stages = [
  { lowest: 1, from: 1 },
  { lowest: 0, from: 0 },
];
const one = () => hostTensor('float32', [1], [1]);

const stepOf = (params: Named<ReturnType<typeof one>>) =>
  trainStep({
    params,
    batch: {},
    loss: (p: Named<Tensor>) =>
      sum(
        mul(
          Object.values(p).reduce((a, b) => mul(a, b)),
          2,
        ),
      ),
    optimizer: unfrozenLater(adamW({ weightDecay: 0 }), stages, 3),
    schedule: constantRate(0.1),
  });

test('the first step of a weight that is unfrozen later has the size of a first step', async () => {
  await using first = await stepOf({ [high]: one() });
  for (let i = 0; i < 3; i++) await first.run({});
  const before = await first.snapshot();
  await using second = await stepOf({ [high]: one(), [low]: one() });
  await second.restore({ ...(await second.snapshot()), ...before });
  await second.run({});
  const now = await second.params();
  // With an equal gradient every step of Adam has the size of the rate, the first one too.
  expect(now[low]!.data[0]).toBeCloseTo(1 - 0.1, 5);
  expect(now[high]!.data[0]).toBeLessThan(Number(before[`param/${high}`]!.data[0]) - 0.09);
});
