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
