import { describe, expect, test } from 'vitest';
import * as e from '../index.js';

const random = (count: number, seed: number) =>
  Array.from({ length: count }, (_, i) => Math.sin(i * 12.9898 + seed) * Math.cos(i * 0.37 + seed));

const specsOf = ({ dtype, shape }: e.HostTensor) => ({ dtype, shape });

describe.each([
  { bits: 4, symmetric: false },
  { bits: 4, symmetric: true },
  { bits: 8, symmetric: false },
  { bits: 8, symmetric: true },
] as const)('a weight of $bits bits, symmetric: $symmetric', ({ bits, symmetric }) => {
  const [rows, columns, batch] = [5, 70, 3];
  const weight = e.hostTensor('float32', [rows, columns], random(rows * columns, 1));
  const packed = e.quantizeNBits(weight, { bits, symmetric, blockSize: 32 });
  const x = e.hostTensor('float32', [batch, columns], random(batch * columns, 2));
  const eye = e.hostTensor(
    'float32',
    [columns, columns],
    Array.from({ length: columns ** 2 }, (_, i) => (i % (columns + 1) === 0 ? 1 : 0)),
  );

  test('is within half a step of the weight, and the zero is exact', async () => {
    await using program = await e.compile(({ x }) => e.linearNBits(x, e.constantNBits(packed)), { x: specsOf(eye) });
    const { data } = await program.run({ x: eye }); // [columns, rows]
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const step = packed.scales.data[row * 3 + Math.floor(column / 32)] as number;
        const error = Math.abs((data[column * rows + row] as number) - (weight.data[row * columns + column] as number));
        // A zero point is rounded too, so that one end of a block may be another half step away.
        expect(error).toBeLessThanOrEqual(step * (symmetric ? 0.5 : 1) + 1e-6);
      }
    }
  });

  test('a portable file gives the same, and the gradient is that of the written out weight', async () => {
    const fn = (x: e.Tensor) => e.linearNBits(x, e.constantNBits(packed));
    const loss = (x: e.Tensor) => e.sum(e.sin(fn(x)));
    await using program = await e.compile(({ x }) => ({ y: fn(x), dx: e.grad(loss)(x) }), { x: specsOf(x) });
    const { y, dx } = await program.run({ x });
    const file = e.exportOnnx(({ x }) => ({ y: fn(x!), dx: e.grad(loss)(x!) }), { x: specsOf(x) });
    expect(e.readOnnx(file).opsetImport!.map(({ domain }) => domain ?? '')).toEqual(['']);
    const session = await e.openOnnx(file);
    const portable = await session.run({ x });
    await session.dispose();
    for (const [name, value] of Object.entries({ y, dx })) {
      for (const [i, want] of [...value.data].entries()) {
        expect(Number(portable[name]!.data[i])).toBeCloseTo(Number(want), 3);
      }
    }
  });
});

test('what cannot be packed, or does not fit, is said', () => {
  expect(() => e.quantizeNBits(e.zeros('float32', [2, 2]), { blockSize: 24 })).toThrow('blocks of 24');
  expect(() => e.quantizeNBits(e.zeros('float64', [2, 2]))).toThrow('takes float32 [out, in], not float64 [2, 2]');
  const packed = e.constantNBits(e.quantizeNBits(e.zeros('float32', [2, 40])));
  const x = e.constant(e.zeros('float32', [1, 70]));
  expect(() => e.linearNBits(x, packed)).toThrow('[1, 70] does not fit a weight packed as [2, 2, 16]');
});
