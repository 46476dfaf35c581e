import { expect, test } from 'vitest';
import { crossFittedMetrics, metricsOf } from './measure.js';

test('confidences that say 0.75 and are right three times in four have no calibration error', () => {
  const labels = Int32Array.from({ length: 40 }, (_, i) => (i % 4 === 0 ? 1 : 0));
  const logits = Float32Array.from({ length: 80 }, (_, i) => (i % 2 === 0 ? Math.log(3) : 0)); // softmax: 3/4, 1/4
  const { accuracy, ece, accuracyInterval } = metricsOf(logits, labels, 2, 7);
  expect(accuracy).toBe(0.75);
  expect(ece).toBeCloseTo(0, 6);
  expect(accuracyInterval[0]).toBeLessThan(0.75);
  expect(accuracyInterval[1]).toBeGreaterThan(0.75);
});

test('each fold is calibrated by the others: overconfident logits are cooled, the accuracy stays', () => {
  const labels = Int32Array.from({ length: 80 }, (_, i) => (i % 4 === 0 ? 1 : 0));
  const logits = Float32Array.from({ length: 160 }, (_, i) => (i % 2 === 0 ? 10 * Math.log(3) : 0));
  const folds = Int32Array.from({ length: 80 }, (_, i) => Math.floor(i / 4) % 2);
  expect(metricsOf(logits, labels, 2, 7).ece).toBeCloseTo(0.25, 2);
  const cooled = crossFittedMetrics(logits, labels, folds, 2, 7);
  expect(cooled.accuracy).toBe(0.75);
  expect(cooled.ece).toBeLessThan(0.01); // golden-section search for the temperature ends within 1e-4 or so
});
