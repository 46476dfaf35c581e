import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { entityF1, entityScores } from './entities.js';
import { chooseThresholds, multiLabelScores } from './multi-label.js';
import { ordinalScores } from './ordinal.js';
import { regressionScores } from './regression.js';

// By scikit-learn and SciPy: test/fixtures/tasks.py.
const url = new URL('../../test/fixtures/tasks.json', import.meta.url);
const { scores } = JSON.parse(readFileSync(url, 'utf8'));

describe('as scikit-learn, SciPy and seqeval have it', () => {
  test('sets of labels', () => {
    const { truth, predicted, f1, ...expected } = scores.multiLabel;
    const { perLabel, ...found } = multiLabelScores(predicted, truth, ['a', 'b', 'c']);
    for (const [name, value] of Object.entries(expected))
      expect(found).toHaveProperty(name, expect.closeTo(value as number, 12));
    expect(perLabel.map((label) => label.f1)).toEqual(f1.map((value: number) => expect.closeTo(value, 12)));
  });

  test('grades', () => {
    const { truth, predicted, ...expected } = scores.ordinal;
    const found = ordinalScores(predicted, truth, 5);
    for (const [name, value] of Object.entries(expected))
      expect(found).toHaveProperty(name, expect.closeTo(value as number, 12));
  });

  test('values', () => {
    const { truth, predicted, ...expected } = scores.regression;
    const found = regressionScores(predicted, truth);
    for (const [name, value] of Object.entries(expected))
      expect(found).toHaveProperty(name, expect.closeTo(value as number, 12));
  });

  test('entities', () => {
    const { truth, found, perLabel, ...expected } = scores.entities;
    const { perLabel: labels, ...all } = entityScores(found, truth);
    for (const name of ['precision', 'recall', 'f1', 'macroF1'] as const)
      expect(all[name]).toBeCloseTo(expected[name], 12);
    expect(labels.map(({ label }) => label)).toEqual(['LOC', 'PER']);
    for (const { label, ...own } of labels) {
      for (const name of ['precision', 'recall', 'f1', 'support'] as const)
        expect(own[name]).toBeCloseTo(perLabel[label][name], 12);
    }
  });
});

test('scores of nothing, and of what does not vary, are 0', () => {
  expect(multiLabelScores([0, 0], [0, 0], ['a']).microF1).toBe(0);
  expect(ordinalScores([1, 1], [1, 1], 3).quadraticKappa).toBe(0);
  expect(regressionScores([1, 2], [3, 3])).toMatchObject({ r2: 0, pearson: 0, spearman: 0 });
  expect(entityF1([])).toBe(0);
});

test('a threshold is the one with the best F1, and 0.5 where there are too few rows', () => {
  const rows = Array.from({ length: 40 }, (_, i) => i / 40);
  const truth = rows.map((p) => (p >= 0.3 ? 1 : 0));
  const [own] = chooseThresholds(rows, truth, 1);
  expect(own).toBeCloseTo(0.2875, 6);
  expect(
    chooseThresholds(
      rows,
      truth.map((_, i) => (i === 3 ? 1 : 0)),
      1,
    )[0],
  ).toBe(0.5);
});
