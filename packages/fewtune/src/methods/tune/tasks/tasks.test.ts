import { readFileSync } from 'node:fs';
import { compile, type HostTensor, hostTensor, type Tensor, type TensorSpec, valueAndGrad } from '@fewtune/engine';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createRandom } from '../../../data/random.js';
import { softmaxRows } from '../../../evaluation/calibration.js';
import type { Task } from '../task.js';
import { bestTags, bioTags, labelsOfTags, spansOfTags } from './bio.js';
import { linearLogits } from './linear-head.js';
import { multiLabel } from './multi-label.js';
import { ordinal, ordinalLogits } from './ordinal.js';
import { regression } from './regression.js';
import { maskedCrossEntropy } from './tokens.js';

// By PyTorch: test/fixtures/tasks.py.
const url = new URL('../../../../test/fixtures/tasks.json', import.meta.url);
const { losses } = JSON.parse(readFileSync(url, 'utf8'));
const [rows, hidden] = [6, 5];
const states = hostTensor('float32', [rows, hidden], losses.states);

/** Loss and gradients of a head, as PyTorch's fixture has them. */
async function expectAsInTorch(name: string, task: Pick<Task, 'logits' | 'loss' | 'targetSpecs' | 'targets'>) {
  const { weight, bias, loss, weight_grad: weightGrad, bias_grad: biasGrad } = losses[name];
  const head = {
    'classifier.weight': hostTensor('float32', [weight.length / hidden, hidden], weight),
    'classifier.bias': hostTensor('float32', [bias.length], bias),
  };
  const spec = ({ dtype, shape }: HostTensor) => ({ dtype, shape });
  const specs: Record<string, TensorSpec> = {
    weight: spec(head['classifier.weight']),
    bias: spec(head['classifier.bias']),
    states: { dtype: 'float32', shape: ['batch', hidden] },
    ...task.targetSpecs,
  };
  const program = await compile(
    ({ weight, bias, states, ...targets }: Record<string, Tensor>) => {
      const f = valueAndGrad(([weight, bias]: [Tensor, Tensor]) =>
        task.loss(task.logits(states!, { 'classifier.weight': weight, 'classifier.bias': bias }), targets),
      );
      const { value, gradient } = f([weight!, bias!]);
      return { value, weight: gradient[0], bias: gradient[1] };
    },
    specs,
    { threads: 1 },
  );
  const feeds = { weight: head['classifier.weight'], bias: head['classifier.bias'], states };
  const found = (await program.run({ ...feeds, ...task.targets([...Array(rows).keys()]) })) as Record<
    string,
    HostTensor
  >;
  await program.dispose();
  const close = (values: number[]) => values.map((value) => expect.closeTo(value, 5));
  expect(Array.from(found.value!.data as Float32Array)).toEqual(close([loss]));
  expect(Array.from(found.weight!.data as Float32Array)).toEqual(close(weightGrad));
  expect(Array.from(found.bias!.data as Float32Array)).toEqual(close(biasGrad));
}

describe('losses and gradients are those of PyTorch', () => {
  test('BCE of several labels', async () => {
    const { labels } = losses.multiLabel;
    const sets = Array.from({ length: rows }, (_, row) => [0, 1, 2, 3].filter((c) => labels[row * 4 + c] === 1));
    await expectAsInTorch('multiLabel', multiLabel(sets, ['a', 'b', 'c', 'd']));
  });

  test.each(['mse', 'huber'] as const)('%s of a standardised value', async (loss) => {
    await expectAsInTorch(loss, regression(losses[loss].values, ['value'], { loss }));
  });

  test.each(['likelihood', 'coral'] as const)('ordinal %s', async (loss) => {
    await expectAsInTorch(loss, ordinal(losses[loss].labels, ['a', 'b', 'c', 'd'], { loss }));
  });

  test('cross-entropy of the tokens that count', async () => {
    const { labels } = losses.tokens;
    await expectAsInTorch('tokens', {
      logits: linearLogits,
      loss: (logits, { labels, counts }) => maskedCrossEntropy(logits, labels!, counts!),
      targetSpecs: { labels: { dtype: 'int64', shape: ['batch'] }, counts: { dtype: 'float32', shape: ['batch'] } },
      targets: () => ({
        labels: hostTensor(
          'int64',
          [rows],
          labels.map((label: number) => Math.max(label, 0)),
        ),
        counts: hostTensor(
          'float32',
          [rows],
          labels.map((label: number) => (label < 0 ? 0 : 1)),
        ),
      }),
    });
  });
});

