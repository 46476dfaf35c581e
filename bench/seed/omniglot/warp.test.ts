import { hostTensor } from '@fewtune/engine';
import { rotateImages } from 'fewtune';
import { expect, test } from 'vitest';
import { randomBend, seen, size, sourceSize } from './warp.js';

const source = hostTensor(
  'float32',
  [1, 1, sourceSize, sourceSize],
  Float32Array.from({ length: sourceSize ** 2 }, (_, i) => (Math.sin(i * 0.37) + 1) / 2),
);
const upright = { mirrored: false, turns: 0 };
const near = (values: ArrayLike<number | bigint>) => Array.from(values, (value) => expect.closeTo(Number(value), 4));

test('unbent, a pixel is the mean of the four that it covers', () => {
  const values = source.data as Float32Array;
  const means = Array.from({ length: size * size }, (_, i) => {
    const at = 2 * Math.floor(i / size) * sourceSize + 2 * (i % size);
    return (values[at]! + values[at + 1]! + values[at + sourceSize]! + values[at + sourceSize + 1]!) / 4;
  });
  expect([...seen(source, [0], [upright]).data]).toEqual(near(means));
});

test('turns and mirrors are those of pixels', () => {
  const plain = seen(source, [0], [upright]);
  const turned = [1, 2, 3].map((turns) => [...seen(source, [0], [{ mirrored: false, turns }]).data]);
  const expected = [1, 2, 3].map((turns) => [...rotateImages(plain, turns).data]);
  // Clockwise or not does not matter to an augmentation, but all four must occur.
  expect(turned[1]).toEqual(near(expected[1]!));
  expect([turned[0], turned[2]]).toEqual([near(expected[0]!), near(expected[2]!)]);
  const mirrored = [...seen(source, [0], [{ mirrored: true, turns: 0 }]).data];
  const rows = Array.from({ length: size }, (_, y) => [...plain.data].slice(y * size, (y + 1) * size).reverse());
  expect(mirrored).toEqual(near(rows.flat().map(Number)));
});

test('a bend moves ink a little, and the same randomness bends alike', () => {
  const bend = (step: number) => {
    let state = 0.3;
    const random = () => {
      state = (state + step) % 1;
      return state;
    };
    return randomBend(random, random, 0.03);
  };
  expect(bend(0.37)).toEqual(bend(0.37));
  const ink = new Float32Array(sourceSize ** 2);
  for (let y = 26; y < 30; y++) ink.fill(1, y * sourceSize + 12, y * sourceSize + 44);
  const bar = hostTensor('float32', [1, 1, sourceSize, sourceSize], ink);
  const total = (values: ArrayLike<number | bigint>) => Array.from(values, Number).reduce((a, b) => a + b, 0);
  const [plain, bent] = [seen(bar, [0], [upright]), seen(bar, [0], [{ ...upright, bend: bend(0.37) }])];
  expect([...bent.data]).not.toEqual([...plain.data]);
  expect(Math.abs(total(bent.data) / total(plain.data) - 1)).toBeLessThan(0.5);
});
