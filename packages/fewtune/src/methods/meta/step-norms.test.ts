import { readFileSync } from 'node:fs';
import { type HostTensor, hostTensor } from '@fewtune/engine';
import { conv4 } from '@fewtune/models';
import { describe, expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { Maml } from './maml.js';
import type { MetaTask } from './meta-model.js';
import { changed, plainOptions, taskGradient } from './task-gradient.fixture.js';

/** Made by maml-step-norms.py beside it, with PyTorch in float64. */
const fixture = JSON.parse(
  readFileSync(new URL('../../../test/fixtures/maml-step-norms.json', import.meta.url), 'utf8'),
) as {
  steps: number;
  lr: number;
  filters: number;
  shapes: Record<string, number[]>;
  weights: Record<string, number[]>;
  running: Record<string, number[]>;
  support: { x: number[]; y: number[] };
  query: { x: number[]; y: number[] };
  loss: number;
  gradient: Record<string, number[]>;
  met: Record<string, number[][]>;
  logits: number[];
};
const { steps, lr: innerLr, filters } = fixture;
const model = conv4({ filters, size: 16, ways: 2 });
const perStep = [steps, filters];
const isNorm = (name: string) => name.startsWith('norm');
const params: Record<string, HostTensor> = {};
for (const [name, data] of Object.entries(fixture.weights)) {
  params[isNorm(name) ? `step/${name}` : name] = hostTensor('float32', fixture.shapes[name]!, data);
  if (!isNorm(name)) params[`rate/${name}`] = hostTensor('float32', [steps], Array(steps).fill(innerLr));
}
const running = Object.fromEntries(
  Object.entries(fixture.running).map(([name, data]) => [`step/${name}`, hostTensor('float32', perStep, data)]),
);
const examples = ({ x, y }: { x: number[]; y: number[] }) => ({
  x: hostTensor('float32', [y.length, 1, 16, 16], x),
  y: hostTensor('int64', [y.length], y),
});
const task: MetaTask = { support: examples(fixture.support), query: examples(fixture.query) };
const options = { ...plainOptions, variant: 'maml++', innerSteps: steps, innerLr } as const;
const near = (values: readonly number[], digits: number) => values.map((value) => expect.closeTo(value, digits));
const values = (tensor: HostTensor) => [...(tensor.data as Float32Array)];

describe('per-step batch normalisation', () => {
  test('loss and second-order gradient are PyTorch’s; statistics move towards those of the passes', async () => {
    const start = { ...params, ...running };
    await using program = await taskGradient(model, start, task, options);
    const { loss, gradient } = await program.at(start);
    expect(loss).toBeCloseTo(fixture.loss, 5);
    for (const [name, wanted] of Object.entries(fixture.gradient)) {
      const own = values(gradient[isNorm(name) ? `step/${name}` : name]!);
      // float32 against float64
      expect(own, name).toEqual(near(wanted, 4));
    }
    for (const [name, rows] of Object.entries(fixture.met)) {
      const towards = values(gradient[`step/${name}`]!);
      const now = fixture.running[name]!;
      expect(
        towards.map((value, i) => now[i]! - value),
        name,
      ).toEqual(near(rows.flat(), 4));
    }
  });

  test('a step of the meta-learner averages them with momentum 0.1, whatever its rate', async () => {
    await using maml = new Maml({
      model,
      ...{ variant: 'maml++', innerSteps: steps, innerLr, metaLr: 1e-9 },
      start: { ...params, ...running },
    });
    await maml.metaTrain([[task, task]], { epochs: 1 }).result;
    for (const [name, rows] of Object.entries(fixture.met)) {
      const wanted = rows.flat().map((value, i) => 0.9 * fixture.running[name]![i]! + 0.1 * value);
      expect(values(maml.params[`step/${name}`]!), name).toEqual(near(wanted, 4));
    }
  });

  test('at test queries are normalised by the running statistics of the last step, each alone', async () => {
    const given = { ...params, ...running };
    const settings = { model, variant: 'maml++', innerSteps: steps, innerLr, start: given } as const;
    await using maml = new Maml(settings);
    const adapted = await maml.adapt(task);
    const logits = fixture.logits;
    const wanted = [0, 1, 2, 3, 4, 5].flatMap((row) => {
      const [a, b] = [Math.exp(logits[2 * row]!), Math.exp(logits[2 * row + 1]!)];
      return [a / (a + b), b / (a + b)];
    });
    expect(values(await adapted.predict(task.query.x))).toEqual(near(wanted, 4));
    const one = hostTensor('float32', [1, 1, 16, 16], fixture.query.x.slice(0, 256));
    expect(values(await adapted.predict(one))).toEqual(near(wanted.slice(0, 2), 4));
    // By their own statistics they depend on each other, as in the authors' code.
    await using transductive = new Maml({ ...settings, transductive: true });
    const other = await (await transductive.adapt(task)).predict(task.query.x);
    expect(Math.max(...values(other).map((value, i) => Math.abs(value - wanted[i]!)))).toBeGreaterThan(0.01);
  });

  test('what is learned holds every step’s set; more steps than were trained keep the last', async () => {
    await using maml = new Maml({ model, variant: 'maml++', innerSteps: 3, innerLr: 0.1 });
    const names = Object.keys(maml.params).filter((name) => name.startsWith('step/'));
    expect(names).toHaveLength(16);
    expect(maml.params['step/norm0.variance']).toMatchObject({ shape: [3, filters] });
    expect(values(maml.params['step/norm0.weight']!)).toEqual(Array(6).fill(1));
    expect(Object.keys(maml.params).some((name) => /^(rate\/)?norm/.test(name))).toBe(false);
    const random = createRandom(1);
    const learned = changed(maml.params, (value) => value + 0.1 * random.next());
    await using other = new Maml({ model, variant: 'maml++', innerSteps: 3, innerLr: 0.1, start: learned });
    const { weights } = await other.adapt(task, { steps: 5 });
    expect(values(weights['norm1.mean']!)).toEqual(values(learned['step/norm1.mean']!).slice(2 * filters));
    const { weights: first } = await other.adapt(task, { steps: 0 });
    expect(values(first['norm1.bias']!)).toEqual(values(learned['step/norm1.bias']!).slice(0, filters));
  });
});
