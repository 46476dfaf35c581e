/**
 * A run of `tune` that other processes kill: `node killed-run.fixture.js <checkpoint> <log> <step>` trains, and once it has
 * taken so many steps says so and stands still.
 */
import { writeSync } from 'node:fs';
import { adaptationOf } from '../peft/adaptations.js';
import type { TuneOptions } from './options.js';
import { tinyEncoder, tinyTask } from './tiny-task.fixture.js';
import { type TuneContext, tune } from './tune.js';

/** A run with all that must come back: batches in order, tokens left out, moments, the best weights, patience. */
export function killedRun(options: Pick<TuneOptions, 'checkpoint' | 'resume' | 'log'>, context: TuneContext = {}) {
  const { examples, task } = tinyTask(30);
  return tune(
    tinyEncoder,
    examples,
    task,
    adaptationOf('lora', { init: 'gaussian', dora: true }),
    {
      epochs: 4,
      batchSize: 3,
      accumulate: 2,
      lr: 1e-2,
      schedule: 'cosine',
      tokenDropout: 0.2,
      validation: { on: 0.2, patience: 3, everySteps: 3 },
      ...options,
    },
    { seed: 3, ...context },
  );
}

const [, script, path, log, last] = process.argv;
if (script?.endsWith('killed-run.fixture.js')) {
  await killedRun(
    { checkpoint: { path: path!, every: 2 }, log },
    {
      onProgress: ({ step }) => {
        if (step !== Number(last)) return;
        writeSync(1, 'reached\n');
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0); // until it is killed
      },
    },
  );
}
