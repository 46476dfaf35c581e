import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { adaptationOf } from '../peft/adaptations.js';
import { lrRangeTest } from './range-test.js';
import { tinyEncoder, tinyTask } from './tiny-task.fixture.js';
import { type TuneEvent, tune } from './tune.js';

const folder = mkdtempSync(join(tmpdir(), 'fewtune-range-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const { examples, task } = tinyTask(40);
const adapt = adaptationOf('full');

test('rates rise as asked, the run is not a long one, and what is suggested learns', async () => {
  const range = { from: 1e-4, to: 10, steps: 40, batchSize: 8, accumulate: 2 };
  const { points, suggestion } = await lrRangeTest(tinyEncoder, examples, task, adapt, range);
  const again = await lrRangeTest(tinyEncoder, examples, task, adapt, range);
  expect(again.points).toEqual(points);
  expect(points.length).toBeGreaterThan(20);
  expect(points[0]!.lr).toBe(1e-4);
  expect(points[1]!.lr / points[0]!.lr).toBeCloseTo(1e5 ** (1 / 39), 10);
  expect(suggestion).toBeGreaterThan(1e-3);
  expect(suggestion).toBeLessThan(1);
  const options = { epochs: 20, batchSize: 8, lr: suggestion, warmup: 0.1 };
  await using tuned = await tune(tinyEncoder, examples, task, adapt, options);
  const losses = tuned.history.steps.map(({ loss }) => loss);
  expect(losses.at(-1)!).toBeLessThan(0.7 * losses[0]!);
});

test('lr "auto" is chosen once: a resumed run takes the one it began with', async () => {
  const path = join(folder, 'auto.safetensors');
  const options = { epochs: 2, batchSize: 'auto', recompute: 'auto', lr: 'auto', validation: { on: 0.2 } } as const;
  const whole = await tune(tinyEncoder, examples, task, adapt, options);
  const stop = new AbortController();
  const onProgress = ({ step }: TuneEvent) => void (step === 1 && stop.abort());
  const context = { signal: stop.signal, onProgress };
  const broken = tune(tinyEncoder, examples, task, adapt, { ...options, checkpoint: { path } }, context);
  await expect(broken).rejects.toMatchObject({ code: 'INTERRUPTED' });
  const resumed = await tune(tinyEncoder, examples, task, adapt, { ...options, memoryBytes: 1e9, resume: path });
  expect(resumed.history).toEqual(whole.history);
  expect(resumed.params).toEqual(whole.params);
});

test('a range that is none is refused', async () => {
  const refused = (range: object) => expect(lrRangeTest(tinyEncoder, examples, task, adapt, range)).rejects;
  await refused({ from: 1, to: 0.1 }).toThrow(/second must be larger/);
  await refused({ steps: 3 }).toThrow(/steps is 3/);
});
