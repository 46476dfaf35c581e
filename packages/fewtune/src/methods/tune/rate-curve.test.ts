import { expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { RateCurve, ratesFound, ratesOf } from './rate-curve.js';

/** A loss that falls by a logistic curve around 1e-3 of the rate, and explodes above 1e-1. */
const lossAt = (lr: number) => 2 - 1.5 / (1 + (1e-3 / lr) ** 1.5) + (lr / 0.1) ** 4;

function curveOf(noise: number, seed = 1) {
  const random = createRandom(seed);
  const curve = new RateCurve();
  for (const lr of ratesOf({ from: 1e-6, to: 10, steps: 80 })) {
    if (curve.add(lr, lossAt(lr) + noise * random.gaussian())) break;
  }
  return curve.points;
}

test('rates rise by one factor from the first to the last', () => {
  const rates = ratesOf({ from: 1e-6, to: 1, steps: 7 });
  for (const [i, rate] of rates.entries()) expect(Math.log10(rate)).toBeCloseTo(i - 6, 10);
});

test('a running mean is the loss itself at first, and the test ends when it explodes', () => {
  const points = curveOf(0);
  expect(points[0]!.smoothed).toBeCloseTo(points[0]!.loss, 12);
  expect(points.at(-1)!.lr).toBeLessThan(1);
  expect(new RateCurve().add(1, Number.NaN)).toBe(true);
});

test('the steepest place is found, in noise as well', () => {
  const exact = ratesFound(curveOf(0));
  expect(Math.abs(Math.log10(exact.steepest / 1e-3))).toBeLessThan(0.15);
  expect(Math.abs(Math.log10(exact.lowest / 0.0256))).toBeLessThan(0.25); // where the function itself is lowest
  expect(exact.suggestion).toBe(Math.min(exact.steepest, exact.lowest / 10));
  for (const seed of [1, 2, 3, 4, 5]) {
    const found = ratesFound(curveOf(0.05, seed)).steepest;
    expect(found, `seed ${seed}`).toBeGreaterThan(3e-4);
    expect(found, `seed ${seed}`).toBeLessThan(3e-3);
  }
});

test('a loss that only rises suggests nothing', () => {
  const rising = ratesOf({ from: 1e-3, to: 1, steps: 20 }).map((lr) => ({ lr, loss: lr, smoothed: lr }));
  expect(() => ratesFound(rising)).toThrow(/does not fall between the rates 0.001 and 1/);
  expect(() => ratesFound([])).toThrow(/at any rate/);
});
