import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { adaptationOf } from '../peft/adaptations.js';
import { killedRun } from './killed-run.fixture.js';
import { tinyEncoder, tinyTask } from './tiny-task.fixture.js';
import { type TuneEvent, tune } from './tune.js';

const folder = mkdtempSync(join(tmpdir(), 'fewtune-resume-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Trains in another process, and kills it once it has taken so many steps. */
function trainUntilKilled(checkpoint: string, log: string, step: number): Promise<NodeJS.Signals | null> {
  const script = fileURLToPath(new URL('../../../dist/methods/tune/killed-run.fixture.js', import.meta.url));
  const child = spawn(process.execPath, [script, checkpoint, log, String(step)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  child.stdout.once('data', () => child.kill('SIGKILL'));
  return new Promise((resolve) => child.on('close', (_, signal) => resolve(signal)));
}

test('after kill -9 a run goes on as if nothing had been, to the bit', async () => {
  const whole = await killedRun({});
  const [path, log] = [join(folder, 'killed.safetensors'), join(folder, 'log')];
  expect(await trainUntilKilled(path, log, 7)).toBe('SIGKILL');
  const events: TuneEvent[] = [];
  const resumed = await killedRun({ resume: path, log }, { onProgress: (event) => events.push(event) });
  expect(events[0]!.step).toBe(7); // the checkpoint is of step 6
  expect(resumed.history).toEqual(whole.history);
  expect({ ...resumed.params, ...resumed.head }).toEqual({ ...whole.params, ...whole.head });
  const lines = readFileSync(join(log, 'metrics.jsonl'), 'utf8').trimEnd().split('\n');
  expect(lines.map((line) => (JSON.parse(line) as { step: number }).step)).toEqual(
    whole.history.steps.map(({ step }) => step),
  );
});

describe('a run that is interrupted', () => {
  test('leaves a checkpoint of its last step, however rarely one is written', async () => {
    const whole = await killedRun({});
    const path = join(folder, 'interrupted.safetensors');
    const stop = new AbortController();
    const onProgress = ({ step }: TuneEvent) => step === 6 && stop.abort();
    const broken = killedRun(
      { checkpoint: { path, every: 1000 } },
      { signal: stop.signal, onProgress: (event) => void onProgress(event) },
    );
    await expect(broken).rejects.toMatchObject({ code: 'INTERRUPTED' });
    const resumed = await killedRun({ resume: path });
    expect(resumed.history).toEqual(whole.history);
    expect({ ...resumed.params, ...resumed.head }).toEqual({ ...whole.params, ...whole.head });
  });

  test('is not gone on with by other options, on other examples, or with another adapter', async () => {
    const { examples, task } = tinyTask(12);
    const path = join(folder, 'other.safetensors');
    const lora = adaptationOf('lora', { rank: 4 });
    const run = (options: object, adapt = lora, own = examples) =>
      tune(tinyEncoder, own, task, adapt, { epochs: 1, ...options });
    await run({ checkpoint: { path } });
    await run({ resume: path });
    await expect(run({ resume: path, lr: 1 })).rejects.toThrow('lr 0.0001, not 1');
    await expect(run({ resume: path }, adaptationOf('lora', { rank: 4, alpha: 3 }))).rejects.toThrow(/adapter .*16.*3/);
    await expect(run({ resume: path }, adaptationOf('lora', { rank: 3 }))).rejects.toThrow('other params');
    const texts = examples.texts.with(0, '2 3');
    await expect(run({ resume: path }, lora, { texts })).rejects.toThrow('other data');
    await expect(run({ resume: `${path}.gone` })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });
});
