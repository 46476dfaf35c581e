import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as e from '../src/index.js';
import type { OperatorCase } from './catalogue.js';
import { gradientError, gradientTolerance, uniform } from './catalogue.js';

/** The gradient to the weight takes several roads, by geometry: all against the sum they stand for. */

interface Geometry {
  readonly n: number;
  readonly group: number;
  readonly inner: number;
  readonly out: number;
  readonly size: readonly number[];
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly padding: readonly number[];
  readonly dilations: readonly number[];
}

/** Every place of a shape. */
function* places(shape: readonly number[]): Generator<number[]> {
  const count = shape.reduce((a, b) => a * b, 1);
  for (let i = 0; i < count; i++) {
    const at: number[] = [];
    let rest = i;
    for (const size of [...shape].reverse()) {
      at.unshift(rest % size);
      rest = Math.floor(rest / size);
    }
    yield at;
  }
}
const flat = (at: readonly number[], shape: readonly number[]) =>
  at.reduce((sum, i, axis) => sum * shape[axis]! + i, 0);

/** Output, and Σ dy ∘ y differentiated by hand, in float64. */
function reference(g: Geometry, x: Float32Array, w: Float32Array, dy: (length: number) => Float32Array) {
  const outSize = g.size.map((size, i) => {
    const span = g.dilations[i]! * (g.kernel[i]! - 1) + 1;
    return Math.floor((size + 2 * g.padding[i]! - span) / g.strides[i]!) + 1;
  });
  const [xs, ws] = [
    [g.n, g.inner * g.group, ...g.size],
    [g.out * g.group, g.inner, ...g.kernel],
  ];
  const ys = [g.n, g.out * g.group, ...outSize];
  const cotangent = dy(ys.reduce((a, b) => a * b, 1));
  const y = new Float64Array(cotangent.length);
  const [dx, dw] = [new Float64Array(x.length), new Float64Array(w.length)];
  for (const [n, o, ...at] of places(ys) as Generator<[number, number, ...number[]]>) {
    const here = flat([n, o, ...at], ys);
    for (const [c, ...tap] of places([g.inner, ...g.kernel]) as Generator<[number, ...number[]]>) {
      const from = at.map((p, i) => p * g.strides[i]! - g.padding[i]! + tap[i]! * g.dilations[i]!);
      if (from.some((p, i) => p < 0 || p >= g.size[i]!)) continue;
      const i = flat([n, Math.floor(o / g.out) * g.inner + c, ...from], xs);
      const j = flat([o, c, ...tap], ws);
      y[here]! += x[i]! * w[j]!;
      dx[i]! += cotangent[here]! * w[j]!;
      dw[j]! += cotangent[here]! * x[i]!;
    }
  }
  return { y, dx, dw, xs, ws, ys, cotangent };
}

const worst = (found: e.HostTensor, expected: Float64Array) => {
  expect(found.data.length).toBe(expected.length);
  const scale = expected.reduce((largest, value) => Math.max(largest, Math.abs(value)), 1e-3);
  return expected.reduce((sum, value, i) => Math.max(sum, Math.abs(value - Number(found.data[i]))), 0) / scale;
};

const geometry = fc.integer({ min: 1, max: 2 }).chain((axes) => {
  const each = (min: number, max: number) => fc.array(fc.integer({ min, max }), { minLength: axes, maxLength: axes });
  return fc.record({
    n: fc.integer({ min: 2, max: 3 }),
    group: fc.integer({ min: 1, max: 2 }),
    inner: fc.constantFrom(1, 2, 11),
    out: fc.integer({ min: 1, max: 3 }),
    size: each(5, 8),
    kernel: each(1, 3),
    strides: each(1, 3),
    padding: each(0, 2),
    dilations: each(1, 2),
  });
});

describe('conv and both its gradients equal the sums they stand for', () => {
  test.each(['fixed', 'symbolic'])('random geometries, %s batch', async (batch) => {
    await fc.assert(
      fc.asyncProperty(geometry, fc.integer({ min: 1, max: 1e6 }), async (g, seed) => {
        const next = uniform(seed);
        const draw = (length: number) => Float32Array.from({ length }, () => 2 * next() - 1);
        const x = draw(g.n * g.group * g.inner * g.size.reduce((a, b) => a * b, 1));
        const w = draw(g.group * g.out * g.inner * g.kernel.reduce((a, b) => a * b, 1));
        const { y, dx, dw, xs, ws, ys, cotangent } = reference(g, x, w, draw);
        const tensor = (shape: readonly number[], data: Float32Array) => ({ dtype: 'float32' as const, shape, data });
        const given = { x: tensor(xs, x), w: tensor(ws, w), dy: tensor(ys, cotangent) };
        const free = (shape: readonly number[]) => (batch === 'symbolic' ? ['n', ...shape.slice(1)] : shape);
        const { group: groups, strides: stride, padding, dilations: dilation } = g;
        const program = await e.compile(
          (t: Record<'x' | 'w' | 'dy', e.Tensor>) => {
            const run = (x: e.Tensor, w: e.Tensor) => e.conv(x, w, undefined, { groups, stride, padding, dilation });
            const loss = ({ x, w }: { x: e.Tensor; w: e.Tensor }) => e.sum(e.mul(run(x, w), t.dy));
            return { y: run(t.x, t.w), ...e.grad(loss)({ x: t.x, w: t.w }) };
          },
          {
            x: { dtype: 'float32', shape: free(xs) },
            w: { dtype: 'float32', shape: ws },
            dy: { dtype: 'float32', shape: free(ys) },
          },
        );
        const found = await program.run(given);
        await program.dispose();
        // float32 sums of a few hundred products
        expect(worst(found.y, y)).toBeLessThan(1e-5);
        expect(worst(found.x, dx)).toBeLessThan(1e-5);
        expect(worst(found.w, dw)).toBeLessThan(1e-5);
      }),
      { numRuns: Number(process.env.FEWTUNE_FUZZ ?? 60), seed: 11 },
    );
  });
});

describe('gradients of gradients', () => {
  const cases: OperatorCase[] = [
    {
      variant: 'many taps, stride, groups',
      inputs: [[2, 8, 5, 6], [2, 4, 3, 3], [2]],
      stride: 2,
      padding: 1,
      groups: 2,
    },
    { variant: 'many taps, stride 1', inputs: [[3, 4, 4, 5], [2, 4, 3, 3], [2]], stride: 1, padding: 1, groups: 1 },
    { variant: 'more padding than kernel', inputs: [[2, 2, 3], [2, 2, 2], [2]], stride: 1, padding: 2, groups: 1 },
  ].map(({ variant, inputs, ...options }) => ({
    operator: 'conv',
    variant,
    inputs: inputs as OperatorCase['inputs'],
    dtype: 'float32',
    fn: ([x, w, b]) => e.conv(x!, w!, b, options),
    torch: '',
  }));
  test.each(cases)('$variant', async (c) => {
    expect(await gradientError(c, { m: 2, n: 2, k: 2 }, 5, 2)).toBeLessThan(gradientTolerance(c));
  });
});

test('a bias of another size is refused', () => {
  const at = (shape: number[]) => e.constant(e.zeros('float32', shape));
  expect(() => e.conv(at([1, 2, 4, 4]), at([3, 2, 3, 3]), at([2]))).toThrow(/conv: bias \[2\] does not fit 3 channels/);
});
