import type { HostTensor, Named } from '@fewtune/engine';
import { describe, expect, test } from 'vitest';
import { type AdaptationName, adaptationOf, adaptations } from '../peft/adaptations.js';
import { tinyEncoder, tinyTask } from './tiny-task.fixture.js';
import { type TuneEvent, tune } from './tune.js';

const { examples, labels, task } = tinyTask(24);
const kinds = Object.keys(adaptations) as AdaptationName[];
const adaptOf = (name: AdaptationName) => {
  const fits = name === 'vera' ? { rank: 8 } : name === 'prefix' || name === 'prompt' ? { virtualTokens: 3 } : {};
  return adaptationOf(name, fits);
};

const farthest = (a: Named<HostTensor>, b: Named<HostTensor>) =>
  Math.max(
    ...Object.entries(a).flatMap(([name, { data }]) =>
      Array.from(data as Float32Array, (value, i) => Math.abs(value - (b[name]!.data[i] as number))),
    ),
  );

describe.each(kinds)('%s', (name) => {
  test('learns with its head, the same from the same seed, and becomes an ordinary encoder', async () => {
    const events: TuneEvent[] = [];
    const lr = name === 'full' ? 1e-2 : name === 'lora' ? 5e-3 : name === 'prompt' ? 0.3 : 3e-2;
    const options = { epochs: 16, batchSize: 8, lr, warmup: 0, schedule: 'constant' } as const;
    await using tuned = await tune(tinyEncoder, examples, task, adaptOf(name), options, {
      onProgress: (event) => events.push(event),
    });
    await using again = await tune(tinyEncoder, examples, task, adaptOf(name), options);
    expect(events.map(({ step }) => step)).toEqual(Array.from({ length: 48 }, (_, i) => i + 1));
    expect(events.at(-1)).toMatchObject({ epoch: 16, epochs: 16, steps: 48 });
    const mean = (part: readonly TuneEvent[]) => part.reduce((sum, { loss }) => sum + loss, 0) / part.length;
    // Biases alone hardly move an encoder of random weights.
    expect(mean(events.slice(-3))).toBeLessThan((name === 'bitfit' ? 1 : 0.95) * mean(events.slice(0, 3)));
    expect(farthest({ ...tuned.params, ...tuned.head }, { ...again.params, ...again.head })).toBe(0);
    const logits = await tuned.logits(examples.texts);
    expect(logits).toHaveLength(48);
    expect(task.score(logits, [...labels.keys()])).toMatchObject({ name: 'accuracy', value: expect.any(Number) });
    expect(tuned.encoder().fingerprint).not.toBe(tinyEncoder.fingerprint);
    expect(tuned.report.trainableHead).toBe(2 * 16 + 2);
    if (name !== 'full' && name !== 'bitfit') expect(tuned.adapter!.base!.fingerprint).toBe('f');
  });
});

test('several micro-batches are the step of one large batch, whatever its last rows', async () => {
  const run = (batchSize: number, accumulate: number) =>
    tune(tinyEncoder, examples, task, adaptationOf('full'), {
      epochs: 2,
      batchSize,
      accumulate,
      lr: 1e-3,
      groupByLength: false,
    });
  const [whole, parts] = [await run(10, 1), await run(5, 2)];
  expect(parts.history.steps).toHaveLength(6);
  expect(farthest(whole.params, parts.params)).toBeLessThan(2e-5);
  for (const [i, { loss }] of whole.history.steps.entries()) {
    expect(parts.history.steps[i]!.loss).toBeCloseTo(loss, 5);
  }
});

test('layers that are computed twice change nothing', async () => {
  const run = (recompute: 'none' | 'all' | number) =>
    tune(tinyEncoder, examples, task, adaptationOf('full'), { epochs: 1, lr: 1e-3, recompute });
  const [none, all, one] = [await run('none'), await run('all'), await run(1)];
  expect(farthest(none.params, all.params)).toBeLessThan(1e-6);
  expect(farthest(none.params, one.params)).toBeLessThan(1e-6);
});

test('bad input is refused with what would do', async () => {
  const lora = adaptationOf('lora');
  await expect(tune(tinyEncoder, { texts: [] }, task, lora)).rejects.toMatchObject({ code: 'ROWS_EMPTY' });
  await expect(tune(tinyEncoder, examples, task, lora, { epochs: 0 })).rejects.toThrow(/epochs: .*epochs=3/);
  await expect(tune(tinyEncoder, examples, task, lora, { epoch: 1 } as never)).rejects.toThrow(/epoch/);
  const on = 2;
  await expect(tune(tinyEncoder, examples, task, lora, { validation: { on } })).rejects.toThrow(/between 0 and 1/);
});
