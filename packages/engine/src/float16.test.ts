import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { fromFloat16, toFloat16 } from './float16.js';
import * as e from './index.js';

describe('float16 in host memory', () => {
  // Bits by hand from IEEE 754-2008, section 3.4; the ties are halfway between two neighbours.
  test.each([
    [0, 0x0000],
    [-0, 0x8000],
    [1, 0x3c00],
    [-2, 0xc000],
    [1 / 3, 0x3555],
    [65504, 0x7bff],
    [65519.996, 0x7bff],
    [65520, 0x7c00], // a tie: 65536 is even
    [1e9, 0x7c00],
    [Number.POSITIVE_INFINITY, 0x7c00],
    [-1e9, 0xfc00],
    [2 ** -14, 0x0400],
    [2 ** -24, 0x0001],
    [2 ** -25, 0x0000], // a tie: 0 is even
    [2 ** -25 * 1.0001, 0x0001],
    [3 * 2 ** -25, 0x0002], // a tie: 2 is even
    [2 ** -14 - 2 ** -25, 0x0400], // a tie between the largest subnormal and the smallest normal
    [1e-30, 0x0000],
    [1 + 2 ** -11, 0x3c00],
    [1 + 3 * 2 ** -11, 0x3c02],
  ])('%d is %i', (value, bits) => {
    expect(toFloat16([value])[0]).toBe(bits);
  });

  test('every half survives the way through float32', () => {
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const back = toFloat16(fromFloat16(all));
    const isNaN16 = (half: number) => (half & 0x7fff) > 0x7c00;
    const wrong = all.filter((half, i) => (isNaN16(half) ? !isNaN16(back[i]!) : back[i] !== half));
    expect([...wrong]).toEqual([]);
  });

  test('rounds to the nearest half', () => {
    const halves = fromFloat16(Uint16Array.from({ length: 0x7c00 }, (_, i) => i)); // all finite ones, rising
    fc.assert(
      fc.property(fc.float({ min: 0, max: 65504, noNaN: true }), (value) => {
        const bits = toFloat16([value])[0]!;
        const error = Math.abs(halves[bits]! - value);
        const neighbours = [bits - 1, bits + 1].filter((at) => at >= 0 && at < 0x7c00);
        return neighbours.every((at) => {
          const other = Math.abs(halves[at]! - value);
          return error < other || (error === other && bits % 2 === 0);
        });
      }),
      { numRuns: 2000 },
    );
  });

  test('agrees with ONNX Runtime', async () => {
    await using program = await e.compile(({ x }) => e.cast(x, 'float16'), { x: { dtype: 'float32', shape: ['n'] } });
    const x = Float32Array.from({ length: 4096 }, (_, i) => Math.sin(i * 1.3) * 10 ** ((i % 14) - 8));
    const { data } = await program.run({ x: e.hostTensor('float32', [x.length], x) });
    expect(
      Buffer.compare(Buffer.from(data.buffer, data.byteOffset, data.byteLength), Buffer.from(toFloat16(x).buffer)),
    ).toBe(0);
  });

  test('numbers become half constants, and come back', () => {
    expect([...e.hostTensor('float16', [2], [1, -2]).data]).toEqual([0x3c00, 0xc000]);
    const tensor = e.hostTensor('float32', [3], [0.5, 1e9, -3]);
    expect([...e.convertFloat(e.convertFloat(tensor, 'float16'), 'float32').data]).toEqual([0.5, Infinity, -3]);
    expect(() => e.convertFloat(e.zeros('int64', [1]), 'float32')).toThrow('convertFloat takes floats, not int64');
  });
});
