import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { unitRows } from '../../evaluation/distances.js';
import { accuracy, argmaxRows } from '../../evaluation/metrics.js';
import { headLogits, type LinearHead } from '../linear/logistic.js';
import { attentionPrototypeHead, dimensionAttention } from './attention-prototype.js';
import { classMeans } from './class-means.js';
import { choleskySolveRows, shrunkCholesky, withinClassCovariance } from './covariance.js';
import { prototypeHead } from './prototype.js';
import { spreadSolver } from './spread-solver.js';
import { marginAttention, reassignment } from './support-attention.js';

/** Clouds of unit length; rows after the support's `shots` of each class are queries. */
function episode(seed: number, { ways = 5, shots = 5, queries = 20, hidden = 24, spread = 0.9 } = {}) {
  const random = createRandom(seed);
  const centres = Float32Array.from({ length: ways * hidden }, () => random.gaussian());
  const part = (perClass: number) => {
    const labels = Int32Array.from({ length: ways * perClass }, (_, i) => Math.floor(i / perClass));
    const features = new Float32Array(labels.length * hidden);
    labels.forEach((label, i) => {
      for (let j = 0; j < hidden; j++) {
        features[i * hidden + j] = centres[label * hidden + j]! + spread * random.gaussian();
      }
    });
    return { hidden, classes: ways, features: unitRows(features, hidden), labels };
  };
  return { support: part(shots), query: part(queries) };
}

/** The first example of each class carries the next class's label. */
function mislabelled(support: ReturnType<typeof episode>['support'], shots: number) {
  return {
    ...support,
    labels: support.labels.map((label, i) => (i % shots === 0 ? (label + 1) % support.classes : label)),
  };
}

const score = (head: LinearHead, query: ReturnType<typeof episode>['query']) =>
  accuracy(argmaxRows(headLogits(head, query.features), query.classes), query.labels);

describe('marginAttention', () => {
  test('by hand', () => {
    // Class 0: three rows along x, one along y. Class 1: three rows along y.
    const features = Float32Array.of(1, 0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 1);
    const data = { hidden: 2, classes: 2, features, labels: Int32Array.of(0, 0, 0, 0, 1, 1, 1) };
    const weights = marginAttention(data, { temperature: 0.5, slack: 0.2 });
    // The odd one: cosine 0 to its own others, 1 to class 1. The rest of class 0: 2 / √5 to the others.
    expect(weights[3 * 2]).toBeCloseTo(Math.exp(-0.8 / 0.5), 6);
    expect(weights[0]).toBeCloseTo(1, 6);
    // Class 1: cosine 1 to the others, 1 / √10 to class 0.
    expect(weights[4 * 2 + 1]).toBeCloseTo(1, 6);
  });

  test('stays at the label, from 0 to 1, and whole with one or two examples', () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 1, max: 6 }), (seed, shots) => {
        const { support } = episode(seed, { ways: 3, shots, queries: 1, hidden: 5 });
        const weights = marginAttention(support, { temperature: 0.05, slack: 0.2 });
        weights.forEach((w, k) => {
          const own = support.labels[Math.floor(k / 3)] === k % 3;
          if (!own) expect(w).toBe(0);
          else if (shots < 3) expect(w).toBe(1);
          else expect(w > 0 && w <= 1).toBe(true);
        });
      }),
      { seed: 7, numRuns: 30 },
    );
  });
});

describe('reassignment', () => {
  const options = { sharpness: 14, mislabelled: 0.1, iterations: 3 };

  test('one round by hand, every cosine from a mean without the row', () => {
    const { support } = episode(5, { ways: 3, shots: 4, queries: 1, hidden: 6 });
    const noisy = mislabelled(support, 4);
    const { features, labels } = noisy;
    const found = reassignment(noisy, { ...options, iterations: 1 });
    labels.forEach((label, i) => {
      const own = features.subarray(i * 6, i * 6 + 6);
      const scores = [0, 1, 2].map((c) => {
        const mean = [0, 1, 2, 3, 4, 5].map((j) =>
          labels.reduce((sum, other, k) => (other === c && k !== i ? sum + features[k * 6 + j]! : sum), 0),
        );
        const cosine = mean.reduce((sum, m, j) => sum + m * own[j]!, 0) / Math.hypot(...mean);
        return (c === label ? 0.9 : 0.05) * Math.exp(14 * cosine);
      });
      const total = scores.reduce((a, b) => a + b, 0);
      scores.forEach((score, c) => {
        expect(found[i * 3 + c]).toBeCloseTo(score / total, 4); // class sums are float32
      });
    });
  });

  test('rows share themselves out whole, and keep their label with one or two examples of it', () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 1, max: 6 }), fc.boolean(), (seed, shots, named) => {
        const { support } = episode(seed, { ways: 3, shots, queries: 1, hidden: 5 });
        const names = named
          ? episode(seed + 1, { ways: 3, shots: 1, queries: 1, hidden: 5 }).support.features
          : undefined;
        const found = reassignment(support, options, names);
        support.labels.forEach((label, i) => {
          const own = found.subarray(i * 3, i * 3 + 3);
          expect(own.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 9);
          if (shots < 3) expect(own[label]).toBe(1);
        });
      }),
      { seed: 7, numRuns: 40 },
    );
  });

  test.each([0.1, 'estimated'] as const)('moves a mislabelled example to where it belongs, rate %s', (rate) => {
    const { support } = episode(1, { spread: 0.3 });
    const found = reassignment(mislabelled(support, 5), { ...options, mislabelled: rate });
    support.labels.forEach((truth, i) => {
      expect(found[i * 5 + truth]).toBeGreaterThan(0.9);
    });
  });

  test('an estimated rate is that of the round before, drawn towards the prior', () => {
    const { support } = episode(5, { ways: 3, shots: 4, queries: 1, hidden: 6 });
    const noisy = mislabelled(support, 4);
    const at = (rate: number | 'estimated', iterations: number) =>
      reassignment(noisy, { ...options, mislabelled: rate, iterations });
    const first = at('estimated', 1);
    expect([...first]).toEqual([...at(0.1, 1)]);
    const wrong = noisy.labels.reduce((sum, label, i) => sum + 1 - first[i * 3 + label]!, 0) / noisy.labels.length;
    const rate = (0.25 * 0.1 + wrong) / 1.25;
    const second = at('estimated', 2);
    const told = at(0.1, 2); // the same cosines, another rate: odds differ by a factor alone
    const odds = (r: number) => (1 - r) / (r / 2);
    noisy.labels.forEach((label, i) => {
      const other = (label + 1) % 3;
      const ratio = (of: Float64Array) => of[i * 3 + label]! / of[i * 3 + other]!;
      expect(ratio(second) / ratio(told) / (odds(rate) / odds(0.1))).toBeCloseTo(1, 6);
    });
  });

  test('right labels are doubted less where the rate is estimated', () => {
    const doubt = (rate: number | 'estimated') => {
      let sum = 0;
      for (let seed = 0; seed < 20; seed++) {
        const { support } = episode(seed, { spread: 1 });
        const found = reassignment(support, { ...options, mislabelled: rate });
        sum += support.labels.reduce((all, label, i) => all + 1 - found[i * 5 + label]!, 0) / support.labels.length;
      }
      return sum / 20;
    };
    expect(doubt('estimated')).toBeLessThan(0.8 * doubt(0.1));
  });
});

