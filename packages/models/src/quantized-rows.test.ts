import fc from 'fast-check';
import { expect, test } from 'vitest';
import { dequantizeRows, quantizeRows } from './quantized-rows.js';

test('every value comes back within half a step of its row, or a little more where it was clipped', () => {
  const value = fc.float({ min: -8, max: 8, noNaN: true });
  fc.assert(
    fc.property(fc.array(fc.tuple(value, value, value, value), { minLength: 1, maxLength: 5 }), (rows) => {
      const weight = { dtype: 'float32', shape: [rows.length, 4], data: Float32Array.from(rows.flat()) } as const;
      const { values, scales } = quantizeRows(weight);
      const back = dequantizeRows({ w: values, 'w.scale': scales }).w!;
      expect(back.shape).toEqual(weight.shape);
      rows.forEach((row, r) => {
        const largest = Math.max(...row.map(Math.abs));
        const squares = (largest / 254) ** 2 * 4; // plain max scaling's bound; the search may only do better
        const error = row.reduce((sum, v, c) => sum + (v - (back.data as Float32Array)[r * 4 + c]!) ** 2, 0);
        expect(error).toBeLessThanOrEqual(squares * (1 + 1e-4) + 1e-80);
      });
    }),
  );
});

test('only int8 tensors with scales are touched', () => {
  const vector = { dtype: 'float32', shape: [1], data: Float32Array.of(3) } as const;
  const bare = { dtype: 'int8', shape: [1, 1], data: Int8Array.of(3) } as const;
  expect(dequantizeRows({ 'norm.scale': vector, bare })).toEqual({ 'norm.scale': vector, bare });
  const broken = { bare, 'bare.scale': { dtype: 'float32', shape: [2], data: new Float32Array(2) } } as const;
  expect(() => dequantizeRows(broken)).toThrow('"bare.scale" is float32 [2], expected float32 [1]');
});
