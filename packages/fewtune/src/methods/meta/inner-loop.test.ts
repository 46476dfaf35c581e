import { readFileSync } from 'node:fs';
import { type HostTensor, hostTensor, linear, type Named, type Tensor, tanh } from '@fewtune/engine';
import { describe, expect, test } from 'vitest';
import { riseAlong } from './along-gradient.fixture.js';
import { innerLoop } from './inner-loop.js';
import type { MetaModel } from './meta-model.js';
import { plainOptions, taskGradient } from './task-gradient.fixture.js';
import type { MamlVariant } from './task-loss.js';

/** Made by maml-gradients.py beside it, with PyTorch in float64. */
const fixture = JSON.parse(
  readFileSync(new URL('../../../test/fixtures/maml-gradients.json', import.meta.url), 'utf8'),
) as {
  steps: number;
  lr: number;
  shapes: Record<string, number[]>;
  weights: Record<string, number[]>;
  support: { x: number[]; y: number[] };
  query: { x: number[]; y: number[] };
  expected: Record<string, { loss: number; gradient: Record<string, number[]> }>;
};

const weights = Object.fromEntries(
  Object.entries(fixture.weights).map(([name, data]) => [name, hostTensor('float32', fixture.shapes[name]!, data)]),
);
const examples = ({ x, y }: { x: number[]; y: number[] }) => ({
  x: hostTensor('float32', [y.length, 3], x),
  y: hostTensor('int64', [y.length], y),
});
const [support, query] = [examples(fixture.support), examples(fixture.query)];

const model: MetaModel = {
  weights,
  headNames: ['head.weight', 'head.bias'],
  outputs: 2,
  forward: (w, x) => linear(tanh(linear(x, w['body.weight']!, w['body.bias']!)), w['head.weight']!, w['head.bias']!),
};

/** Outer loss and meta-gradient of the fixture's task. */
async function metaGradient(
  variant: MamlVariant,
  params = weights,
  innerSteps = fixture.steps,
): Promise<{ loss: number; gradient: Named<HostTensor> }> {
  const { lr: innerLr } = fixture;
  const firstOrder = variant === 'fomaml' || variant === 'reptile' || variant === 'imaml';
  const options = { ...plainOptions, variant, innerSteps, innerLr, firstOrder, transductive: true };
  await using program = await taskGradient(model, weights, { support, query }, options);
  return program.at(params);
}

describe.each(['maml', 'fomaml', 'anil', 'boil', 'reptile'] as const)('%s', (variant) => {
  test('outer loss and meta-gradient are PyTorch’s', async () => {
    const found = await metaGradient(variant);
    const expected = fixture.expected[variant]!;
    expect(found.loss).toBeCloseTo(expected.loss, 5);
    for (const [name, values] of Object.entries(expected.gradient)) {
      const own = [...(found.gradient[name]!.data as Float32Array)];
      // float32 against float64, gradients up to 1.
      const worst = Math.max(...values.map((value, i) => Math.abs(value - own[i]!)));
      expect(worst, name).toBeLessThan(1e-5);
    }
  });
});

test('the second order is not the first', async () => {
  const [second, first] = [await metaGradient('maml'), await metaGradient('fomaml')];
  expect(second.loss).toBeCloseTo(first.loss, 6);
  const difference = (second.gradient['body.weight']!.data as Float32Array).map(
    (value, i) => value - Number(first.gradient['body.weight']!.data[i]),
  );
  expect(Math.max(...difference.map(Math.abs))).toBeGreaterThan(0.01);
});

test('no step leaves the weights, and weights that are not adapted pass through', () => {
  const traced = { a: { node: 'a' }, b: { node: 'b' } } as unknown as Named<Tensor>;
  const never = () => {
    throw new Error('no step, no loss');
  };
  expect(innerLoop(never, traced, { steps: 0, rate: () => 1 })).toEqual([traced]);
});

test('implicit MAML: where the inner loop has converged, the gradient is that of the outer loss', async () => {
  const steps = 60;
  const { gradient } = await metaGradient('imaml', weights, steps);
  const lossAt = async (moved: Named<HostTensor>) => (await metaGradient('imaml', moved, steps)).loss;
  const { norm, rise } = await riseAlong(gradient, weights, 1e-2, lossAt);
  expect(norm).toBeGreaterThan(0.05);
  expect(rise).toBeCloseTo(1, 1.7); // five steps of conjugate gradients
});
