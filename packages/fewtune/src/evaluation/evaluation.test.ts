import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bootstrapInterval, pairedBootstrap } from './bootstrap.js';
import { expectedCalibrationError, fitTemperature, negativeLogLikelihood, softmaxRows } from './calibration.js';
import { accuracy, argmaxRows, macroF1, measure, perClass } from './metrics.js';

const reference = JSON.parse(readFileSync(new URL('./fixtures/metrics.json', import.meta.url), 'utf8'));
const { classes } = reference;
const labels = Int32Array.from(reference.labels);
const logits = Float32Array.from(reference.logits);
const predictions = argmaxRows(logits, classes);

describe('as scikit-learn and SciPy have it', () => {
  test('accuracy, macro-F1 and the report of each class', () => {
    expect(accuracy(predictions, labels)).toBeCloseTo(reference.accuracy, 12);
    expect(macroF1(predictions, labels, classes)).toBeCloseTo(reference.macroF1, 12);
    const report = perClass(predictions, labels, ['a', 'b', 'c', 'd']);
    for (const key of ['precision', 'recall', 'f1', 'support'] as const) {
      report.forEach((entry, c) => {
        expect(entry[key]).toBeCloseTo(reference[key][c], 12);
      });
    }
  });

  test('calibration error, likelihood and temperature', () => {
    // Probabilities are float32: seven digits.
    expect(expectedCalibrationError(softmaxRows(logits, classes), labels, classes)).toBeCloseTo(reference.ece, 6);
    expect(negativeLogLikelihood(logits, labels, classes)).toBeCloseTo(reference.nll, 6);
    // The search ends when log T is known to 1e-4.
    expect(Math.log(fitTemperature(logits, labels, classes))).toBeCloseTo(Math.log(reference.temperature), 3);
  });
});

test('macro-F1 leaves out classes that occur nowhere, and unknown labels are errors', () => {
  expect(macroF1([0, 1], [0, 1], 5)).toBe(1);
  expect(accuracy([0, 1], [0, -1])).toBe(0.5);
  expect(perClass([0, 1], [0, -1], ['a', 'b'])[1]).toMatchObject({ precision: 0, support: 0 });
});

const scored = fc.integer({ min: 2, max: 5 }).chain((k) =>
  fc.array(
    fc.record({
      label: fc.integer({ min: 0, max: k - 1 }),
      row: fc.array(fc.double({ min: -50, max: 50, noNaN: true }), { minLength: k, maxLength: k }),
    }),
    { minLength: 1, maxLength: 30 },
  ),
);

test('softmax rows sum to one and keep the winner under any temperature', () => {
  fc.assert(
    fc.property(scored, fc.double({ min: 0.01, max: 100, noNaN: true }), (rows, temperature) => {
      const k = rows[0]!.row.length;
      const probabilities = softmaxRows(
        rows.flatMap(({ row }) => row),
        k,
        temperature,
      );
      rows.forEach(({ row }, i) => {
        const own = probabilities.subarray(i * k, (i + 1) * k);
        expect(own.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
        expect(own[row.indexOf(Math.max(...row))]).toBe(Math.max(...own));
      });
    }),
  );
});

test('metrics do not depend on the order of rows or on the names of classes', () => {
  fc.assert(
    fc.property(scored, (rows) => {
      const k = rows[0]!.row.length;
      const measured = (order: typeof rows, swap: (c: number) => number) => {
        const found = argmaxRows(
          order.flatMap(({ row }) => row),
          k,
        ).map(swap);
        return [
          accuracy(
            found,
            order.map(({ label }) => swap(label)),
          ),
          macroF1(
            found,
            order.map(({ label }) => swap(label)),
            k,
          ),
        ];
      };
      const [acc, f1] = measured(rows, (c) => c);
      const [acc2, f2] = measured([...rows].reverse(), (c) => k - 1 - c);
      expect(acc2).toBeCloseTo(acc!, 12);
      expect(f2).toBeCloseTo(f1!, 12);
    }),
  );
});

test('no temperature near the fitted one is likelier', () => {
  fc.assert(
    fc.property(scored, (rows) => {
      const k = rows[0]!.row.length;
      const all = rows.flatMap(({ row }) => row);
      const truth = rows.map(({ label }) => label);
      const fitted = fitTemperature(all, truth, k);
      const loss = (t: number) => negativeLogLikelihood(all, truth, k, t, 1 / (truth.length + 1));
      expect(fitted).toBeGreaterThan(0);
      for (const factor of [0.5, 0.9, 1.1, 2]) {
        const inside = Math.min(1e3, Math.max(1e-3, fitted * factor));
        // log T is known to 1e-4, and the loss changes by at most 50 for each unit of it.
        expect(loss(inside)).toBeGreaterThanOrEqual(loss(fitted) - 5e-3);
      }
    }),
    { seed: 7 },
  );
});

test('a few rows that are all right leave some doubt', () => {
  const truth = Int32Array.from({ length: 20 }, (_, i) => i % 2);
  const all = [...truth].flatMap((label) => (label === 0 ? [1, -1] : [-1, 1]));
  const [confidence] = softmaxRows(all, 2, fitTemperature(all, truth, 2));
  expect(confidence).toBeCloseTo(1 - 1 / 21 / 2, 3); // what the smoothed labels say
});

describe('bootstrap', () => {
  const correct = (n: number, right: number) => Uint8Array.from({ length: n }, (_, i) => (i < right ? 1 : 0));

  test('an interval of a share agrees with the normal approximation', () => {
    const [lo, hi] = bootstrapInterval(correct(1000, 800), { seed: 7 });
    const half = 1.96 * Math.sqrt((0.8 * 0.2) / 1000); // 0.0248
    expect(Math.abs(lo - (0.8 - half))).toBeLessThan(0.004);
    expect(Math.abs(hi - (0.8 + half))).toBeLessThan(0.004);
    expect(bootstrapInterval(correct(1000, 800), { seed: 7 })).toEqual([lo, hi]);
  });

  test('all right is certain of the sample, and no rows say nothing', () => {
    // Clopper and Pearson's bounds at 0 and n of n have a closed form: 0.025^(1/n).
    expect(bootstrapInterval(correct(5, 5), { seed: 1 })).toEqual([expect.closeTo(0.4782, 4), 1]);
    expect(bootstrapInterval(correct(5, 0), { seed: 1 })).toEqual([0, expect.closeTo(0.5218, 4)]);
    expect(bootstrapInterval([], { seed: 1 })).toEqual([0, 1]);
  });

  test('pairing keeps what two classifiers share', () => {
    const a = correct(200, 120);
    const b = correct(200, 110); // wrong wherever a is wrong, and on ten rows more
    const { difference, interval, probabilityAhead } = pairedBootstrap(a, b, { seed: 7 });
    expect(difference).toBeCloseTo(0.05, 12);
    expect(interval[0]).toBeGreaterThan(0.015); // unpaired, the interval would reach below 0
    expect(probabilityAhead).toBeGreaterThan(0.99);
    expect(pairedBootstrap(a, a, { seed: 7 })).toMatchObject({
      difference: 0,
      interval: [0, 0],
      probabilityAhead: 0.5,
    });
  });
});

test('measure says everything at once', () => {
  const found = measure(logits, labels, classes, { seed: 7 });
  expect(found.accuracy).toBeCloseTo(reference.accuracy, 12);
  expect(found.accuracyInterval[0]).toBeLessThanOrEqual(found.accuracy);
  expect(found.accuracyInterval[1]).toBeGreaterThanOrEqual(found.accuracy);
  expect(found.ece).toBeCloseTo(reference.ece, 6);
});