describe('ordinal', () => {
  test('P(class > k) falls with k for any head, and the start has the shares of the classes', async () => {
    const program = await compile(
      ({ states, weight, bias }) => ordinalLogits(states!, { 'classifier.weight': weight!, 'classifier.bias': bias! }),
      {
        states: { dtype: 'float32', shape: ['batch', hidden] },
        weight: { dtype: 'float32', shape: [1, hidden] },
        bias: { dtype: 'float32', shape: [4] },
      },
      { threads: 1 },
    );
    const random = createRandom(7);
    for (let i = 0; i < 20; i++) {
      const normal = (size: number, scale: number) =>
        Float32Array.from({ length: size }, () => scale * random.gaussian());
      const { data } = (await program.run({
        states,
        weight: hostTensor('float32', [1, hidden], normal(hidden, 10)),
        bias: hostTensor('float32', [4], normal(4, 5)),
      })) as HostTensor;
      const probabilities = softmaxRows(data as Float32Array, 5);
      for (let row = 0; row < rows; row++) {
        const own = probabilities.subarray(row * 5, (row + 1) * 5);
        expect(own.every((p) => p >= 0)).toBe(true); // each is P(> k − 1) − P(> k)
        const logs = (data as Float32Array).subarray(row * 5, (row + 1) * 5);
        expect(logs.reduce((sum, log) => sum + Math.exp(log), 0)).toBeCloseTo(1, 4); // log-probabilities as they are
      }
    }
    const labels = [0, 0, 0, 1, 1, 2, 2, 2, 3, 4];
    const head = ordinal(labels, ['1', '2', '3', '4', '5']).head(hidden, random);
    const { data } = (await program.run({
      states: hostTensor('float32', [1, hidden], new Float32Array(hidden)),
      weight: head['classifier.weight']!,
      bias: head['classifier.bias']!,
    })) as HostTensor;
    const counts = [3, 2, 3, 1, 1].map((count) => (count + 0.5) / 12.5);
    expect(Array.from(data as Float32Array, Math.exp)).toEqual(counts.map((share) => expect.closeTo(share, 4)));
    await program.dispose();
  });

  test('two classes are a logistic regression', () => {
    expect(ordinal([0, 1, 1], ['no', 'yes']).head(hidden, createRandom(1))['classifier.bias']!.data).toHaveLength(1);
  });
});

describe('tags', () => {
  test('the best allowed path is found, as by trying all', () => {
    const tags = 5;
    const allowed = (path: readonly number[]) =>
      path.every((tag, i) => tag === 0 || tag % 2 === 1 || path[i - 1] === tag || path[i - 1] === tag - 1);
    const paths = Array.from({ length: tags ** 4 }, (_, n) =>
      [0, 1, 2, 3].map((i) => Math.floor(n / tags ** i) % tags),
    );
    const possible = paths.filter(allowed);
    fc.assert(
      fc.property(fc.array(fc.double({ min: -9, max: 0, noNaN: true }), { minLength: 20, maxLength: 20 }), (logs) => {
        const score = (path: ArrayLike<number>) =>
          Array.from(path).reduce((sum, tag, i) => sum + logs[i * tags + tag]!, 0);
        const best = Math.max(...possible.map(score));
        const found = bestTags(logs, tags);
        expect(allowed(Array.from(found))).toBe(true);
        expect(score(found)).toBeCloseTo(best, 9);
      }),
      { numRuns: 50, seed: 7 },
    );
  });

  test('spans and names', () => {
    expect(spansOfTags([0, 1, 2, 1, 3, 4, 4, 0])).toEqual([
      { first: 1, last: 2, label: 0 },
      { first: 3, last: 3, label: 0 },
      { first: 4, last: 6, label: 1 },
    ]);
    expect(labelsOfTags(bioTags(['PER', 'LOC']))).toEqual(['PER', 'LOC']);
    expect(labelsOfTags(['O', 'I-PER', 'B-PER'])).toBeUndefined();
    expect(bestTags([], 3)).toHaveLength(0);
  });
});

describe('values', () => {
  test('are standardised; logits and score are in their unit', () => {
    const task = regression([10, 20, 30, 40]);
    expect(task.scale).toEqual({ mean: [25], deviation: [Math.sqrt(125)] });
    expect(task.score(Float32Array.of(10, 20, 30, 40), [0, 1, 2, 3])).toMatchObject({ name: 'R²', value: 1 });
    expect(() => regression([1, 1, 1], ['stars'])).toThrow(/stars is 1 in all 3 examples/);
    expect(() => regression([1, Number.NaN])).toThrow(/example 1: value is NaN/);
  });
});
