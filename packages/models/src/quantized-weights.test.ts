import { compile, constant, grad, type HostTensor, hostTensor, linear, sin, sum, type Tensor } from '@fewtune/engine';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { constantWeights, product, rows, tracedWeights } from './quantized-graph.js';
import {
  heldBytes,
  heldTensors,
  isQuantized,
  nf4Codes,
  type Quantization,
  quantizationOf,
  quantizeTensor,
  quantizeWeights,
} from './quantized-weights.js';

const ways: readonly Partial<Quantization>[] = [
  { bits: 8 },
  { bits: 8, blockSize: 32, symmetric: false },
  { bits: 8, blockSize: 64, symmetric: true },
  { bits: 4 },
  { bits: 4, blockSize: 16, symmetric: true },
  { code: 'nf4' },
  { code: 'nf4', blockSize: 16 },
];
const named = (way: Partial<Quantization>) => JSON.stringify(way);

const wave = (shape: readonly number[], seed: number): HostTensor =>
  hostTensor(
    'float32',
    shape,
    Array.from(
      { length: shape.reduce((a, b) => a * b, 1) },
      (_, i) => Math.sin(i * 12.9898 + seed) * Math.cos(i * 0.37),
    ),
  );
const specOf = ({ dtype, shape }: HostTensor) => ({ dtype, shape });
const plain = ({ shape, data }: HostTensor) => hostTensor('float32', shape, data);
const distance = (a: HostTensor['data'] | number[], b: HostTensor['data'] | number[]) =>
  Math.max(...[...a].map((value, i) => Math.abs(Number(value) - Number(b[i]))));

test('a block by hand: 4 bits with a zero point, and NF4', () => {
  // -0.7 … 0.8 in steps of 0.1: scale 0.1, zero point 7, the whole numbers 0 … 15, two a byte, the even one below.
  const steps = hostTensor(
    'float32',
    [1, 16],
    Array.from({ length: 16 }, (_, i) => (i - 7) / 10),
  );
  const { quantized, data } = quantizeTensor(steps, quantizationOf({ bits: 4, blockSize: 16 }));
  expect([...quantized.values.data]).toEqual([0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe]);
  expect(quantized.scales.data[0]).toBeCloseTo(0.1, 7);
  expect([...quantized.zeros!.data]).toEqual([7]);
  expect(distance(data, steps.data)).toBeLessThan(1e-7);

  // The codes times 3 are exact, in any order; between two codes the nearer one is taken.
  const codes = Array.from(nf4Codes, (code) => 3 * code).reverse();
  const nf4 = quantizeTensor(hostTensor('float32', [1, 16], codes), quantizationOf({ code: 'nf4', blockSize: 16 }));
  expect([...nf4.quantized.values.data]).toEqual([0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01]);
  expect([...nf4.quantized.scales.data]).toEqual([3]);
  expect(distance(nf4.data, codes)).toBeLessThan(1e-6);
  const between = hostTensor('float32', [1, 16], [1, 0.039, 0.041, -0.86, ...new Array(12).fill(0)]);
  const near = quantizeTensor(between, quantizationOf({ code: 'nf4', blockSize: 16 }));
  expect([...near.data].slice(0, 4)).toEqual([1, 0, nf4Codes[8], -1]);
});

test('no value moves by more than half a step', () => {
  const finite = fc.float({ min: -8, max: 8, noNaN: true });
  const matrix = fc
    .tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 40 }))
    .chain(([rows, columns]) =>
      fc
        .array(finite, { minLength: rows * columns, maxLength: rows * columns })
        .map((values) => hostTensor('float32', [rows, columns], values)),
    );
  fc.assert(
    fc.property(matrix, fc.constantFrom<8 | 4>(8, 4), fc.constantFrom(16, 32), (weight, bits, blockSize) => {
      for (const symmetric of [true, false]) {
        const { data, quantized } = quantizeTensor(weight, quantizationOf({ bits, blockSize, symmetric }));
        const [, columns] = weight.shape as [number, number];
        const blocks = quantized.scales.shape[1]!;
        for (let i = 0; i < data.length; i++) {
          const [row, column] = [Math.floor(i / columns), i % columns];
          const step = quantized.scales.data[row * blocks + Math.floor(column / blockSize)] as number;
          // A zero point is rounded itself, so that one end of a block may be another half step away.
          const bound = (symmetric ? 0.5 : 1) * step;
          expect(Math.abs(Number(data[i]) - Number(weight.data[i]))).toBeLessThanOrEqual(bound * (1 + 1e-5) + 1e-40);
        }
      }
    }),
    { numRuns: 200 },
  );
});