test('fewer rows than dimensions: solving on rows × rows is solving with the whole covariance', () => {
  fc.assert(
    fc.property(
      fc.integer(),
      fc.integer({ min: 2, max: 4 }),
      fc.constantFrom(0.1, 0.5, 0.9),
      (seed, shots, shrinkage) => {
        const { support, query } = episode(seed, { ways: 3, shots, queries: 1, hidden: 16 });
        const lower = shrunkCholesky(withinClassCovariance(support), 16, shrinkage);
        const whole = choleskySolveRows(lower, query.features, 16);
        const size = Math.max(...whole.map(Math.abs));
        spreadSolver(
          support,
          shrinkage,
        )(query.features).forEach((value, k) => {
          expect(Math.abs(value - whole[k]!)).toBeLessThan(1e-4 * size); // 1e-9 is added to the diagonal of either
        });
      },
    ),
    { seed: 7, numRuns: 30 },
  );
});

test('by hand: a dimension that tells classes apart counts, one that only varies inside them does not', () => {
  const data = {
    hidden: 2,
    classes: 2,
    features: Float32Array.of(1, 1, 1, -1, -1, 1, -1, -1),
    labels: Int32Array.of(0, 0, 1, 1),
  };
  const means = classMeans(data, false);
  // between: 2 and 0; the mean 1 of the metric is kept
  expect([...dimensionAttention(data, means, 0)]).toEqual([2, 0]);
  expect([...dimensionAttention(data, means, 0.5)]).toEqual([1.5, 0.5]);
  expect([...dimensionAttention(data, means, 1)]).toEqual([1, 1]);
});

describe('attentionPrototypeHead', () => {
  test('without attention it is the plain prototype', () => {
    const { support } = episode(3);
    const head = attentionPrototypeHead(support, { attention: 'none', centre: false, shrinkage: 1, refinement: 0 });
    const plain = prototypeHead(support, 1);
    head.weight.forEach((w, k) => {
      expect(w).toBeCloseTo(plain.weight[k]!, 5);
    });
  });

  test('permuted classes permute logits', () => {
    const { support, query } = episode(4);
    const mirrored = { ...support, labels: support.labels.map((label) => 4 - label) };
    for (const options of [{}, { attention: 'margin', shrinkage: 1, dimensionShrinkage: 0.5 }] as const) {
      const a = headLogits(attentionPrototypeHead(support, options), query.features);
      const b = headLogits(attentionPrototypeHead(mirrored, options), query.features);
      a.forEach((value, k) => {
        expect(b[Math.floor(k / 5) * 5 + 4 - (k % 5)]).toBeCloseTo(value, 3); // sums in another order, then a solve
      });
    }
  });

  test.each(['reassign', 'margin'] as const)(
    '%s: with one label in five wrong it loses at most half of what the plain prototype loses',
    (attention) => {
      let [plainLoss, attentiveLoss] = [0, 0];
      for (let seed = 0; seed < 60; seed++) {
        const { support, query } = episode(seed);
        const noisy = mislabelled(support, 5);
        plainLoss += score(prototypeHead(support, 1), query) - score(prototypeHead(noisy, 1), query);
        attentiveLoss +=
          score(attentionPrototypeHead(support, { attention }), query) -
          score(attentionPrototypeHead(noisy, { attention }), query);
      }
      expect(plainLoss / 60).toBeGreaterThan(0.01); // there is something to lose
      expect(attentiveLoss).toBeLessThanOrEqual(plainLoss / 2);
    },
  );

  test('says which option is out of range', () => {
    const { support } = episode(1);
    expect(() => attentionPrototypeHead(support, { attentionTemperature: 0 })).toThrow(/above 0, not 0/);
    expect(() => attentionPrototypeHead(support, { mislabelled: 1 })).toThrow(/or "estimated", not 1/);
    expect(() => attentionPrototypeHead(support, { dimensionShrinkage: 2 })).toThrow(/0 to 1, not 2/);
    expect(() => attentionPrototypeHead(support, { dimensionShrinkage: 0.5 })).toThrow(/set shrinkage to 1 with it/);
  });
});
