import { describe, expect, test } from 'vitest';
import { generator, median, normals, shuffled, studentInterval } from './statistics.js';

describe('statistics of the benchmarks', () => {
  test('median of an even and an odd number of values', () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 2, 3])).toBe(2.5);
  });

  test('Student interval of five values: mean 3, s = √2.5, t(4) = 2.776', () => {
    const { mean, low, high } = studentInterval([1, 2, 3, 4, 5]);
    expect(mean).toBe(3);
    expect(high - mean).toBeCloseTo((2.776 * Math.sqrt(2.5)) / Math.sqrt(5), 10);
    expect(mean - low).toBeCloseTo(high - mean, 10);
  });

  test('one draw has an interval without width', () => {
    expect(studentInterval([0.7])).toEqual({ mean: 0.7, low: 0.7, high: 0.7 });
  });

  test('a seed gives one permutation, another seed another', () => {
    const items = Array.from({ length: 50 }, (_, index) => index);
    expect(shuffled(items, generator(1))).toEqual(shuffled(items, generator(1)));
    expect(shuffled(items, generator(1))).not.toEqual(shuffled(items, generator(2)));
    expect(shuffled(items, generator(1)).sort((a, b) => a - b)).toEqual(items);
  });

  test('normal deviates have mean 0 and variance 1', () => {
    const values = [...normals(20_000, 5)];
    const mean = values.reduce((total, value) => total + value, 0) / values.length;
    const variance = values.reduce((total, value) => total + (value - mean) ** 2, 0) / values.length;
    expect(Math.abs(mean)).toBeLessThan(0.03); // 4 standard errors of 1 / √20000
    expect(Math.abs(variance - 1)).toBeLessThan(0.05);
  });
});
