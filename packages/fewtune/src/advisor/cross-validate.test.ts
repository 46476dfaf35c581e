import { expect, test } from 'vitest';
import { foldCountFor, rowsByClass, stratifiedFolds } from '../data/split.js';
import type { FitContext, Labelled, Method } from '../methods/method.js';
import { OutOfFold } from './cross-validate.js';

test('every row is predicted once, by a fit that had not seen it and had seen every class', async () => {
  const labels = Int32Array.from({ length: 23 }, (_, i) => i % 3);
  const data: Labelled = { texts: [...labels.keys()].map(String), labels, classes: ['a', 'b', 'c'] };
  const method = {
    name: 'linear',
    fit: async (learned: Labelled) => ({
      logits: async (texts: readonly string[]) => {
        expect(texts.filter((text) => learned.texts.includes(text))).toEqual([]);
        expect(learned.texts.length + texts.length).toBe(data.texts.length);
        expect(rowsByClass(learned.labels)).toHaveLength(3);
        return Float32Array.from(texts.flatMap((text) => [Number(text), 0, -1]));
      },
    }),
  } as unknown as Method<unknown>;
  const folds = stratifiedFolds(labels, 5, 7);
  const outOfFold = new OutOfFold(labels.length, 3);
  for (let fold = 0; fold < 5; fold++) {
    expect(outOfFold.rows().some((row) => folds[row]! >= fold)).toBe(false);
    await outOfFold.addFold({ method, options: {} }, data, folds, fold, { seed: 7 } as FitContext);
  }
  expect(outOfFold.rows()).toEqual([...labels.keys()]);
  expect([...labels.keys()].map((row) => outOfFold.logits[row * 3])).toEqual([...labels.keys()]);
  expect(outOfFold.isCorrect(5, 0)).toBe(true);
});

test('as many folds as the smallest class allows, five at most', () => {
  expect(foldCountFor(Int32Array.from([0, 0, 0, 1, 1]))).toBe(2);
  expect(foldCountFor(Int32Array.from({ length: 40 }, (_, i) => i % 2))).toBe(5);
});
