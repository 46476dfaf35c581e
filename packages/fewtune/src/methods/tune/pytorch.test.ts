import { readFileSync } from 'node:fs';
import { hostTensor } from '@fewtune/engine';
import { expect, test } from 'vitest';
import { adaptationOf } from '../peft/adaptations.js';
import { classification } from './tasks/classification.js';
import { tinyEncoder } from './tiny-task.fixture.js';
import { tune } from './tune.js';

const place = new URL('../../../test/fixtures/tune-steps.json', import.meta.url);
const reference = JSON.parse(readFileSync(place, 'utf8')) as {
  ids: number[][];
  labels: number[];
  head: { 'classifier.weight': number[][]; 'classifier.bias': number[] };
  used: number[];
  steps: { loss: number; gradientNorm: number; lr: number }[];
  weights: Record<string, number[]>;
};

test.each([
  ['one batch', 6, 1],
  ['three micro-batches', 2, 3],
])('steps of BERT with a linear head are those of PyTorch: %s', async (_, batchSize, accumulate) => {
  const { head, steps, weights } = reference;
  const task = {
    ...classification(reference.labels, ['a', 'b', 'c']),
    head: () => ({
      'classifier.weight': hostTensor('float32', [3, 16], head['classifier.weight'].flat()),
      'classifier.bias': hostTensor('float32', [3], head['classifier.bias']),
    }),
  };
  await using tuned = await tune(
    tinyEncoder,
    { texts: reference.ids.map((ids) => ids.join(' ')) },
    task,
    adaptationOf('full'),
    // Every epoch is one step of all rows, in whatever order.
    { epochs: 4, batchSize, accumulate, lr: 1e-2, headLr: 5e-2, warmup: 0.25, weightDecay: 0.1, clipNorm: 0.2 },
  );
  for (const [i, { loss, gradientNorm, lr }] of tuned.history.steps.entries()) {
    expect(loss).toBeCloseTo(steps[i]!.loss, 5);
    expect(gradientNorm).toBeCloseTo(steps[i]!.gradientNorm, 4);
    expect(lr).toBeCloseTo(steps[i]!.lr, 8);
  }
  const found = { ...tuned.params, ...tuned.head };
  for (const [name, expected] of Object.entries(weights)) {
    if (name.endsWith('key.bias')) continue; // softmax does not see it: its gradient is rounding alone
    const { data } = found[name]!;
    expect(data, name).toHaveLength(expected.length);
    for (const [i, value] of expected.entries()) {
      expect(Math.abs((data[i] as number) - value), `${name} ${i}`).toBeLessThan(1e-4);
    }
  }
});
