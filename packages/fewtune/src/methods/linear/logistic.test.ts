import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { prototypeHead } from '../metric/prototype.js';
import { createLogisticSolver, headLogits, headOf, type LogisticSolver } from './logistic.js';

const reference = JSON.parse(readFileSync(new URL('./fixtures/linear-models.json', import.meta.url), 'utf8'));
const { hidden, classes } = reference;
const rows = { features: Float32Array.from(reference.features), labels: Int32Array.from(reference.labels) };

let solver: LogisticSolver;
beforeAll(async () => {
  solver = await createLogisticSolver(hidden, classes, { threads: 1 });
});
afterAll(() => solver.dispose());

function expectHead(parameters: Float64Array, expected: { weight: number[]; bias: number[] }): void {
  const weight = parameters.subarray(0, hidden * classes);
  const bias = parameters.subarray(hidden * classes);
  const mean = bias.reduce((a, b) => a + b, 0) / classes;
  // Loss and gradient are float32, so the flat bottom is found to about the root of its seven digits.
  expected.weight.forEach((w, k) => {
    expect(Math.abs(weight[k]! - w), `weight ${k}`).toBeLessThan(2e-3 * Math.max(1, Math.abs(w)));
  });
  expected.bias.forEach((b, c) => {
    expect(Math.abs(bias[c]! - mean - b), `bias ${c}`).toBeLessThan(2e-3);
  });
}

describe('as scikit-learn', () => {
  test.each(reference.logistic as { C: number; weight: number[]; bias: number[] }[])('C = $C', async (expected) => {
    const fit = await solver.fit(rows, { C: expected.C, tolerance: 1e-6 });
    expectHead(fit.parameters, expected);
  });

  test('with weights of the rows', async () => {
    const fit = await solver.fit(
      { ...rows, weights: Float32Array.from(reference.weights) },
      { C: reference.weighted.C, tolerance: 1e-6 },
    );
    expectHead(fit.parameters, reference.weighted);
  });

  test('shrinkage LDA: prototypes point where its coefficients do', () => {
    const { weight } = prototypeHead({ hidden, classes, ...rows }, reference.lda.shrinkage);
    for (let c = 0; c < classes; c++) {
      const ours = weight.subarray(c * hidden, (c + 1) * hidden);
      const theirs: number[] = reference.lda.coef.slice(c * hidden, (c + 1) * hidden);
      const length = (v: ArrayLike<number>) => Math.hypot(...Array.from(v));
      ours.forEach((w, j) => {
        expect(w / length(ours)).toBeCloseTo(theirs[j]! / length(theirs), 5); // weights are float32
      });
    }
  });
});

test('classes that change places take their logits with them', async () => {
  const swapped = rows.labels.map((label) => classes - 1 - label);
  const plain = headLogits(headOf((await solver.fit(rows, { C: 10 })).parameters, classes), rows.features);
  const other = await solver.fit({ ...rows, labels: swapped }, { C: 10 });
  const mirrored = headLogits(headOf(other.parameters, classes), rows.features);
  for (let i = 0; i < rows.labels.length; i++) {
    for (let c = 0; c < classes; c++) {
      expect(mirrored[i * classes + classes - 1 - c]).toBeCloseTo(plain[i * classes + c]!, 2); // both stop at 1e-4
    }
  }
});

test('a warm start ends where a cold one does, in fewer steps', async () => {
  const first = await solver.fit(rows, { C: 10, tolerance: 1e-5 });
  const cold = await solver.fit(rows, { C: 12, tolerance: 1e-5 });
  const warm = await solver.fit(rows, { C: 12, tolerance: 1e-5, start: first.parameters });
  expect(warm.iterations).toBeLessThan(cold.iterations);
  expect(warm.loss).toBeCloseTo(cold.loss, 5);
});
