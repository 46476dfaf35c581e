import { planStep } from '@fewtune/engine';
import { describe, expect, test } from 'vitest';
import { adaptationOf } from '../peft/adaptations.js';
import { copiesOf } from './fit.js';
import { type TuneOptions, tuneChoices } from './options.js';
import { prepare } from './prepare.js';
import { tinyEncoder, tinyTask } from './tiny-task.fixture.js';
import { stepOptions } from './tune-program.js';

const { examples, task } = tinyTask(80);
const longest = examples.texts.map((text) => text.split(' ').length).sort((a, b) => b - a);

async function chosen(options: TuneOptions) {
  const adapt = adaptationOf('full');
  const prepared = await prepare(tinyEncoder, { examples, task, adapt }, tuneChoices(options), {});
  const { trained } = prepared;
  const { batchSize, recompute } = trained.settings;
  await prepared.dispose();
  return { batchSize, recompute, trained };
}

/** What a step of so many of the longest rows needs. */
async function bytesOf(batchSize: number, recompute: number): Promise<number> {
  const { trained } = await chosen({ batchSize, recompute });
  const rows = longest.slice(0, batchSize);
  const sizes = { batch: batchSize, seq: rows[0]!, tokens: rows.reduce((sum, length) => sum + length, 0) };
  return copiesOf(trained) + planStep(stepOptions(trained, trained.stages[0]!)).memory(sizes).total;
}

describe('what is left open is chosen by memory', () => {
  test('the largest batch that fits, a power of two', async () => {
    expect(await chosen({ batchSize: 'auto', memoryBytes: 1e9 })).toMatchObject({ batchSize: 64, recompute: 0 });
    for (const wanted of [32, 8, 1]) {
      const memoryBytes = (await bytesOf(wanted, 0)) + 100; // a schedule of fewer steps has another constant
      expect(await chosen({ batchSize: 'auto', memoryBytes })).toMatchObject({ batchSize: wanted });
      if (wanted > 1)
        expect((await chosen({ batchSize: 'auto', memoryBytes: memoryBytes - 1000 })).batchSize).toBe(wanted / 2);
    }
  });

  test('as few layers computed twice as make the batch fit', async () => {
    const [none, one, all] = [await bytesOf(64, 0), await bytesOf(64, 1), await bytesOf(64, 2)];
    expect(one).toBeLessThan(none);
    const choose = (memoryBytes: number) => chosen({ batchSize: 64, recompute: 'auto', memoryBytes });
    expect(await choose(none)).toMatchObject({ batchSize: 64, recompute: 0 });
    expect(await choose(none - 1000)).toMatchObject({ batchSize: 64, recompute: 1 });
    await expect(choose(Math.min(one, all) - 1000)).rejects.toMatchObject({ code: 'MEMORY_EXCEEDED' });
  });

  test('a limit that nothing fits into is an error before anything runs, with what would fit', async () => {
    const limit = (await bytesOf(64, 0)) - 1000;
    const of = (batchSize: number, memoryBytes: number) => chosen({ batchSize, memoryBytes });
    await expect(of(64, limit)).rejects.toThrow(
      /a step of 64 rows needs about .* Would fit: recompute 1; batchSize 32 with accumulate 2 \(the same step\)/,
    );
    await expect(of(64, (await bytesOf(16, 2)) + 1000)).rejects.toThrow(
      /batchSize 16 with accumulate 4 \(the same step\) and recompute "all"/,
    );
    await expect(of(64, 1000)).rejects.toThrow(/even one row needs .* MB/);
    expect(await of(32, limit)).toMatchObject({ batchSize: 32 });
  });

  test('without a limit, half of what is free is enough for a small encoder', async () => {
    expect(await chosen({ batchSize: 'auto', recompute: 'auto' })).toMatchObject({ batchSize: 64, recompute: 0 });
    expect(await chosen({ recompute: 'all' })).toMatchObject({ batchSize: 16, recompute: 2 });
  });
});
