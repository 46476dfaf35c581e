import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { accuracy, argmaxRows } from '../../evaluation/metrics.js';
import { linear } from '../linear/linear.js';
import { headLogits } from '../linear/logistic.js';
import type { FeatureSource, FitContext, Labelled } from '../method.js';
import { withNames } from '../support.js';
import { choleskySolveRows, shrunkCholesky, withinClassCovariance } from './covariance.js';
import { type PrototypeOptions, prototype, prototypeHead } from './prototype.js';

function cloud(seed: number, classes: number, perClass: number, hidden: number, spread: number) {
  const random = createRandom(seed);
  const centres = Float32Array.from({ length: classes * hidden }, () => random.gaussian());
  const labels = Int32Array.from({ length: classes * perClass }, (_, i) => i % classes);
  const features = new Float32Array(labels.length * hidden);
  labels.forEach((label, i) => {
    let squares = 0;
    for (let j = 0; j < hidden; j++) {
      // Directions spread unequally, which is what the metric is to find out.
      const value = centres[label * hidden + j]! + (j < hidden / 2 ? 3 : 0.3) * spread * random.gaussian();
      features[i * hidden + j] = value;
      squares += value * value;
    }
    for (let j = 0; j < hidden; j++) features[i * hidden + j]! /= Math.sqrt(squares);
  });
  return { hidden, classes, features, labels };
}

const shape = fc.record({
  seed: fc.integer(),
  classes: fc.integer({ min: 2, max: 5 }),
  perClass: fc.integer({ min: 1, max: 6 }),
  shrinkage: fc.constantFrom(0.1, 0.5, 1),
});

describe('prototypeHead', () => {
  test('ignores the order of the support', () => {
    fc.assert(
      fc.property(shape, ({ seed, classes, perClass, shrinkage }) => {
        const support = cloud(seed, classes, perClass, 6, 0.5);
        const order = createRandom(seed).shuffle([...support.labels.keys()]);
        const shuffled = {
          ...support,
          labels: Int32Array.from(order, (row) => support.labels[row]!),
          features: Float32Array.from(order.flatMap((row) => [...support.features.subarray(row * 6, row * 6 + 6)])),
        };
        const [a, b] = [prototypeHead(support, shrinkage), prototypeHead(shuffled, shrinkage)];
        const size = Math.max(...a.weight.map(Math.abs));
        a.weight.forEach((w, k) => {
          expect(Math.abs(b.weight[k]! - w)).toBeLessThan(1e-4 * size); // sums in another order, then a solve
        });
      }),
      { seed: 7 },
    );
  });

  test('permuted classes permute logits', () => {
    fc.assert(
      fc.property(shape, ({ seed, classes, perClass, shrinkage }) => {
        const support = cloud(seed, classes, perClass, 6, 0.5);
        const mirrored = { ...support, labels: support.labels.map((label) => classes - 1 - label) };
        const a = headLogits(prototypeHead(support, shrinkage), support.features);
        const b = headLogits(prototypeHead(mirrored, shrinkage), support.features);
        const size = Math.max(...a.map(Math.abs));
        a.forEach((value, k) => {
          const row = Math.floor(k / classes);
          expect(Math.abs(b[row * classes + classes - 1 - (k % classes)]! - value)).toBeLessThan(1e-4 * size);
        });
      }),
      { seed: 7 },
    );
  });

  test('with one example a class and plain cosine, the score is the cosine to that example', () => {
    const support = cloud(1, 3, 1, 6, 0.1);
    const logits = headLogits(prototypeHead(support, 1), support.features);
    for (let i = 0; i < 3; i++) expect(logits[i * 3 + support.labels[i]!]).toBeCloseTo(1, 6);
  });

  test('a metric learned from the spread beats the plain cosine where directions spread unequally', () => {
    const train = cloud(3, 4, 10, 8, 0.5);
    const fresh = cloud(3, 4, 110, 8, 0.5); // the same classes; its first 40 rows are those of training
    const rows = { features: fresh.features.subarray(40 * 8), labels: fresh.labels.subarray(40) };
    const score = (shrinkage: number) =>
      accuracy(argmaxRows(headLogits(prototypeHead(train, shrinkage), rows.features), 4), rows.labels);
    expect(score(0.1)).toBeGreaterThan(score(1) + 0.1);
  });
});

