import { type HostTensor, hostTensor, type Named } from '@fewtune/engine';
import { describe, expect, test } from 'vitest';
import { descend, type Objective } from './descend.js';

/** 2 w²: from rate 0.5 on, a step overshoots. */
const bowl: Objective = {
  lossAt: async (weights) => heightOf(weights),
  gradientAt: async (weights) => ({
    loss: heightOf(weights),
    gradient: {
      w: hostTensor(
        'float32',
        [2],
        (weights.w!.data as Float32Array).map((value) => 4 * value),
      ),
    },
  }),
};
const heightOf = ({ w }: Named<HostTensor>) =>
  2 * (w!.data as Float32Array).reduce((sum, value) => sum + value ** 2, 0);
const start = { w: hostTensor('float32', [2], [1, -2]), fixed: hostTensor('float32', [1], [5]) };
const go = (lr: number, more = {}) =>
  descend(start, bowl, { steps: 4, rate: () => lr, tolerated: (before) => 2 * before, ...more });

describe('descent', () => {
  test('is w ← w − α g, by hand', async () => {
    const { weights, loss, rateHalvings } = await go(0.1);
    expect([...(weights.w!.data as Float32Array)]).toEqual([expect.closeTo(0.6 ** 4), expect.closeTo(-2 * 0.6 ** 4)]);
    expect(weights.fixed).toBe(start.fixed);
    expect(loss).toEqual({ before: 10, after: expect.closeTo(10 * 0.6 ** 8) });
    expect(rateHalvings).toBe(0);
  });

  test('rates by element and by step', async () => {
    const rate = (_: string, step: number) => (step === 0 ? [0.25, 0] : 0);
    const { weights } = await descend(start, bowl, { steps: 2, rate, tolerated: () => 20 });
    expect([...(weights.w!.data as Float32Array)]).toEqual([0, -2]);
  });

  test('a rate that explodes is halved until the loss falls', async () => {
    const { loss, rateHalvings } = await go(1.6);
    expect(rateHalvings).toBe(2); // 1.6 and 0.8 overshoot, 0.4 does not
    expect(loss.after).toBeLessThan(loss.before);
  });

  test('a loss that rises a little is none of that', async () => {
    const { rateHalvings, loss } = await go(0.51, { tolerated: () => 20 });
    expect(rateHalvings).toBe(0);
    expect(loss.after).toBeGreaterThan(loss.before);
  });

  test('where halving does not help it is told', async () => {
    await expect(go(1e30)).rejects.toMatchObject({ code: 'LOSS_NOT_FINITE' });
    const broken = { ...bowl, lossAt: async () => Number.NaN };
    await expect(descend(start, broken, { steps: 1, rate: () => 0.1, tolerated: () => 20 })).rejects.toMatchObject({
      code: 'LOSS_NOT_FINITE',
    });
    const signal = AbortSignal.abort();
    await expect(go(0.1, { signal })).rejects.toMatchObject({ code: 'INTERRUPTED' });
  });
});
