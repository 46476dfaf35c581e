import { describe, expect, test } from 'vitest';
import * as e from '../src/index.js';
import type { OperatorCase } from './catalogue.js';
import { gradientError, gradientTolerance } from './catalogue.js';

describe('the gradient of maxPool', () => {
  test.each([
    ['all equal', [1, 1, 1, 1], [1, 0, 0, 0]],
    ['on both diagonals', [0, 1, 1, 0], [0, 1, 0, 0]],
    ['in one column', [0, 2, 1, 2], [0, 1, 0, 0]],
    ['tiny and negative', [-1e-20, -1e-20, -2e-20, -1], [1, 0, 0, 0]],
  ])('goes to the first of equals, row by row: %s', async (_, values, expected) => {
    const program = await e.compile(({ x }) => e.grad((x: e.Tensor) => e.sum(e.maxPool(x, { kernel: 2 })))(x), {
      x: { dtype: 'float32', shape: ['n', 1, 2, 2] },
    } as const);
    const images = [...values, ...values];
    const found = (await program.run({ x: e.hostTensor('float32', [2, 1, 2, 2], images) })) as unknown as e.HostTensor;
    expect([...(found.data as Float32Array)]).toEqual([...expected, ...expected]);
    await program.dispose();
  });

  const cases: OperatorCase[] = [
    { variant: 'sizes that do not divide', shape: [2, 2, 5, 7], kernel: 2 },
    { variant: 'three wide', shape: [2, 1, 6, 6], kernel: 3 },
    { variant: 'one axis', shape: [2, 3, 6], kernel: 2 },
  ].map(({ variant, shape, kernel }) => ({
    operator: 'maxPool',
    variant,
    inputs: [shape],
    dtype: 'float32',
    distinct: true,
    // Rectified first: the two change places.
    fn: ([x]) => e.maxPool(e.relu(x!), { kernel }),
    torch: '',
  }));
  test.each(cases)('agrees with central differences, twice: $variant', async (c) => {
    for (const order of [1, 2] as const) {
      expect(await gradientError(c, { m: 2, n: 2, k: 2 }, 3, order)).toBeLessThan(gradientTolerance(c));
    }
  });
});

describe('batch norm', () => {
  test('statistics have gradients of their own', async () => {
    const c: OperatorCase = {
      operator: 'batchNorm',
      inputs: [['m', 3, 4], [3], [3]],
      fn: ([x, scale, bias]) => {
        const { y, statistics } = e.batchNorm(x!, scale!, bias!);
        return e.concat([e.sum(y, { axes: [0, 2] }), statistics.mean, statistics.variance], 0);
      },
      torch: '',
    };
    for (const order of [1, 2] as const) {
      expect(await gradientError(c, { m: 3, n: 2, k: 2 }, 3, order)).toBeLessThan(gradientTolerance(c));
    }
  });

  test('takes the bias of a convolution off again: only the mean knows it', async () => {
    const f32 = (...shape: number[]) => ({ dtype: 'float32', shape }) as const;
    const specs = { x: f32(2, 2, 4, 4), w: f32(3, 2, 3, 3), b: f32(3), scale: f32(3), shift: f32(3) };
    const program = await e.compile(({ b, ...t }: Record<keyof typeof specs, e.Tensor>) => {
      const normed = (b: e.Tensor) => e.batchNorm(e.conv(t.x, t.w, b), t.scale, t.shift);
      const { y, statistics } = normed(b);
      const image = e.conv(t.x, t.w, b);
      const meanLoss = (b: e.Tensor) => e.sum(e.mul(normed(b).statistics.mean, t.scale));
      return {
        error: e.max(e.abs(e.sub(y, e.batchNorm(e.mul(image, -1), e.neg(t.scale), t.shift).y))),
        mean: e.max(e.abs(e.sub(statistics.mean, e.mean(image, { axes: [0, 2, 3] })))),
        ofY: e.grad((b: e.Tensor) => e.sum(e.sin(normed(b).y)))(b),
        ofMean: e.sub(e.grad(meanLoss)(b), t.scale),
      };
    }, specs);
    const draw = (shape: readonly number[], n: number) =>
      e.hostTensor(
        'float32',
        shape,
        Array.from({ length: e.elementCount(shape) }, (_, i) => Math.sin(i * 1.7 + n)),
      );
    const given = Object.fromEntries(Object.entries(specs).map(([name, { shape }], n) => [name, draw(shape, n)]));
    const found = await program.run(given as never);
    await program.dispose();
    for (const { data } of Object.values(found)) {
      expect(Math.max(...(data as Float32Array).map(Math.abs))).toBeLessThan(1e-5);
    }
  });

  test('keeps its gradient far from zero', async () => {
    // A mean of 1 000 deviations: centred before it is multiplied, or the products lose their digits.
    const shape = [8, 1, 4];
    const noise = Array.from({ length: 32 }, (_, i) => Math.sin(i * 1.3));
    const weights = Array.from({ length: 32 }, (_, i) => Math.cos(i * 2.1));
    const gradient = async (dtype: 'float32' | 'float64', at: number) => {
      const program = await e.compile(
        ({ x, scale, bias, w }) => e.grad((x: e.Tensor) => e.sum(e.mul(e.batchNorm(x, scale, bias).y, w)))(x),
        {
          x: { dtype, shape },
          scale: { dtype, shape: [1] },
          bias: { dtype, shape: [1] },
          w: { dtype, shape },
        },
      );
      const tensor = (values: number[], dims = shape) => e.hostTensor(dtype, dims, values);
      const inputs = { x: tensor(noise.map((v) => Math.fround(v + at))), w: tensor(weights) };
      const dx = await program.run({ ...inputs, scale: tensor([1], [1]), bias: tensor([0], [1]) });
      await program.dispose();
      return [...((dx as unknown as e.HostTensor).data as Float64Array)];
    };
    const [exact, found] = [await gradient('float64', 1000), await gradient('float32', 1000)];
    // One float32 step at 1 000 is 6e-5 of a deviation.
    expect(Math.max(...exact.map((value, i) => Math.abs(value - found[i]!)))).toBeLessThan(1e-3);
  });
});
