import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createRandom } from './random.js';
import { rowsByClass, stratifiedFolds, stratifiedSplit } from './split.js';

const labelled = fc
  .array(fc.integer({ min: 2, max: 9 }), { minLength: 1, maxLength: 8 })
  .chain((sizes) =>
    fc.shuffledSubarray(
      sizes.flatMap((size, c) => Array(size).fill(c) as number[]),
      { minLength: sizes.reduce((a, b) => a + b, 0) },
    ),
  )
  .map((labels) => Int32Array.from(labels));

test('folds part the rows, evenly within each class and over all', () => {
  fc.assert(
    fc.property(labelled, fc.integer({ min: 2, max: 5 }), fc.integer(), (labels, k, seed) => {
      const folds = stratifiedFolds(labels, k, seed);
      const sizes = (rows: number[]) =>
        Array.from({ length: k }, (_, f) => rows.filter((row) => folds[row] === f).length);
      const spread = (counts: number[]) => Math.max(...counts) - Math.min(...counts);
      expect(folds.every((fold) => fold >= 0 && fold < k)).toBe(true);
      expect(spread(sizes([...labels.keys()]))).toBeLessThanOrEqual(1);
      for (const rows of rowsByClass(labels)) {
        expect(spread(sizes(rows))).toBeLessThanOrEqual(1);
        expect(Math.max(...sizes(rows))).toBeLessThan(rows.length); // something is left to learn from
      }
      expect(stratifiedFolds(labels, k, seed)).toEqual(folds);
    }),
  );
});

test('a split parts the rows, keeps every class in training and meets the fraction', () => {
  fc.assert(
    fc.property(labelled, fc.double({ min: 0.05, max: 0.9, noNaN: true }), fc.integer(), (labels, fraction, seed) => {
      const { train, test } = stratifiedSplit(labels, fraction, seed);
      expect([...train, ...test].sort((a, b) => a - b)).toEqual([...labels.keys()]);
      expect(new Set([...train].map((row) => labels[row]))).toEqual(new Set(labels));
      const most = labels.length - new Set(labels).size;
      expect(test.length).toBe(Math.min(Math.round(labels.length * fraction), most));
    }),
  );
});

test('random numbers: uniform and normal moments, repeatable by seed', () => {
  const random = createRandom(1);
  const n = 50_000;
  const uniform = Array.from({ length: n }, () => random.next());
  const normal = Array.from({ length: n }, () => random.gaussian());
  const mean = (xs: number[]) => xs.reduce((a, b) => a + b, 0) / xs.length;
  // Six standard errors: 0.29 / √n for the mean of uniforms, 1 / √n and √(2 / n) for normals.
  expect(Math.abs(mean(uniform) - 0.5)).toBeLessThan((6 * 0.29) / Math.sqrt(n));
  expect(Math.abs(mean(normal))).toBeLessThan(6 / Math.sqrt(n));
  expect(Math.abs(mean(normal.map((x) => x * x)) - 1)).toBeLessThan(6 * Math.sqrt(2 / n));
  expect(createRandom(2).next()).not.toBe(createRandom(1).next());
  expect(createRandom(5).shuffle([...Array(20).keys()])).toEqual(createRandom(5).shuffle([...Array(20).keys()]));
});
