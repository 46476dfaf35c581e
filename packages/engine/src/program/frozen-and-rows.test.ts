import { describe, expect, test } from 'vitest';
import * as e from '../index.js';
import { bytes, distance, wave } from './training-fixture.js';

const words = 50;
const width = 6;
const batch = { ids: { dtype: 'int64', shape: ['batch'] }, labels: { dtype: 'int64', shape: ['batch'] } } as const;
const given = (ids: readonly number[]) => ({
  ids: e.hostTensor('int64', [ids.length], ids),
  labels: e.hostTensor(
    'int64',
    [ids.length],
    ids.map((id) => id % 3),
  ),
});

function makeStep(options: Partial<e.TrainStepOptions<typeof batch>> = {}) {
  return e.trainStep({
    params: { table: wave([words, width], 0.7), head: wave([3, width], 0.3) },
    frozen: { mix: wave([width, width], 1.1) },
    batch,
    loss: (p, { frozen, batch }) => {
      const mixed = e.matMul(e.gather(p.table!, batch.ids), frozen.mix!);
      return e.crossEntropy(e.linear(mixed, p.head!), batch.labels);
    },
    optimizer: e.adamW({ weightDecay: 0 }),
    schedule: e.constantRate(0.05),
    clipNorm: 1,
    ...options,
  });
}

describe('tables of which a step touches the rows its batch names', () => {
  test('learn as whole tables do while every row is in every batch, repeated rows included', async () => {
    await using whole = await makeStep();
    await using rows = await makeStep({ rows: { table: 'ids' } });
    const all = [...Array(words).keys(), 3, 3, 9];
    for (let step = 0; step < 4; step++) {
      const wanted = await whole.run(given(all));
      const found = await rows.run(given([...all].reverse()));
      expect(found.loss).toBeCloseTo(wanted.loss, 5);
      expect(found.gradientNorm).toBeCloseTo(wanted.gradientNorm!, 5);
    }
    expect(distance(await whole.params(), await rows.params())).toBeLessThan(1e-5);
  });

  test('leave every other row, and its moments, as they were', async () => {
    await using step = await makeStep({ rows: { table: 'ids' } });
    const before = await step.snapshot();
    await step.run(given([4, 7, 4]));
    const after = await step.snapshot();
    for (const name of ['param/table', 'optimizer/table/first', 'optimizer/table/second']) {
      const changed = Array.from({ length: words }, (_, row) => row).filter((row) =>
        (after[name]!.data as Float32Array)
          .subarray(row * width, (row + 1) * width)
          .some((value, i) => value !== before[name]!.data[row * width + i]),
      );
      expect(changed).toEqual([4, 7]);
    }
  });

  test('continue bit for bit from a snapshot', async () => {
    await using step = await makeStep({ rows: { table: 'ids' } });
    await step.run(given([1, 2]));
    const snapshot = await step.snapshot();
    await step.run(given([2, 3]));
    const wanted = await step.params();
    await step.restore(snapshot);
    await step.run(given([2, 3]));
    const found = await step.params();
    for (const name of Object.keys(wanted)) expect(bytes(found[name]!).equals(bytes(wanted[name]!))).toBe(true);
  });

  test('micro-batches equal the large batch; rows that none of them named stay as they were', async () => {
    const table = { rows: { table: 'ids' } } as const;
    await using large = await makeStep(table);
    await using small = await makeStep({ ...table, accumulate: true });
    const start = await small.snapshot();
    const steps = [[[4, 7, 4], [7, 9, 1, 9], [12]], [[9], [20, 21, 4]], [[1, 2, 3, 4, 5]]];
    for (const parts of steps) {
      const [wanted, found] = [await large.run(given(parts.flat())), await small.run(parts.map(given))];
      expect(found.loss).toBeCloseTo(wanted.loss, 5);
      expect(found.gradientNorm).toBeCloseTo(wanted.gradientNorm!, 5);
    }
    expect(distance(await small.params(), await large.params())).toBeLessThan(1e-5);
    const [before, after] = [start['param/table']!, (await small.snapshot())['param/table']!];
    const row = ({ data }: e.HostTensor, at: number) => [...data.slice(at * width, (at + 1) * width)];
    const named = new Set(steps.flat(2));
    for (let at = 0; at < words; at++) {
      if (named.has(at)) expect(row(after, at)).not.toEqual(row(before, at));
      else expect(row(after, at)).toEqual(row(before, at));
    }
  });

  test('a snapshot between two micro-batches holds their sums; a step that fails leaves none', async () => {
    await using step = await makeStep({ rows: { table: 'ids' }, accumulate: true });
    await step.accumulate(given([4, 7]));
    const snapshot = await step.snapshot();
    const goOn = async () => {
      await step.accumulate(given([8, 4]));
      await step.update();
      return step.snapshot();
    };
    const wanted = await goOn();
    await expect(step.run([given([30]), given([50])])).rejects.toThrow('row 50 of "param/table", which has 50');
    expect(await step.snapshot()).toEqual(wanted);
    await step.restore(snapshot);
    expect(await goOn()).toEqual(wanted);
    expect((await step.profile(given([1, 2]), { runs: 1 })).byOperator.length).toBeGreaterThan(0);
  });

  test('go with half precision: loss scaling, a skipped step, the shadow check', async () => {
    const half = { rows: { table: 'ids' }, precision: e.float16Compute } as const;
    await using exact = await makeStep({ rows: { table: 'ids' } });
    await using scaled = await makeStep(half);
    for (const ids of [
      [1, 2],
      [2, 3, 3],
      [4, 1],
    ]) {
      const wanted = await exact.run(given(ids));
      const found = await scaled.run(given(ids));
      expect(found.skipped).toBe(false);
      expect(Math.abs(found.loss - wanted.loss)).toBeLessThan(0.01 * wanted.loss);
    }
    await using overflowing = await makeStep({ ...half, shadow: false, lossScale: { init: 2 ** 126 } });
    const before = await overflowing.params();
    expect((await overflowing.run(given([1, 2]))).skipped).toBe(true);
    const after = await overflowing.params();
    for (const name of Object.keys(before)) expect(bytes(after[name]!).equals(bytes(before[name]!))).toBe(true);
  });

  test('refuse what cannot be', async () => {
    await expect(makeStep({ rows: { tables: 'ids' } })).rejects.toThrow('there is no trained table "tables"');
    await expect(makeStep({ rows: { table: 'id' as 'ids' } })).rejects.toThrow('"id", which names rows of "table"');
    await expect(makeStep({ rows: { table: 'ids' }, accumulate: { replicas: 2 } })).rejects.toThrow(
      '`replicas` and `rows` do not go together',
    );
    await using step = await makeStep({ rows: { table: 'ids' } });
    const wrong = { ids: e.hostTensor('int64', [1], [50]), labels: e.hostTensor('int64', [1], [0]) };
    await expect(step.run(wrong)).rejects.toThrow('row 50 of "param/table", which has 50');
  });
});

test('frozen weights packed into the program give what they give as inputs', async () => {
  await using packed = await makeStep();
  await using fed = await makeStep({ packFrozen: false });
  for (const ids of [
    [1, 2],
    [5, 6, 7],
  ]) {
    expect((await packed.run(given(ids))).loss).toBeCloseTo((await fed.run(given(ids))).loss, 6);
  }
  expect(distance(await packed.params(), await fed.params())).toBeLessThan(1e-6);
});
