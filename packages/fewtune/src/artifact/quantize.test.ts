import {
  constant,
  exportOnnx,
  gather,
  hostTensor,
  linear,
  matMul,
  openOnnx,
  readOnnx,
  transpose,
} from '@fewtune/engine';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { quantizeOnnx } from './quantize.js';

const matrix = (rows: number, cols: number, values: Float32Array) => hostTensor('float32', [rows, cols], values);
const values = (count: number) => fc.float32Array({ minLength: count, maxLength: count, min: -1, max: 1, noNaN: true });

/** Largest rounding error of a weight in [-1, 1]: half of a step of 1/127, and a little for float32 sums. */
const perWeight = 0.51 / 127;

test('x W, x Wᵀ + b and table rows move by no more than their weights were rounded', async () => {
  const [n, m] = [64, 80]; // 5120 elements: large enough to be quantised
  await fc.assert(
    fc.asyncProperty(values(n * m), values(n), async (weight, x) => {
      const bytes = exportOnnx(
        ({ ids }) => {
          const rows = gather(
            constant(
              matrix(
                n,
                n,
                new Float32Array(n * n).map((_, i) => x[i % n]!),
              ),
              'table',
            ),
            ids!,
          );
          return {
            product: matMul(rows, constant(matrix(n, m, weight), 'w')),
            dense: linear(
              rows,
              constant(matrix(m, n, weight), 'v'),
              constant(hostTensor('float32', [m], new Float32Array(m)), 'b'),
            ),
            turned: matMul(rows, transpose(constant(matrix(m, n, weight), 'u'))),
            rows,
          };
        },
        { ids: { dtype: 'int64', shape: ['n'] } },
      );
      const small = quantizeOnnx(bytes);
      const ids = { ids: hostTensor('int64', [2], [0, 5]) };
      const [full, rounded] = await Promise.all([openOnnx(bytes), openOnnx(small)]);
      const [expected, found] = [await full.run(ids), await rounded.run(ids)];
      const size = x.reduce((sum, value) => sum + Math.abs(value), 0);
      for (const [name, tolerance] of [
        ['product', perWeight * (size + n)],
        ['dense', perWeight * (size + n)],
        ['turned', perWeight * (size + n)],
        ['rows', perWeight],
      ] as const) {
        const [a, b] = [expected[name]!.data as Float32Array, found[name]!.data as Float32Array];
        const worst = a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);
        expect(worst, name).toBeLessThan(tolerance);
      }
      await full.dispose();
      await rounded.dispose();
    }),
    { numRuns: 10 },
  );
});

test('large matrices become int8, small ones and biases stay', () => {
  const bytes = exportOnnx(
    ({ x }) => ({
      y: linear(
        linear(
          x!,
          constant(matrix(80, 64, new Float32Array(5120).fill(0.5)), 'large'),
          constant(hostTensor('float32', [80], new Float32Array(80)), 'bias'),
        ),
        constant(matrix(3, 80, new Float32Array(240).fill(0.5)), 'small'),
      ),
    }),
    { x: { dtype: 'float32', shape: ['n', 64] } },
  );
  const names = readOnnx(quantizeOnnx(bytes)).graph.initializer!.map(({ name, dataType }) => `${name}:${dataType}`);
  expect(names).toEqual(expect.arrayContaining(['large_int8:3', 'large_scale:1', 'bias:1', 'small:1']));
  expect(names).not.toContain('large:1');
});
