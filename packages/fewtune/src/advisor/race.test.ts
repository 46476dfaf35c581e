import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { stratifiedFolds } from '../data/split.js';
import type { Labelled, Method, MethodName } from '../methods/method.js';
import { type RaceOptions, race } from './race.js';

const rows = 100;
const data: Labelled = {
  texts: Array.from({ length: rows }, (_, i) => `${i % 2} ${i}`),
  labels: Int32Array.from({ length: rows }, (_, i) => i % 2),
  classes: ['even', 'odd'],
};

/** A method that is right on the given share of rows: those whose number in the text lies below it. */
function scripted(name: MethodName, share: number, estimate?: number): { method: Method<unknown>; fits: number } {
  const record = {
    fits: 0,
    method: {
      name,
      defaults: {},
      schema: z.unknown(),
      ...(estimate === undefined ? {} : { estimateSeconds: () => estimate }),
      async fit() {
        record.fits++;
        return {
          details: {},
          graph: () => Promise.reject(new Error('not needed')),
          logits: async (texts: readonly string[]) =>
            Float32Array.from(
              texts.flatMap((text) => {
                const [label, number] = text.split(' ').map(Number) as [number, number];
                const right = number < share * rows;
                return right === (label === 1) ? [0, 1] : [1, 0];
              }),
            ),
        };
      },
    } as Method<unknown>,
  };
  return record;
}

const options: RaceOptions = {
  folds: stratifiedFolds(data.labels, 5, 7),
  foldCount: 5,
  budgetSeconds: 60,
  requested: 'auto',
  context: {
    seed: 7,
    encoder: () => Promise.reject(new Error('no encoder in this test')),
    features: () => Promise.reject(new Error('no features in this test')),
  },
};
const run = (methods: readonly { method: Method<unknown> }[], more: Partial<RaceOptions> = {}) =>
  race(
    data,
    methods.map(({ method }) => ({ method, options: {} })),
    { ...options, ...more },
  );

describe('the race', () => {
  test('the highest accuracy wins, measured on every row, and the margin is over the next best', async () => {
    const { winner, advice } = await run([scripted('tfidf', 0.5), scripted('prototype', 0.8), scripted('linear', 0.9)]);
    expect(winner.method.name).toBe('linear');
    expect(advice.tried.map(({ method, accuracy, examples }) => [method, accuracy, examples])).toEqual([
      ['tfidf', 0.5, 100],
      ['prototype', 0.8, 100],
      ['linear', 0.9, 100],
    ]);
    expect(advice.margin).toMatchObject({ over: 'prototype', examples: 100 });
    expect(advice.margin!.difference).toBeCloseTo(0.1, 10); // rows 80 to 89
  });

  test('equal accuracy goes to the method that trains faster', async () => {
    const { advice } = await run([scripted('tfidf', 0.8), scripted('prototype', 0.8), scripted('lora', 0.8, 1)]);
    expect(advice.chosen).toBe('tfidf');
  });

  test('a costly method is compared on the rows that both predicted and gets as many folds as fit', async () => {
    // One fold and the last fit of 1.25 × 10 s fit 60 s; the scripted folds take no time, so all are run.
    const lora = scripted('lora', 1, 10);
    const { advice } = await run([scripted('linear', 0.6), lora], { maxCostlyFolds: 2 });
    expect(advice.chosen).toBe('lora');
    expect(lora.fits).toBe(2);
    expect(advice.tried[1]).toMatchObject({ method: 'lora', examples: 40, note: '2 of 5 folds' });
    expect(advice.margin).toMatchObject({ over: 'linear', examples: 40 });
  });

  test('what does not fit the budget is skipped, with the reason', async () => {
    const full = scripted('full', 1, 400);
    const { advice } = await run([scripted('linear', 0.6), full]);
    expect(full.fits).toBe(0);
    expect(advice.chosen).toBe('linear');
    expect(advice.skipped).toEqual([{ method: 'full', reason: expect.stringContaining('900 s') }]); // 400 + 400 · 5/4
  });

  test('a fold that turns out too slow is given up after a tenth of it', async () => {
    const slow = scripted('full', 1, 0.1);
    let reached = 0;
    slow.method.fit = async (_, __, { signal, onProgress }) => {
      for (let step = 1; step <= 50; step++) {
        signal?.throwIfAborted();
        await new Promise((resolve) => setTimeout(resolve, 20));
        onProgress?.(step / 50, {});
        reached = step;
      }
      throw new Error('it was not given up');
    };
    // A fold takes 1 s at this speed, with the last fit 2.25 s: more than the budget.
    const { advice } = await run([scripted('linear', 0.6), slow], { budgetSeconds: 1.5 });
    expect(reached).toBeLessThan(15);
    expect(advice).toMatchObject({ chosen: 'linear', skipped: [{ method: 'full' }] });
  });

  test('a costly method that is clearly behind gets no further fold', async () => {
    const lora = scripted('lora', 0.1, 1);
    const { advice } = await run([scripted('linear', 0.9), lora]);
    expect(lora.fits).toBe(1);
    expect(advice.tried[1]!.note).toContain('clearly behind linear');
  });

  test('a named costly method is tried whatever it estimates; from then on the measured time counts', async () => {
    const full = scripted('full', 0.7, 1000);
    const { advice } = await run([full], { requested: 'full' });
    expect(full.fits).toBe(5); // the scripted folds take no time
    expect(advice.tried).toHaveLength(1);
    expect(advice.margin).toBeUndefined();
  });

  test('an abort ends it', async () => {
    const signal = AbortSignal.abort();
    const aborted = run([scripted('tfidf', 1)], { context: { ...options.context, signal } });
    await expect(aborted).rejects.toMatchObject({ code: 'INTERRUPTED' });
  });
});