describe.each(ways)('%j', (way) => {
  const [out, inner] = [6, 72]; // not whole blocks
  const weights = { 'up.weight': wave([out, inner], 1), 'up.bias': wave([out], 2) };
  const held = quantizeWeights(weights, way);
  const weight = held['up.weight']!;
  const inputs = (given: Readonly<Record<string, HostTensor>>) =>
    Object.fromEntries(Object.entries(given).map(([name, tensor]) => [name, specOf(tensor)]));

  test('a layer equals the plain one with the dequantised weight, as inputs and as constants; so does its gradient', async () => {
    const x = wave([3, inner], 3);
    const tensors = heldTensors(held);
    const loss = (layer: (x: Tensor) => Tensor) => (given: Tensor) => sum(sin(layer(given)));
    const both = (layer: (x: Tensor) => Tensor, given: Tensor) => ({ y: layer(given), dx: grad(loss(layer))(given) });
    await using program = await compile(
      ({ x, w }) => {
        const asInputs = tracedWeights(held, w);
        const asConstants = constantWeights(held);
        const written = constant(plain(weight));
        const bias = constant(weights['up.bias']);
        return {
          inputs: both((given) => product(given, asInputs['up.weight']!, bias), x),
          constants: both((given) => product(given, asConstants['up.weight']!, bias), x),
          value: both((given) => linear(given, asInputs['up.weight']!, bias), x),
          plain: both((given) => linear(given, written, bias), x),
        };
      },
      { x: specOf(x), w: inputs(tensors) },
    );
    const found = await program.run({ x, w: tensors });
    for (const kind of ['inputs', 'constants', 'value'] as const) {
      expect(distance(found[kind].y.data, found.plain.y.data)).toBeLessThan(2e-5);
      expect(distance(found[kind].dx.data, found.plain.dx.data)).toBeLessThan(2e-5);
    }
    // By finite differences, of the layer that is computed with whole numbers.
    const moved = (at: number, by: number) =>
      hostTensor(
        'float32',
        x.shape,
        Array.from(x.data as Float32Array, (value, i) => value + (i === at ? by : 0)),
      );
    const lossAt = async (given: HostTensor) => {
      const { y } = (await program.run({ x: given, w: tensors })).inputs;
      return Array.from(y.data as Float32Array, Math.sin).reduce((a, b) => a + b, 0);
    };
    for (const at of [0, 71, 100, 215]) {
      const slope = ((await lossAt(moved(at, 1e-2))) - (await lossAt(moved(at, -1e-2)))) / 2e-2;
      expect(Number(found.inputs.dx.data[at])).toBeCloseTo(slope, 2);
    }
  });

  test('rows of a table are those of the dequantised one', async () => {
    const ids = hostTensor('int64', [2, 2], [5, 0, 3, 5]);
    await using program = await compile(({ ids }) => rows(constantWeights(held)['up.weight']!, ids), {
      ids: { dtype: 'int64', shape: ['batch', 2] },
    });
    const { shape, data } = await program.run({ ids });
    expect(shape).toEqual([2, 2, inner]);
    const wanted = [5, 0, 3, 5].flatMap((row) => [...weight.data].slice(row * inner, (row + 1) * inner));
    expect(distance(data, wanted.map(Number))).toBeLessThan(1e-6);
  });

  test('is smaller by its bits, keeps no float copy, and is held once', () => {
    const matrix = quantizeWeights({ 'up.weight': wave([64, 256], 1) }, way);
    const bits = quantizationOf(way).bits;
    expect(heldBytes(matrix)).toBeLessThanOrEqual(64 * 256 * 4 * (bits === 8 ? 0.35 : 0.22));
    expect(Object.getOwnPropertyDescriptor(matrix['up.weight'], 'data')?.value).toBeUndefined();
    expect(quantizeWeights(held, way)['up.weight']).toBe(held['up.weight']);
    expect(isQuantized(held['up.bias']!)).toBe(false);
  });
});

test('what cannot be is refused with what can', () => {
  const refused: [Partial<Quantization>, string][] = [
    [{ bits: 5 as 4 }, 'use 8 or 4'],
    [{ bits: 4, blockSize: 'row' }, 'use blocks'],
    [{ bits: 4, blockSize: 24 }, 'power of two from 16'],
    [{ bits: 8, blockSize: 'row', symmetric: false }, 'zero points of whole rows'],
    [{ code: 'nf4', bits: 8, blockSize: 64 }, 'nf4'],
    [{ code: 'fp4' as 'nf4' }, "use 'affine' or 'nf4'"],
  ];
  for (const [options, message] of refused) expect(() => quantizationOf(options), named(options)).toThrow(message);
});
