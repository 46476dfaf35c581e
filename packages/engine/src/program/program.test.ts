import { describe, expect, test } from 'vitest';
import * as e from '../index.js';

const f32 = (shape: readonly e.Dim[]) => ({ dtype: 'float32', shape }) as const;

describe('a program', () => {
  test('serves every size of its symbols, and says which size disagrees', async () => {
    await using program = await e.compile(({ a, b }) => ({ sum: e.sum(e.matMul(a, b), { axes: [0] }) }), {
      a: f32(['rows', 'inner']),
      b: f32(['inner', 2]),
    });
    for (const rows of [1, 3]) {
      const a = e.hostTensor('float32', [rows, 2], Array(rows * 2).fill(1));
      const { sum } = await program.run({ a, b: e.hostTensor('float32', [2, 2], [1, 2, 3, 4]) });
      expect([...sum.data]).toEqual([4 * rows, 6 * rows]);
    }
    const wrong = { a: e.zeros('float32', [1, 3]), b: e.zeros('float32', [2, 2]) };
    await expect(program.run(wrong)).rejects.toMatchObject({
      code: 'INPUT_MISMATCH',
      message: expect.stringContaining('inner = 3'),
    });
  });

  test('refuses a missing input, another dtype, an unknown input, and use after disposal', async () => {
    const program = await e.compile(({ x }) => e.mul(x, 2), { x: f32([2]) });
    await expect(program.run({} as never)).rejects.toThrow('input "x" is missing');
    await expect(program.run({ x: e.zeros('int64', [2]) })).rejects.toThrow('was traced as float32 [2]');
    await expect(program.run({ x: e.zeros('float32', [2]), y: e.zeros('float32', [2]) } as never)).rejects.toThrow(
      'no input "y"',
    );
    await program.dispose();
    await expect(program.run({ x: e.zeros('float32', [2]) })).rejects.toMatchObject({ code: 'DISPOSED' });
  });

  test('equal programs share a session; disposing of one leaves the other', async () => {
    const build = () => e.compile(({ x }) => e.mul(x, 3), { x: f32(['n']) });
    const [one, two] = [await build(), await build()];
    await one.dispose();
    const { data } = await two.run({ x: e.hostTensor('float32', [1], [2]) });
    expect(data[0]).toBe(6);
    await two.dispose();
  });

  test('shape errors name the operation and both shapes while the graph is built', () => {
    const x = e.constant(e.zeros('float32', [8, 384]));
    const w = e.constant(e.zeros('float32', [768, 2]));
    expect(() => e.matMul(x, w)).toThrow(
      '[SHAPE_MISMATCH] matMul: inner sizes differ, a [8, 384] x b [768, 2] (384 against 768)',
    );
    expect(() => e.add(x, w)).toThrow('[8, 384] and [768, 2] do not broadcast');
    expect(() => e.reshape(x, [5, -1])).toThrow('cannot become [5, -1]');
    expect(() => e.grad((p: e.Tensor) => e.mul(p, 2))(x)).toThrow('only a float scalar has a gradient');
  });
});

test('the gradient of a parameter stops at it, and a frozen trunk is never differentiated', () => {
  const trunk = e.argMax(e.constant(e.zeros('float32', [3, 4]))); // has no gradient: visiting it would throw
  const features = e.cast(trunk, 'float32');
  const gradient = e.grad((w: e.Tensor) => e.sum(e.mul(features, w)))(e.constant(e.zeros('float32', [3])));
  expect(gradient.shape).toEqual([3]);
});

describe('random numbers', () => {
  const draw = async (seed: number, count = 4096) => {
    await using program = await e.compile(({ seed }) => e.randomUniform([count], seed), {
      seed: { dtype: 'int64', shape: [] },
    } as const);
    return [...((await program.run({ seed: e.hostTensor('int64', [], [seed]) })).data as Float32Array)];
  };

  test('are the same for the same seed, others for another, and uniform', async () => {
    const [a, again, b] = [await draw(1), await draw(1), await draw(2)];
    expect(a).toEqual(again);
    expect(a).not.toEqual(b);
    for (const values of [a, b]) {
      expect(Math.min(...values)).toBeGreaterThanOrEqual(0);
      expect(Math.max(...values)).toBeLessThan(1);
      // Ten bins of 410 ± 19: seven deviations.
      const bins = Array<number>(10).fill(0);
      for (const value of values) bins[Math.floor(value * 10)]!++;
      for (const bin of bins) expect(Math.abs(bin - 409.6)).toBeLessThan(135);
    }
    const correlation = a.reduce((sum, value, i) => sum + (value - 0.5) * (b[i]! - 0.5), 0) / a.length / (1 / 12);
    expect(Math.abs(correlation)).toBeLessThan(0.08);
  });
});

