import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { unitRows } from '../../evaluation/distances.js';
import { createLogisticSolver } from '../linear/logistic.js';
import { anchoredLogistic, type SoftRows } from './anchored-logistic.js';

function rowsOf(seed: number, { count = 12, hidden = 6, classes = 3 } = {}): SoftRows & { anchor: Float32Array } {
  const random = createRandom(seed);
  const gaussians = (size: number) => Float32Array.from({ length: size }, () => random.gaussian());
  const features = unitRows(gaussians(count * hidden), hidden);
  const targets = Float64Array.from({ length: count * classes }, () => random.next());
  return { hidden, classes, features, targets, anchor: gaussians(classes * hidden) };
}

/** Σ crossEntropy + ‖W − A‖² / (2C), written out. */
function loss(
  { hidden, classes, features, targets }: SoftRows,
  anchor: Float32Array,
  C: number,
  w: Float32Array,
): number {
  let value = w.reduce((sum, entry, k) => sum + (entry - anchor[k]!) ** 2, 0) / (2 * C);
  for (let i = 0; i < features.length / hidden; i++) {
    const logits = Array.from({ length: classes }, (_, c) =>
      Array.from({ length: hidden }, (_, j) => w[c * hidden + j]! * features[i * hidden + j]!).reduce(
        (a, b) => a + b,
        0,
      ),
    );
    const total = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0));
    logits.forEach((logit, c) => {
      value -= targets[i * classes + c]! * (logit - total);
    });
  }
  return value;
}

test('is where the loss, written out, is least: no step along a weight lowers it', () => {
  fc.assert(
    fc.property(fc.integer(), fc.constantFrom(0.3, 3, 30), (seed, C) => {
      const rows = rowsOf(seed);
      const found = anchoredLogistic(rows, rows.anchor, C);
      found.forEach((_, k) => {
        const at = (step: number) => loss(rows, rows.anchor, C, found.with(k, found[k]! + step));
        expect((at(0.01) - at(-0.01)) / 0.02).toBeCloseTo(0, 2); // the slope; the tolerance is 1e-3 of a row's share
      });
    }),
    { seed: 7, numRuns: 15 },
  );
});

test('drawn towards nothing it is logistic regression without intercepts', async () => {
  // Rows with their mirror images under every class in turn leave no room for an intercept.
  const { hidden, classes } = { hidden: 6, classes: 2 };
  const half = rowsOf(3, { classes });
  const features = Float32Array.from([...half.features, ...half.features.map((value) => -value)]);
  const labels = Int32Array.from({ length: 24 }, (_, i) => (i < 12 ? i % 2 : 1 - (i % 2)));
  const targets = new Float64Array(24 * classes);
  labels.forEach((label, i) => {
    targets[i * classes + label] = 1;
  });
  const found = anchoredLogistic({ hidden, classes, features, targets }, new Float32Array(classes * hidden), 5);
  const solver = await createLogisticSolver(hidden, classes);
  try {
    const { parameters } = await solver.fit({ features, labels }, { C: 5, tolerance: 1e-6 });
    found.forEach((value, k) => {
      expect(value).toBeCloseTo(parameters[k]!, 2);
    });
  } finally {
    await solver.dispose();
  }
});

test('with a strength near 0 the anchor comes back, and more strength moves further', () => {
  const rows = rowsOf(5);
  const moved = [1e-6, 0.1, 1, 10].map((C) =>
    Math.hypot(...anchoredLogistic(rows, rows.anchor, C).map((value, k) => value - rows.anchor[k]!)),
  );
  expect(moved[0]).toBeLessThan(1e-4);
  for (let k = 1; k < moved.length; k++) expect(moved[k]).toBeGreaterThan(moved[k - 1]!);
});
