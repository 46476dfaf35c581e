import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { negativeLogLikelihood } from '../../evaluation/calibration.js';
import { unitRows } from '../../evaluation/distances.js';
import { accuracy, argmaxRows } from '../../evaluation/metrics.js';
import { headLogits, selectRows } from '../linear/logistic.js';
import { classMeans, type LabelledFeatures } from './class-means.js';
import { ldaHead, mahalanobisHead } from './discriminant.js';
import { references } from './fixtures/heads.js';
import { leaveOneOutTemperature, prototypeLeaveOneOut } from './leave-one-out.js';
import { prototypeHead } from './prototype.js';
import { ridgeHead } from './ridge.js';

/** `close` to every number, up to `tolerance` of the largest. */
function expectClose(found: ArrayLike<number>, wanted: readonly number[], tolerance: number): void {
  expect(found.length).toBe(wanted.length);
  const size = Math.max(...wanted.map(Math.abs));
  wanted.forEach((value, k) => {
    expect(Math.abs(found[k]! - value), `entry ${k}: ${found[k]} for ${value}`).toBeLessThan(tolerance * size);
  });
}

// float32 features and heads: seven digits, of which a solve loses one or two
describe.each(references)('as numpy and scikit-learn, $name', ({ support, queries, ridge, lda, mahalanobis }) => {
  test.each(ridge)('ridge, penalty $penalty, and the scores of left-out rows', (wanted) => {
    const found = ridgeHead(support, wanted.penalty);
    expectClose(found.head.weight, wanted.weight, 1e-5);
    expectClose(found.head.bias, wanted.bias, 1e-5);
    expectClose(found.leaveOneOut, wanted.leaveOneOut, 1e-5);
    expect(found.error).toBeCloseTo(wanted.error, 6);
  });

  test('ridge takes the penalty of the least error', () => {
    const best = ridge.reduce((a, b) => (b.error < a.error ? b : a));
    const penalties = ridge.map(({ penalty }) => penalty);
    expect(ridgeHead(support, penalties).penalty).toBe(best.penalty);
  });

  test.each(lda)('LDA, shrinkage $shrinkage', (wanted) => {
    const found = ldaHead(support, wanted.shrinkage);
    expectClose(found.weight, wanted.weight, 1e-4);
    expectClose(found.bias, wanted.bias, 1e-4);
  });

  test.each(mahalanobis)('Mahalanobis, ridge $ridge', (wanted) => {
    expectClose(mahalanobisHead(support, wanted.ridge)(queries), wanted.logits, 1e-5);
  });
});

const random = (seed: number, rows: number, hidden: number, classes: number): LabelledFeatures => {
  const { gaussian } = createRandom(seed);
  const labels = Int32Array.from({ length: rows }, (_, i) => i % classes);
  const centres = Float32Array.from({ length: classes * hidden }, () => gaussian());
  const features = Float32Array.from({ length: rows * hidden }, (_, k) => {
    const label = labels[Math.floor(k / hidden)]!;
    return centres[label * hidden + (k % hidden)]! + 0.6 * gaussian();
  });
  return { hidden, classes, features: unitRows(features, hidden), labels };
};

const heads = [
  ['ridge', (data: LabelledFeatures, x: Float32Array) => headLogits(ridgeHead(data, 0.3).head, x)],
  ['LDA', (data: LabelledFeatures, x: Float32Array) => headLogits(ldaHead(data, 0.5), x)],
  ['Mahalanobis', (data: LabelledFeatures, x: Float32Array) => mahalanobisHead(data, 0.5)(x)],
] as const;

describe.each(heads)('%s', (_, logits) => {
  const shape = fc.record({ seed: fc.integer(), rows: fc.integer({ min: 4, max: 14 }) });

  test('ignores the order of the support; permuted classes permute logits', () => {
    fc.assert(
      fc.property(shape, ({ seed, rows }) => {
        const data = random(seed, rows, 8, 4);
        const order = Int32Array.from(createRandom(seed).shuffle([...data.labels.keys()]));
        const moved = {
          ...data,
          labels: Int32Array.from(order, (row) => 3 - data.labels[row]!),
          features: selectRows(data.features, 8, order),
        };
        const before = logits(data, data.features);
        const after = logits(moved, data.features);
        const size = Math.max(...before.map(Math.abs));
        before.forEach((value, k) => {
          const mirrored = after[k - (k % 4) + 3 - (k % 4)]!;
          expect(Math.abs(mirrored - value)).toBeLessThan(1e-4 * size);
        });
      }),
      { seed: 7, numRuns: 30 },
    );
  });

  test('learns from one example a class and from many', () => {
    for (const rows of [4, 400]) {
      const data = random(3, rows, 16, 4);
      expect(accuracy(argmaxRows(logits(data, data.features), 4), data.labels)).toBeGreaterThan(0.97);
    }
  });
});

