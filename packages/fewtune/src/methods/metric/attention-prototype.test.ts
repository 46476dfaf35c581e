import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { unitRows } from '../../evaluation/distances.js';
import { accuracy, argmaxRows } from '../../evaluation/metrics.js';
import { headLogits, type LinearHead } from '../linear/logistic.js';
import { attentionPrototypeHead, dimensionAttention, supportAttention } from './attention-prototype.js';
import { classMeans } from './class-means.js';
import { prototypeHead } from './prototype.js';

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

describe('supportAttention', () => {
  test('by hand: softmax of the mean cosine to the others', () => {
    const features = Float32Array.of(1, 0, 1, 0, 0, 1); // cosines: 1 and 0, 1 and 0, 0 and 0
    const weights = supportAttention({ hidden: 2, classes: 1, features, labels: new Int32Array(3) }, 0.5);
    const total = 2 * Math.E + 1; // e^(0.5 / 0.5) twice, e^0
    [Math.E / total, Math.E / total, 1 / total].forEach((expected, i) => {
      expect(weights[i]).toBeCloseTo(expected, 6);
    });
  });

  test('sums to one in each class, and is even with one or two examples', () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 1, max: 6 }), (seed, shots) => {
        const { support } = episode(seed, { ways: 3, shots, queries: 1, hidden: 5 });
        const weights = supportAttention(support, 0.05);
        for (let c = 0; c < 3; c++) {
          const own = weights.subarray(c * shots, (c + 1) * shots);
          expect(own.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
          if (shots < 3) for (const w of own) expect(w).toBeCloseTo(1 / shots, 6);
        }
      }),
      { seed: 7, numRuns: 30 },
    );
  });
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
    const head = attentionPrototypeHead(support, {
      attentionTemperature: Number.POSITIVE_INFINITY,
      dimensionShrinkage: 1,
    });
    const plain = prototypeHead(support, 1);
    head.weight.forEach((w, k) => {
      expect(w).toBeCloseTo(plain.weight[k]!, 5);
    });
  });

  test('permuted classes permute logits', () => {
    const { support, query } = episode(4);
    const mirrored = { ...support, labels: support.labels.map((label) => 4 - label) };
    const options = { attentionTemperature: 0.1, dimensionShrinkage: 0.5 };
    const a = headLogits(attentionPrototypeHead(support, options), query.features);
    const b = headLogits(attentionPrototypeHead(mirrored, options), query.features);
    a.forEach((value, k) => {
      expect(b[Math.floor(k / 5) * 5 + 4 - (k % 5)]).toBeCloseTo(value, 4);
    });
  });

  test('with one label in five wrong it loses at most half of what the plain prototype loses', () => {
    let [plainLoss, attentiveLoss] = [0, 0];
    for (let seed = 0; seed < 60; seed++) {
      const { support, query } = episode(seed);
      const noisy = mislabelled(support, 5);
      plainLoss += score(prototypeHead(support, 1), query) - score(prototypeHead(noisy, 1), query);
      attentiveLoss += score(attentionPrototypeHead(support), query) - score(attentionPrototypeHead(noisy), query);
    }
    expect(plainLoss / 60).toBeGreaterThan(0.01); // there is something to lose
    expect(attentiveLoss).toBeLessThanOrEqual(plainLoss / 2);
  });

  test('says which option is out of range', () => {
    const { support } = episode(1);
    expect(() => attentionPrototypeHead(support, { attentionTemperature: 0 })).toThrow(/above 0, not 0/);
    expect(() => attentionPrototypeHead(support, { dimensionShrinkage: 2 })).toThrow(/0 to 1, not 2/);
  });
});