describe('a training step', () => {
  const data = {
    x: e.hostTensor('float32', [4, 2], [0, 0, 0, 1, 1, 0, 1, 1]),
    y: e.hostTensor('int64', [4], [0, 1, 1, 0]),
  };
  const build = () =>
    e.trainStep({
      params: {
        w1: e.hostTensor(
          'float32',
          [8, 2],
          Array.from({ length: 16 }, (_, i) => Math.sin(i * 1.7)),
        ),
        b1: e.zeros('float32', [8]),
        w2: e.hostTensor(
          'float32',
          [2, 8],
          Array.from({ length: 16 }, (_, i) => Math.cos(i * 2.3)),
        ),
      },
      batch: { x: f32(['batch', 2]), y: { dtype: 'int64', shape: ['batch'] } } as const,
      loss: (p, { batch, step }) =>
        e.crossEntropy(e.linear(e.dropout(e.tanh(e.linear(batch.x, p.w1!, p.b1)), 0.1, step), p.w2!), batch.y),
      optimizer: e.adamW({ weightDecay: 0 }),
      schedule: e.cosineDecay({ lr: 0.1, steps: 200, warmup: 10 }),
      clipNorm: 1,
    });

  test('learns XOR, which no linear model can', async () => {
    await using step = await build();
    const first = await step.run(data);
    let last = first;
    for (let i = 0; i < 150; i++) last = await step.run(data);
    expect(first.loss).toBeGreaterThan(0.5);
    expect(last.loss).toBeLessThan(0.2);
    expect(last.lr).toBeLessThan(0.1);
    expect(last.gradientNorm).toBeGreaterThan(0);
  });

  test('is reproducible, and goes on from a snapshot bit for bit', async () => {
    await using one = await build();
    await using two = await build();
    for (let i = 0; i < 5; i++) expect(await one.run(data)).toEqual(await two.run(data));
    const snapshot = await one.snapshot();
    const next = [await one.run(data), await one.run(data)];
    await two.restore(snapshot);
    expect([await two.run(data), await two.run(data)]).toEqual(next);
    expect(await two.params()).toEqual(await one.params());
  });

  test('refuses a snapshot of another step, and keeps its own state', async () => {
    await using step = await build();
    const before = await step.snapshot();
    const other = { ...before, 'param/b1': e.zeros('float32', [9]) };
    await expect(step.restore(other)).rejects.toThrow(
      '"param/b1" as float32 [8], but in what was given it is float32 [9]',
    );
    await expect(step.restore({})).rejects.toThrow('missing');
    expect(await step.snapshot()).toEqual(before);
  });

  test('does not change the arrays it was given', async () => {
    const w = e.hostTensor('float32', [1], [1]);
    await using step = await e.trainStep({
      params: { w },
      batch: {},
      loss: (p) => e.sum(e.mul(p.w!, p.w!)),
      optimizer: e.sgd({ momentum: 0.9, nesterov: true }),
      schedule: e.constantRate(0.1),
    });
    await step.run({});
    await step.run({});
    expect(w.data[0]).toBe(1);
    expect((await step.params()).w!.data[0]).toBeLessThan(1);
  });
});

test('schedules follow their definitions', async () => {
  const rates = async (schedule: e.Schedule) => {
    await using program = await e.compile(({ step }) => e.add(schedule(step), e.mul(step, 0)), { step: f32([]) });
    const at = async (step: number) =>
      (await program.run({ step: e.hostTensor('float32', [], [step]) })).data[0] as number;
    return [await at(1), await at(6), await at(11), await at(61), await at(111)];
  };
  const close = (got: number[], want: number[]) => {
    for (const [i, value] of got.entries()) expect(value).toBeCloseTo(want[i]!, 6);
  };
  close(await rates(e.linearDecay({ lr: 1, steps: 110, warmup: 10 })), [0, 0.5, 1, 0.5, 0]);
  close(await rates(e.cosineDecay({ lr: 1, steps: 110, warmup: 10, floor: 0.1 })), [0, 0.5, 1, 0.55, 0.1]);
});

test.each([
  ['sgd', (maximize: boolean) => e.sgd({ momentum: 0.9, maximize })],
  ['adamW', (maximize: boolean) => e.adamW({ weightDecay: 0.1, maximize })],
])('%s with maximize climbs as it descends the negative', async (_, optimizer) => {
  const build = (maximize: boolean) =>
    e.trainStep({
      params: { w: e.hostTensor('float32', [2], [0.5, -1]) },
      batch: {},
      loss: ({ w }) => e.mul(e.sum(e.cos(w!)), maximize ? -1 : 1),
      optimizer: optimizer(maximize),
      schedule: e.constantRate(0.1),
    });
  await using descent = await build(false);
  await using climb = await build(true);
  for (let i = 0; i < 3; i++) {
    await descent.run({});
    await climb.run({});
  }
  expect((await climb.params()).w!.data).toEqual((await descent.params()).w!.data);
});
