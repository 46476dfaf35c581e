import { describe, expect, test } from 'vitest';
import type { TextDataset } from '../data/dataset.js';
import type { TrainEvent } from './events.js';
import { train } from './train.js';

const subjects = { card: ['card', 'machine', 'bank'], parcel: ['parcel', 'courier', 'delivery'] };

/** Sentences of words of their class and common ones, no two alike. */
function dataset(perClass: number, source = 'sentences.csv'): TextDataset {
  const rows = Object.entries(subjects).flatMap(([label, words]) =>
    Array.from({ length: perClass }, (_, i) => ({ label, text: `where is the ${words[i % 3]} number ${i} please` })),
  );
  return {
    source,
    texts: rows.map((row) => row.text),
    labels: rows.map((row) => row.label),
    lines: rows.map((_, i) => i + 2),
    classes: Object.keys(subjects),
    repairs: [],
  };
}

async function eventsOf(run: AsyncIterable<TrainEvent>): Promise<TrainEvent[]> {
  const events: TrainEvent[] = [];
  for await (const event of run) {
    events.push(event);
  }
  return events;
}

describe('a run', () => {
  test('iterating gives every stage in order with a fraction that never falls, at any time and twice', async () => {
    const run = train(dataset(6), { method: 'tfidf' });
    const events = await eventsOf(run);
    const stages = [...new Set(events.map(({ stage }) => stage))];
    expect(stages).toEqual(['read', 'race', 'fit', 'evaluate']);
    const fractions = events.map(({ fraction }) => fraction);
    expect(fractions).toEqual([...fractions].sort((a, b) => a - b));
    await (await run.result).dispose();
    expect(await eventsOf(run)).toEqual(events);
  });

  test('awaiting the result alone is enough', async () => {
    const model = await train(dataset(6), { method: 'tfidf' }).result;
    const [prediction] = await model.predict(['the courier has my parcel']);
    expect(prediction!.label).toBe('parcel');
    expect(prediction!.scores.parcel! + prediction!.scores.card!).toBeCloseTo(1, 6);
    await model.dispose();
  });

  test('a failure reaches the result and the iteration, and nothing is left unhandled', async () => {
    const unhandled: unknown[] = [];
    const note = (reason: unknown) => unhandled.push(reason);
    process.on('unhandledRejection', note);
    const single = { ...dataset(6), labels: Array(12).fill('card'), classes: ['card'] };
    const run = train(single, { method: 'tfidf' });
    await expect(eventsOf(run)).rejects.toMatchObject({ code: 'CLASS_SINGLE' });
    await new Promise((resolve) => setTimeout(resolve, 20));
    await expect(run.result).rejects.toMatchObject({ code: 'CLASS_SINGLE' });
    process.off('unhandledRejection', note);
    expect(unhandled).toEqual([]);
  });

  test('an abort ends it with INTERRUPTED', async () => {
    const abort = new AbortController();
    const run = train(dataset(6), { method: 'tfidf', signal: abort.signal });
    abort.abort();
    await expect(run.result).rejects.toMatchObject({ code: 'INTERRUPTED' });
  });

  test('the same seed gives the same model and the same figures', async () => {
    const options = { method: 'tfidf', seed: 3, test: 0.3 } as const;
    const [a, b] = [await train(dataset(8), options).result, await train(dataset(8), options).result];
    expect(a.report.metrics).toEqual(b.report.metrics);
    expect(a.report.temperature).toBe(b.report.temperature);
    expect(await a.logits(['where is my card'])).toEqual(await b.logits(['where is my card']));
    await a.dispose();
    await b.dispose();
  });
});

describe('how it was measured', () => {
  test('nothing given: every row by cross-validation, fitted on all', async () => {
    const { report } = await train(dataset(6), { method: 'tfidf' }).result;
    expect(report.evaluatedOn).toMatchObject({ kind: 'cross-validation', examples: 12 });
    expect(report.trainingData.examples).toBe(12);
  });

  test('a fraction: those rows are in no fit', async () => {
    const { report } = await train(dataset(10), { method: 'tfidf', test: 0.2 }).result;
    expect(report.evaluatedOn).toMatchObject({ kind: 'test', examples: 4 });
    expect(report.trainingData.examples).toBe(16);
  });

  test('another dataset: measured there, and texts that stand in both are counted', async () => {
    const { report } = await train(dataset(6), { method: 'tfidf', test: dataset(3, 'later.csv') }).result;
    expect(report.evaluatedOn).toMatchObject({ kind: 'test', examples: 6 });
    expect(report.evaluatedOn.how).toContain('6 rows of later.csv');
    expect(report.evaluatedOn.how).toContain('6 of them also stand among the training texts');
  });

  test('a fraction that leaves a class with one row, and a test label that training never saw, are refused', async () => {
    const small = train(dataset(2), { method: 'tfidf', test: 0.5 });
    await expect(small.result).rejects.toMatchObject({ code: 'CLASS_TOO_SMALL' });
    const other = { ...dataset(3), labels: Array(6).fill('weather'), classes: ['weather'] };
    const unknown = train(dataset(6), { method: 'tfidf', test: other });
    await expect(unknown.result).rejects.toMatchObject({
      code: 'LABEL_UNKNOWN',
      message: expect.stringMatching(/line 2.*"weather"/),
    });
  });
});

test.each([
  [{ method: 'tfidf', seed: -1 }, /seed/],
  [{ method: 'tfidf', budget: 0 }, /budget/],
  [{ method: 'tfidf', test: 1 }, /test/],
  [{ method: 'tfidf', options: { ranks: 8 } }, /ranks/],
  [{ options: { C: 1 } }, /--method|Name it/],
] as const)('wrong options are named: %j', async (options, words) => {
  await expect(train(dataset(4), options).result).rejects.toMatchObject({
    code: 'OPTION_INVALID',
    message: expect.stringMatching(words),
  });
});
