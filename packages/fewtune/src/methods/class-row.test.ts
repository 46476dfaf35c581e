import { describe, expect, test } from 'vitest';
import { createRandom } from '../data/random.js';
import { createLogisticSolver, headLogits, headOf, selectRows } from './linear/logistic.js';
import { logisticRow } from './linear/logistic-row.js';
import { prototypeHead } from './metric/prototype.js';
import { prototypeRow } from './metric/prototype-row.js';

const hidden = 6;
const classes = 4;

/** Unit vectors round four directions, the last class with `last` examples. */
function points(last: number) {
  const random = createRandom(3);
  const labels = Int32Array.from([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, ...Array<number>(last).fill(3)]);
  const features = new Float32Array(labels.length * hidden);
  for (const [i, label] of labels.entries()) {
    const row = Array.from({ length: hidden }, (_, j) => (j === label ? 1 : 0) + 0.4 * (random.next() - 0.5));
    const length = Math.hypot(...row);
    features.set(
      row.map((value) => value / length),
      i * hidden,
    );
  }
  return { hidden, classes, features, labels };
}

/** The task of learning class 3 anew into a head of four classes. */
function taskFrom(
  { features, labels }: ReturnType<typeof points>,
  head: { weight: Float32Array; bias: Float32Array },
  details: Record<string, number>,
) {
  const rest = Int32Array.from(labels.keys()).filter((row) => labels[row] !== 3);
  const own = Int32Array.from(labels.keys()).filter((row) => labels[row] === 3);
  const kept = { weight: head.weight.slice(0, 3 * hidden), bias: head.bias.slice(0, 3) };
  const others = selectRows(features, hidden, rest);
  return {
    task: {
      hidden,
      head: kept,
      others,
      logits: headLogits(kept, others),
      labels: labels.filter((label) => label !== 3),
      details,
      options: {},
    },
    own: selectRows(features, hidden, own),
  };
}

function expectClose(found: Iterable<number>, wanted: Iterable<number>, tolerance: number) {
  const expected = [...wanted];
  for (const [i, value] of [...found].entries())
    expect(Math.abs(value - expected[i]!), `[${i}]`).toBeLessThan(tolerance);
}

describe('the row of one class, the others fixed', () => {
  test('logistic: beside the rows of a whole fit it is the whole fit’s own row', async () => {
    const data = points(3);
    const solver = await createLogisticSolver(hidden, classes, { threads: 1 });
    const { parameters } = await solver.fit(data, { C: 10, tolerance: 1e-7, maxIterations: 1000 });
    await solver.dispose();
    const whole = headOf(parameters, classes);
    const { task, own } = taskFrom(data, whole, { C: 10 });
    const row = await logisticRow(task)(own);
    // The loss is convex and flat to 1e-5 where both stop; weights are of order 1.
    expectClose(row.weight, whole.weight.subarray(3 * hidden), 5e-3);
    expect(Math.abs(row.bias - whole.bias[3]!)).toBeLessThan(5e-3);
  });

  test('logistic: a second call gives what a first would', async () => {
    const data = points(4);
    const head = { weight: data.features.slice(0, 4 * hidden), bias: Float32Array.from([0.1, 0, -0.1, 0]) };
    const { task, own } = taskFrom(data, head, { C: 3 });
    const learn = logisticRow(task);
    await learn(own.subarray(0, 2 * hidden));
    const again = await learn(own);
    const fresh = await logisticRow(task)(own);
    expectClose(again.weight, fresh.weight, 5e-3);
  });

  test.each([1, 0.5])(
    'prototype, shrinkage %d: with a single example it is the closed form over all classes',
    async (shrinkage) => {
      // One example has no spread and costs one degree of freedom, so the metric of the others is that of all.
      const data = points(1);
      const whole = prototypeHead(data, shrinkage);
      const temperature = 0.25;
      const scaled = { weight: whole.weight.map((value) => value / temperature), bias: whole.bias };
      const { task, own } = taskFrom(data, scaled, { shrinkage, temperature });
      const row = await prototypeRow(task)(own);
      expectClose(row.weight, scaled.weight.subarray(3 * hidden), 1e-4);
      expect(row.bias).toBe(0);
    },
  );
});
