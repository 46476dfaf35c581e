import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createRandom } from '../../../data/random.js';
import { unitRows } from '../../../evaluation/distances.js';
import { accuracy, argmaxRows } from '../../../evaluation/metrics.js';
import type { LabelledFeatures } from '../class-means.js';
import { references } from '../fixtures/heads.js';
import { informationMaximisation, informationObjective } from './information-maximisation.js';
import { laplacianShot, neighbourGraph } from './laplacian-shot.js';
import { queryBalance } from './query-balance.js';
import { softKMeans } from './soft-k-means.js';

function expectClose(found: ArrayLike<number>, wanted: readonly number[], within: number): void {
  expect(found.length).toBe(wanted.length);
  wanted.forEach((value, k) => {
    expect(Math.abs(found[k]! - value), `entry ${k}: ${found[k]} for ${value}`).toBeLessThan(within);
  });
}

describe.each(references)('as numpy and PyTorch, $name', ({ support, queries, information, ...wanted }) => {
  test('soft k-means', () => {
    const { probabilities } = softKMeans(support, queries, wanted.softKMeans);
    expectClose(probabilities, wanted.softKMeans.probabilities, 1e-5);
  });

  test('LaplacianShot', () => {
    const { probabilities } = laplacianShot(support, queries, wanted.laplacianShot);
    expectClose(probabilities, wanted.laplacianShot.probabilities, 1e-5);
  });

  test.each(information)('information maximisation, prior $prior', async (settings) => {
    const { hidden, classes, labels, features } = support;
    const means = new Float64Array(classes * hidden);
    labels.forEach((label, i) => {
      const size = labels.filter((other) => other === label).length;
      for (let j = 0; j < hidden; j++) means[label * hidden + j]! += features[i * hidden + j]! / size;
    });
    const objective = informationObjective(support, queries, { ...settings, prior: Float64Array.from(settings.prior) });
    const gradient = new Float64Array(means.length);
    expect(objective(means, gradient)).toBeCloseTo(settings.value, 5);
    expectClose(gradient, settings.gradient, 1e-5); // logits are float32
    // The loss is not convex, but from the class means both solvers find the same valley.
    const { probabilities } = await informationMaximisation(support, queries, { ...settings, iterations: 500 });
    expectClose(probabilities, settings.probabilities, 5e-3);
  });
});

/** `counts[c]` queries of each class, about the same centres as the support. */
function batch(
  seed: number,
  counts: readonly number[],
  spread = 1,
): { support: LabelledFeatures; queries: LabelledFeatures } {
  const { gaussian } = createRandom(seed);
  const [classes, hidden] = [counts.length, 16];
  const centres = Float32Array.from({ length: classes * hidden }, () => gaussian());
  const rows = (labels: Int32Array): LabelledFeatures => {
    const features = Float32Array.from(
      { length: labels.length * hidden },
      (_, k) => centres[labels[Math.floor(k / hidden)]! * hidden + (k % hidden)]! + spread * gaussian(),
    );
    return { hidden, classes, labels, features: unitRows(features, hidden) };
  };
  return {
    support: rows(Int32Array.from(counts.keys())),
    queries: rows(Int32Array.from(counts.flatMap((count, c) => Array<number>(count).fill(c)))),
  };
}

const methods = [
  ['soft k-means', async (support: LabelledFeatures, queries: Float32Array) => softKMeans(support, queries)],
  ['LaplacianShot', async (support: LabelledFeatures, queries: Float32Array) => laplacianShot(support, queries)],
  [
    'information maximisation',
    (support: LabelledFeatures, queries: Float32Array) => informationMaximisation(support, queries),
  ],
] as const;

describe.each(methods)('%s', (_, answer) => {
  test('gains on single examples when many queries of each class are there', async () => {
    let [before, after] = [0, 0];
    for (let seed = 0; seed < 12; seed++) {
      const { support, queries } = batch(seed, [20, 20, 20, 20]);
      const alone = softKMeans(support, queries.features, { iterations: 0 });
      before += accuracy(argmaxRows(alone.probabilities, 4), queries.labels) / 12;
      const { probabilities } = await answer(support, queries.features);
      after += accuracy(argmaxRows(probabilities, 4), queries.labels) / 12;
      for (let i = 0; i < queries.labels.length; i++) {
        const total = probabilities.subarray(i * 4, i * 4 + 4).reduce((a, b) => a + b, 0);
        expect(total).toBeCloseTo(1, 5);
      }
    }
    expect(before).toBeLessThan(0.9); // there is something to gain
    expect(after).toBeGreaterThan(before + 0.02);
  });

  test('the order of queries changes nothing but the order of answers; no query, no answer', async () => {
    const { support, queries } = batch(5, [4, 6, 5]);
    const { probabilities } = await answer(support, queries.features);
    const rows = queries.labels.length;
    const reversed = Float32Array.from({ length: rows * 16 }, (_, k) => {
      const row = rows - 1 - Math.floor(k / 16);
      return queries.features[row * 16 + (k % 16)]!;
    });
    const mirrored = (await answer(support, reversed)).probabilities;
    probabilities.forEach((p, k) => {
      expect(mirrored[(rows - 1 - Math.floor(k / 3)) * 3 + (k % 3)]).toBeCloseTo(p, 2); // minimisers stop a little apart
    });
    expect((await answer(support, new Float32Array())).probabilities).toHaveLength(0);
  });

  test('warns of unbalanced queries and of fewer queries than classes', async () => {
    const { support, queries } = batch(2, [40, 2, 2, 2], 0.3);
    const unbalanced = await answer(support, queries.features);
    expect(unbalanced.warnings.join()).toMatch(/unbalanced/);
    expect(unbalanced.marginal[0]).toBeCloseTo(40 / 46, 6);
    expect((await answer(support, queries.features.subarray(0, 16))).warnings.join()).toMatch(/1 queries cannot/);
    const even = batch(2, [10, 10, 10, 10], 0.3);
    expect((await answer(even.support, even.queries.features)).warnings).toEqual([]);
  });
});

