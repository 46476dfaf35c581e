import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { classDistances } from './distances.js';

const fixture = JSON.parse(readFileSync(new URL('./fixtures/distances.json', import.meta.url), 'utf8'));

describe('classDistances', () => {
  test('are those of numpy and scikit-learn (fixtures/make_distances.py)', () => {
    const { hidden, classes } = fixture;
    const features = Float32Array.from(fixture.features as number[]);
    const found = classDistances({ hidden, classes, features, labels: Int32Array.from(fixture.labels as number[]) });
    for (const name of ['intra', 'inter', 'silhouette', 'daviesBouldin'] as const) {
      expect(found[name]).toBeCloseTo(fixture[name], 5);
    }
    expect(found.ratio).toBeCloseTo(fixture.inter / fixture.intra, 4);
  });

  test('by hand: two pairs at right angles', () => {
    // Class 0 at ±30° about the first axis, class 1 about the second one; lengths must not matter.
    const [c, s] = [Math.cos(Math.PI / 6), Math.sin(Math.PI / 6)];
    const features = Float32Array.of(2 * c, 2 * s, 5 * c, -5 * s, s, c, -3 * s, 3 * c);
    const found = classDistances({ hidden: 2, classes: 2, features, labels: Int32Array.of(0, 0, 1, 1) });
    expect(found.intra).toBeCloseTo(0.5, 6); // each row is sin 30° off its mean (cos 30°, 0)
    expect(found.inter).toBeCloseTo(c * Math.SQRT2, 6);
    expect(found.daviesBouldin).toBeCloseTo(1 / (c * Math.SQRT2), 6);
    // a = 2 sin 30° = 1; the other class lies 30° and 90° off for one row, 90° and 150° for its twin
    const chord = (degrees: number) => 2 * Math.sin((degrees * Math.PI) / 360);
    const b1 = (chord(30) + chord(90)) / 2;
    const b2 = (chord(90) + chord(150)) / 2;
    expect(found.silhouette).toBeCloseTo(((b1 - 1) / Math.max(b1, 1) + (b2 - 1) / b2) / 2, 6);
  });

  test('rows on their class mean: nothing inside, an infinite ratio, a perfect silhouette', () => {
    const features = Float32Array.of(1, 0, 1, 0, 0, 1, 0, 1);
    const found = classDistances({ hidden: 2, classes: 2, features, labels: Int32Array.of(0, 0, 1, 1) });
    expect(found).toMatchObject({ intra: 0, ratio: Number.POSITIVE_INFINITY, silhouette: 1, daviesBouldin: 0 });
    expect(found.inter).toBeCloseTo(Math.SQRT2, 6);
  });

  test('says what it cannot measure', () => {
    const one = { hidden: 2, classes: 2, features: Float32Array.of(1, 0), labels: Int32Array.of(1) };
    expect(() => classDistances(one)).toThrow(/rows of two classes; there are rows of 1/);
    expect(() => classDistances({ ...one, hidden: 3 })).toThrow(/not 1 rows of 3/);
  });
});