test('LDA of single examples is the nearest by Euclid, also with more of them than dimensions', () => {
  for (const hidden of [2, 8]) {
    const data = random(9, 4, hidden, 4);
    const { weight, bias } = ldaHead(data, 0.5);
    expectClose(weight, [...classMeans(data, false)], 1e-6);
    for (const value of bias) expect(value).toBeCloseTo(Math.log(1 / 4) - 1 / 2, 5);
  }
});

test('the leave-one-out scores of ridge are those of fits without the row', () => {
  const data = random(11, 20, 6, 3);
  const whole = ridgeHead(data, 0.5);
  for (let i = 0; i < 20; i++) {
    const rows = Int32Array.from([...data.labels.keys()].filter((row) => row !== i));
    const rest = {
      ...data,
      features: selectRows(data.features, 6, rows),
      labels: Int32Array.from(rows, (row) => data.labels[row]!),
    };
    const scores = headLogits(ridgeHead(rest, 0.5).head, data.features.subarray(i * 6, i * 6 + 6));
    scores.forEach((score, c) => {
      expect(whole.leaveOneOut[i * 3 + c]).toBeCloseTo(score, 5);
    });
  }
});

test('prototypes without the row itself: as prototypes fitted without it', () => {
  const data = random(12, 14, 6, 3);
  const found = prototypeLeaveOneOut(data);
  for (let i = 0; i < 14; i++) {
    const rows = Int32Array.from([...data.labels.keys()].filter((row) => row !== i));
    const rest = {
      ...data,
      features: selectRows(data.features, 6, rows),
      labels: Int32Array.from(rows, (row) => data.labels[row]!),
    };
    const scores = headLogits(prototypeHead(rest, 1), data.features.subarray(i * 6, i * 6 + 6));
    scores.forEach((score, c) => {
      expect(found[i * 3 + c]).toBeCloseTo(score, 5);
    });
  }
});

test('the temperature of left-out rows: likelier than its neighbours, and the fallback with single examples', () => {
  const data = random(13, 30, 8, 3);
  const found = leaveOneOutTemperature(data);
  const cosines = prototypeLeaveOneOut(data);
  // labels are smoothed by 1 / (rows + 1), as fitTemperature does
  const loss = (temperature: number) => negativeLogLikelihood(cosines, data.labels, 3, temperature, 1 / 31);
  expect(loss(found)).toBeLessThan(loss(found * 1.1));
  expect(loss(found)).toBeLessThan(loss(found / 1.1));
  expect(leaveOneOutTemperature(random(1, 3, 8, 3), 0.07)).toBe(0.07);
  // a single example of a fourth class is no row to judge by
  const alone = {
    ...data,
    classes: 4,
    labels: Int32Array.from([...data.labels, 3]),
    features: Float32Array.from([...data.features, ...data.features.subarray(0, 8)]),
  };
  expect(Number.isFinite(leaveOneOutTemperature(alone))).toBe(true);
});

test('the temperature of ridge makes left-out rows likely: lower where classes are told apart better', () => {
  const easy = random(1, 40, 16, 4);
  const hard = { ...easy, labels: easy.labels.map((label, i) => (i % 3 === 0 ? (label + 1) % 4 : label)) };
  expect(ridgeHead(easy, 0.3).temperature).toBeLessThan(ridgeHead(hard, 0.3).temperature);
});

test('says which option is out of range, and which class is empty', () => {
  const data = random(1, 8, 4, 2);
  expect(() => ridgeHead(data, 0)).toThrow(/above 0, not 0/);
  expect(() => ridgeHead(data, [])).toThrow(/above 0/);
  expect(() => ldaHead(data, 0)).toThrow(/above 0 to 1, not 0/);
  expect(() => mahalanobisHead(data, -1)).toThrow(/above 0, not -1/);
  expect(() => ldaHead({ ...data, classes: 3 }, 0.5)).toThrow(/class 2 .* no example/);
});