test('the shrunk Cholesky factor solves what it stands for', () => {
  const support = cloud(5, 3, 8, 5, 1);
  const covariance = withinClassCovariance(support);
  const lower = shrunkCholesky(covariance, 5, 0.3);
  const rows = support.features.subarray(0, 10);
  const solved = choleskySolveRows(lower, rows, 5);
  const trace = [0, 1, 2, 3, 4].reduce((sum, j) => sum + covariance[j * 6]!, 0);
  for (let r = 0; r < 2; r++) {
    for (let i = 0; i < 5; i++) {
      let sum = 0;
      for (let j = 0; j < 5; j++) {
        sum += (0.7 * covariance[i * 5 + j]! + (i === j ? 0.3 * (trace / 5) : 0)) * solved[r * 5 + j]!;
      }
      expect(sum).toBeCloseTo(rows[r * 5 + i]!, 6);
    }
  }
});

describe('methods on features', () => {
  const support = cloud(11, 3, 8, 12, 0.3);
  const vectors = new Map<string, Float32Array>();
  support.labels.forEach((_, i) => {
    vectors.set(`row ${i}`, support.features.subarray(i * 12, i * 12 + 12));
  });
  // Label names that stand beside their classes.
  const names = prototypeHead(support, 1).weight;
  ['red car', 'blue car', 'green car'].forEach((name, c) => {
    vectors.set(name, names.subarray(c * 12, c * 12 + 12));
    vectors.set(`wrong ${'abc'[c]}`, names.subarray(((c + 1) % 3) * 12, ((c + 1) % 3) * 12 + 12));
  });
  const source: FeatureSource = {
    hidden: 12,
    features: async (texts) => Float32Array.from(texts.flatMap((text) => [...vectors.get(text)!])),
  };
  const context: FitContext = {
    encoder: () => Promise.reject(new Error('not needed')),
    features: async () => source,
    seed: 7,
    threads: 1,
  };
  const data = (classes: string[]): Labelled => ({
    texts: [...support.labels.keys()].map((i) => `row ${i}`),
    labels: support.labels,
    classes,
  });

  test.each([
    ['prototype', (d: Labelled) => prototype.fit(d, prototype.defaults, context)],
    ['linear', (d: Labelled) => linear.fit(d, linear.defaults, context)],
  ])('%s learns, uses names that agree and leaves names that mislead or say nothing', async (_, fit) => {
    const named = data(['Red_car', 'blueCar', 'green.car']);
    const fitted = await fit(named);
    expect(accuracy(argmaxRows(await fitted.logits(named.texts), 3), support.labels)).toBeGreaterThan(0.95);
    expect(fitted.details).toMatchObject({ labelNames: true, labelNameAgreement: 1 });
    expect((await fit(data(['wrong a', 'wrong b', 'wrong c']))).details).toMatchObject({
      labelNames: false,
      labelNameAgreement: 0,
    });
    expect((await fit(data(['0', '1', '2']))).details).toMatchObject({ labelNames: false });
  });

  test('a single example of each class is enough for prototypes', async () => {
    const few = { texts: ['row 0', 'row 1', 'row 2'], labels: Int32Array.of(0, 1, 2), classes: ['0', '1', '2'] };
    const options: PrototypeOptions = { metric: 'cosine', shrinkage: 'auto', labelNames: false, attention: 'none' };
    const fitted = await prototype.fit(few, options, context);
    expect([...argmaxRows(await fitted.logits(few.texts), 3)]).toEqual([0, 1, 2]);
  });

  test.each(['margin', 'reassign'] as const)(
    'attention %s: a wrong label in four does less harm',
    async (attention) => {
      const noisy = { ...data(['0', '1', '2']), labels: support.labels.map((y, i) => (i < 6 ? (y + 1) % 3 : y)) };
      const options: PrototypeOptions = { ...prototype.defaults, shrinkage: 0.2 };
      const right = async (chosen: PrototypeOptions) => {
        const fitted = await prototype.fit(noisy, chosen, context);
        expect(fitted.details.attention).toBe(chosen.attention === 'none' ? undefined : attention);
        return accuracy(argmaxRows(await fitted.logits(noisy.texts), 3), support.labels);
      };
      expect(await right({ ...options, attention })).toBeGreaterThan(await right(options));
    },
  );

  test('with every label right attention changes no answer', async () => {
    const named = data(['0', '1', '2']);
    const plain = await prototype.fit(named, prototype.defaults, context);
    const attentive = await prototype.fit(named, { ...prototype.defaults, attention: 'reassign' }, context);
    const answers = async (fitted: typeof plain) => [...argmaxRows(await fitted.logits(named.texts), 3)];
    expect(await answers(attentive)).toEqual(await answers(plain));
  });

  test('names join as one row of each class', () => {
    const joined = withNames(support, names);
    expect([...joined.labels.slice(-3)]).toEqual([0, 1, 2]);
    expect(joined.features.subarray(-36)).toEqual(names);
  });
});
