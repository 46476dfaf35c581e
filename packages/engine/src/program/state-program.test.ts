import { expect, test } from 'vitest';
import * as e from '../index.js';
import { wave } from './training-fixture.js';

const makeStep = () =>
  e.trainStep({
    params: { w: wave([400, 300], 0.7) },
    batch: { x: { dtype: 'float32', shape: ['rows', 300] } } as const,
    loss: (p, { batch }) => e.mean(e.tanh(e.linear(batch.x, p.w!))),
    optimizer: e.adamW(),
    schedule: e.constantRate(1e-2),
  });

test('a run writes weights and moments where they stand: it leaves no copies of them behind', async () => {
  await using step = await makeStep();
  const x = wave([4, 300], 0.3);
  for (let i = 0; i < 5; i++) await step.run({ x });
  const before = process.memoryUsage().arrayBuffers;
  const runs = 20;
  for (let i = 0; i < runs; i++) await step.run({ x });
  // A copy of the state would be 1.4 MB a run.
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(runs * 100_000);
});

test('a run that fails says so, and the state is what it was', async () => {
  await using step = await e.trainStep({
    params: { table: wave([4, 3], 0.7) },
    batch: { ids: { dtype: 'int64', shape: ['rows'] } } as const,
    loss: (p, { batch }) => e.mean(e.gather(p.table!, batch.ids)),
    optimizer: e.adamW(),
    schedule: e.constantRate(1e-2),
  });
  const before = await step.snapshot();
  await expect(step.run({ ids: e.hostTensor('int64', [2], [1, 9]) })).rejects.toMatchObject({ code: 'SESSION_FAILED' });
  const after = await step.snapshot();
  expect(after).toEqual(before);
  expect((await step.run({ ids: e.hostTensor('int64', [2], [1, 3]) })).loss).toBeTypeOf('number');
});

/** Weights of more than 64 kB, which are written over where the graph allows it. */
const clipped = (options: { debugNans?: boolean; lossScale?: boolean } = {}) =>
  e.trainStep({
    params: { table: wave([300, 64], 0.7), up: wave([300, 64], 0.3), out: wave([8, 300], 0.9) },
    batch: { ids: { dtype: 'int64', shape: ['rows'] } } as const,
    loss: (p, { batch }) => {
      const x = e.gather(p.table!, batch.ids);
      return e.crossEntropy(e.linear(e.tanh(e.linear(x, p.up!)), p.out!), e.cast(e.mul(batch.ids, 0), 'int64'));
    },
    optimizer: e.adamW(),
    schedule: e.constantRate(1e-2),
    clipNorm: 1,
    ...options,
  });

test('writing over the values before makes no difference, and takes one buffer less', async () => {
  const ids = e.hostTensor('int64', [4], [1, 299, 7, 1]);
  const planned: number[] = [];
  const trained = [];
  // Where values may be refused after the run, the old ones are kept.
  for (const debugNans of [false, true]) {
    await using step = await clipped({ debugNans });
    for (let i = 0; i < 4; i++) await step.run({ ids });
    trained.push(await step.snapshot());
    planned.push((await step.memory({ rows: 4 })).outputs);
  }
  expect(trained[0]).toEqual(trained[1]);
  const large = 3 * 4 * 2 * 300 * 64; // weight and two moments of table and up
  expect(planned[1]! - planned[0]!).toBe(large);
});

test('where values are written over, a run that fails has not begun to', async () => {
  await using step = await clipped();
  await step.run({ ids: e.hostTensor('int64', [2], [1, 2]) });
  const before = await step.snapshot();
  await expect(step.run({ ids: e.hostTensor('int64', [2], [1, 300]) })).rejects.toMatchObject({
    code: 'SESSION_FAILED',
  });
  expect(await step.snapshot()).toEqual(before);
});

test('takeParams: the weights that are given are those that are trained', async () => {
  const w = wave([4, 3], 0.7);
  const options = {
    batch: { x: { dtype: 'float32', shape: ['rows', 3] } },
    loss: (p: e.Named<e.Tensor>, { batch }: { batch: { x: e.Tensor } }) => e.mean(e.tanh(e.linear(batch.x, p.w!))),
    optimizer: e.sgd(),
    schedule: e.constantRate(0.1),
  } as const;
  await using copying = await e.trainStep({ ...options, params: { w } });
  await using taking = await e.trainStep({
    ...options,
    params: { w: { ...w, data: w.data.slice() } },
    takeParams: true,
  });
  for (const step of [copying, taking]) await step.run({ x: wave([5, 3], 0.4) });
  expect(w).toEqual(wave([4, 3], 0.7));
  expect(await taking.params()).toEqual(await copying.params());
});
