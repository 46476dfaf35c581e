import { expect, test } from 'vitest';
import { adaptationOf } from '../peft/adaptations.js';
import { BestWeights } from './best-weights.js';
import { splitRows } from './held-out.js';
import { classification } from './tasks/classification.js';
import { tinyEncoder, tinyTask } from './tiny-task.fixture.js';
import { tune } from './tune.js';

const lookOf = (loss: number, value = 0) => ({ step: 1, epoch: 1, loss, score: { name: 'accuracy', value } });

test('the best weights are kept, and too many looks without a better one end the run', () => {
  const ended = (losses: readonly number[], patience: number) => {
    const best = new BestWeights({ patience });
    const at = losses.findIndex((loss) => best.add(lookOf(loss), {}));
    return at < 0 ? losses.length : at;
  };
  expect(ended([3, 2, 1, 2, 3], 2)).toBe(4);
  expect(ended([3, 2, 1, 2, 3], 3)).toBe(5);
  expect(ended([3, 3, 3], 1)).toBe(1);
  expect(ended([Number.NaN, 3, 2], 1)).toBe(3);
  const byScore = new BestWeights({ keep: 'score' });
  for (const [i, value] of [0.5, 0.9, 0.9, 0.4].entries()) {
    byScore.add(lookOf(i, value), { at: { dtype: 'float32', shape: [], data: Float32Array.of(i) } });
  }
  expect(byScore.best!.weights.at!.data[0]).toBe(1); // the first of equals
  const last = new BestWeights({ keep: 'last' });
  last.add(lookOf(1), {});
  expect(last.best).toBeUndefined();
});

test('a share is held out class by class, and never learned from', () => {
  const { task, examples } = tinyTask(40);
  const ids = examples.texts.map((text) => text.split(' ').map(Number));
  const { train, heldOut } = splitRows(tinyEncoder, task, { ids }, { on: 0.25 }, 1);
  expect([...train.rows, ...heldOut!.rows].sort((a, b) => a - b)).toEqual([...ids.keys()]);
  expect(heldOut!.rows.filter((row) => row % 2 === 0)).toHaveLength(5);
  expect(heldOut!.ids).toEqual(heldOut!.rows.map((row) => ids[row]));
  expect(splitRows(tinyEncoder, task, { ids }, { on: 0.25 }, 2).heldOut!.rows).not.toEqual(heldOut!.rows);
  const wrong = { examples, task: classification([0, 1], ['a', 'b']) };
  expect(() => splitRows(tinyEncoder, task, { ids }, { on: wrong }, 1)).toThrow(/kind and outputs/);
  expect(() => splitRows(tinyEncoder, task, { ids }, { on: 0.001 }, 1)).toThrow(/is none/);
});

test('what was kept scores as its look says, on examples that were given', async () => {
  const { examples, task } = tinyTask(24, 1);
  const other = tinyTask(16, 2);
  const validation = { on: { examples: other.examples, task: other.task }, patience: 2 };
  await using tuned = await tune(tinyEncoder, examples, task, adaptationOf('full'), {
    epochs: 30,
    lr: 3e-2,
    schedule: 'constant',
    batchSize: 8,
    validation,
  });
  const { looks, kept, steps } = tuned.history;
  expect(looks.length).toBeLessThan(30);
  expect(steps).toHaveLength(3 * looks.length);
  expect(kept!.loss).toBe(Math.min(...looks.map(({ loss }) => loss)));
  expect(looks.length - 1 - looks.indexOf(kept!)).toBe(2);
  // Another program, over merged weights: logits, loss and score are those of the look.
  const logits = await tuned.logits(other.examples.texts);
  expect(other.task.score(logits, [...other.labels.keys()])).toEqual(kept!.score);
  const losses = other.labels.map((label, row) => {
    const own = logits.subarray(2 * row, 2 * row + 2);
    return Math.log(Math.exp(own[0]!) + Math.exp(own[1]!)) - own[label]!;
  });
  expect(losses.reduce((a, b) => a + b) / losses.length).toBeCloseTo(kept!.loss, 4);
});

test('a rate that is far too high is halved until the run comes to its end, or named', async () => {
  const { examples, task } = tinyTask(24);
  const options = { epochs: 6, batchSize: 8, lr: 1e9, warmup: 0.2, clipNorm: 1e9 };
  const warnings: string[] = [];
  const context = { onProgress: ({ warning }: { warning?: string }) => void (warning && warnings.push(warning)) };
  const never = tune(tinyEncoder, examples, task, adaptationOf('full'), { ...options, rateHalvings: 0 }, context);
  await expect(never).rejects.toMatchObject({
    code: 'LOSS_NOT_FINITE',
    message: expect.stringMatching(/fine-tuning.*Lower lr/),
  });
  warnings.length = 0;
  const tuned = await tune(
    tinyEncoder,
    examples,
    task,
    adaptationOf('full'),
    { ...options, rateHalvings: 60 },
    context,
  );
  expect(tuned.history.rateHalvings).toBeGreaterThan(0);
  expect(warnings[0]).toMatch(/lr is now 500000000/);
});