test('a prior that is told, or estimated, takes back what the balanced one spoils on unbalanced queries', async () => {
  const priors = ['balanced', 'estimated', [0.85, 0.05, 0.05, 0.05]] as const;
  const found = priors.map(() => 0);
  for (let seed = 0; seed < 10; seed++) {
    const { support, queries } = batch(seed, [51, 3, 3, 3], 0.9);
    for (const [k, prior] of priors.entries()) {
      const { probabilities, warnings } = await informationMaximisation(support, queries.features, { prior });
      found[k]! += accuracy(argmaxRows(probabilities, 4), queries.labels) / 10;
      if (prior !== 'balanced') expect(warnings).toEqual([]);
    }
  }
  expect(found[1]).toBeGreaterThan(found[0]! + 0.05);
  expect(found[2]).toBeGreaterThan(found[1]!);
});

test('the gradient is that of the value: central differences', () => {
  fc.assert(
    fc.property(fc.integer(), (seed) => {
      const { support, queries } = batch(seed, [3, 2, 4]);
      const settings = {
        sharpness: 5,
        supportWeight: 0.3,
        conditionalWeight: 0.5,
        prior: Float64Array.of(0.2, 0.3, 0.5),
      };
      const objective = informationObjective(support, queries.features, settings);
      const x = Float64Array.from(support.features);
      const gradient = new Float64Array(x.length);
      objective(x, gradient);
      const scratch = new Float64Array(x.length);
      for (const k of [0, 17, 40]) {
        const at = (step: number) => objective(x.with(k, x[k]! + step), scratch);
        // float32 logits: a step near the cube root of their precision
        expect(gradient[k]).toBeCloseTo((at(5e-3) - at(-5e-3)) / 1e-2, 3);
      }
    }),
    { seed: 7, numRuns: 20 },
  );
});

test('the neighbour graph by hand, and queries at the same place', () => {
  // On a line at angles 0, 10, 30, 180 degrees: nearest of each: 1, 0, 1, 2.
  const features = Float32Array.from(
    [0, 10, 30, 180].flatMap((degrees) => {
      const angle = (degrees * Math.PI) / 180;
      return [Math.cos(angle), Math.sin(angle)];
    }),
  );
  const sorted = (graph: readonly (readonly number[])[]) => [...graph].sort((a, b) => a[0]! - b[0]! || a[1]! - b[1]!);
  expect(sorted(neighbourGraph(features, 2, 1))).toEqual([
    [0, 1, 1],
    [1, 2, 0.5],
    [2, 3, 0.5],
  ]);
  expect(neighbourGraph(Float32Array.of(1, 0, 1, 0), 2, 1)).toEqual([[0, 1, 1]]);
});

test('balance by hand: 8 and 2 of ten are beyond 99 % of chance for neither, 18 and 2 of twenty are', () => {
  const votes = (counts: number[]) =>
    Float32Array.from(
      counts.flatMap((count, c) => Array<number[]>(count).fill(counts.map((_, k) => (k === c ? 1 : 0)))).flat(),
    );
  // χ² = 3.6 and 12.8; the 99 % quantile at one degree of freedom is 6.63
  expect(queryBalance(votes([8, 2]), 2).warnings).toEqual([]);
  expect(queryBalance(votes([18, 2]), 2).warnings).toHaveLength(1);
  expect(queryBalance(new Float32Array(), 3)).toEqual({ marginal: new Float64Array(3), warnings: [] });
});

test('says which option is out of range', async () => {
  const { support, queries } = batch(1, [2, 2]);
  expect(() => softKMeans(support, queries.features, { sharpness: 0 })).toThrow(/above 0, not 0/);
  expect(() => laplacianShot(support, queries.features, { smoothness: -1 })).toThrow(/0 or more, not -1/);
  expect(() => laplacianShot(support, queries.features, { neighbours: -1 })).toThrow(
    /neighbours is -1; it must be a whole/,
  );
  expect(() => softKMeans(support, queries.features, { iterations: 0.5 })).toThrow(/iterations is 0.5/);
  const weighed = informationMaximisation(support, queries.features, { supportWeight: Number.NaN });
  await expect(weighed).rejects.toThrow(/supportWeight is 0 or more, not NaN/);
  await expect(informationMaximisation(support, queries.features, { prior: [0.5, 0.6] })).rejects.toThrow(/sum to 1/);
});
