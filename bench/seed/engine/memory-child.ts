/**
 * Run by memory.ts in a process of its own: `step <rows>` trains MiniLM for some steps, `steps <count>` a small model for
 * many. Prints one JSON document.
 */
import { compile, hostTensor, mul } from '@fewtune/engine';
import { loadEncoder } from '@fewtune/models';
import { threads } from '../../lib/machine.js';
import { peakResidentBytes } from '../../lib/peak.js';
import { classifierStep, paddedBatch, withRows, wordTable } from './classifier.js';
import { transformer } from './small-models.js';
import { smallStep } from './small-step.js';

const [what, argument] = process.argv.slice(2) as [string, string];

/** Peak of a process that has only loaded the runtime, and after steps on 16 × 64 tokens. */
async function fullStep(rows: number): Promise<object> {
  const once = await compile(({ x }) => mul(x, 2), { x: { dtype: 'float32', shape: [1] } }, { threads });
  await once.run({ x: hostTensor('float32', [1], [1]) });
  await once.dispose();
  const idleBytes = peakResidentBytes();
  const [batch, tokens] = [16, 64];
  const whole = await loadEncoder();
  const encoder = rows < whole.weights[wordTable]!.shape[0]! ? withRows(whole, [...Array(rows).keys()]) : whole;
  (globalThis as { gc?: () => void }).gc?.();
  const beforeBytes = process.memoryUsage().rss;
  const weightBytes = Object.values(encoder.weights).reduce((sum, { data }) => sum + data.byteLength, 0);
  // As in PyTorch, the weights that were loaded are those that are trained.
  const step = await classifierStep('full', encoder, paddedBatch(batch, tokens), true);
  const plannedBytes = (await step.memory()).total;
  const fill = (shape: number[], value: (i: number) => number) => {
    const count = shape.reduce((product, size) => product * size, 1);
    return hostTensor(
      'int64',
      shape,
      Array.from({ length: count }, (_, i) => value(i)),
    );
  };
  const given = {
    inputIds: fill([batch, tokens], (i) => (i * 7919) % rows),
    attentionMask: fill([batch, tokens], () => 1),
    labels: fill([batch], (i) => i),
  };
  for (let run = 0; run < 5; run++) await step.run(given);
  await step.dispose();
  const peakBytes = peakResidentBytes();
  return { idleBytes, peakBytes, plannedBytes, stepBytes: peakBytes - beforeBytes + weightBytes };
}

/** Resident memory over `count` steps of a small transformer, after a collection, every fiftieth step. */
async function manySteps(count: number): Promise<object> {
  const model = transformer({ batch: 4, tokens: 16 });
  const step = await smallStep(model, { threads });
  const collect = (globalThis as { gc?: () => void }).gc;
  if (!collect) throw new Error('run with --expose-gc');
  const resident: number[] = [];
  for (let run = 1; run <= count; run++) {
    await step.time(1);
    if (run % 50 !== 0) continue;
    collect();
    resident.push(process.memoryUsage().rss);
  }
  await step.close();
  // The first eighth fills pools and lets the compiler settle. A collection gives back now more, now less: the largest
  // of a stretch is steadier than any one.
  const largest = (from: number, to: number) =>
    Math.max(...resident.slice(Math.floor(from * resident.length), Math.ceil(to * resident.length)));
  return { startBytes: largest(1 / 8, 3 / 8), endBytes: largest(3 / 4, 1) };
}

const result = what === 'step' ? await fullStep(Number(argument)) : await manySteps(Number(argument));
process.stdout.write(`${JSON.stringify(result)}\n`);
