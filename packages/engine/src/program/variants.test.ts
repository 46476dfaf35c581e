import { describe, expect, test } from 'vitest';
import * as e from '../index.js';
import { Variants } from './variants.js';

const f32 = (...shape: e.Dim[]) => ({ dtype: 'float32', shape }) as const;
const waves = (...shape: number[]) =>
  e.hostTensor(
    'float32',
    shape,
    Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i * 1.3)),
  );

describe('a program whose sizes cannot be symbolic', () => {
  test('is traced for the sizes it meets, and only for those that must be known', async () => {
    let traced = 0;
    await using program = await e.compile(
      ({ x, w }) => {
        traced++;
        return e.mean(e.maxPool(e.relu(e.conv(x, w, undefined, { padding: 1 })), { kernel: 2 }), { axes: [2, 3] });
      },
      { x: f32('batch', 2, 'height', 'width'), w: f32(3, 2, 3, 3) },
      { name: 'net' },
    );
    expect(traced).toBe(1); // the attempt with symbols
    expect(program.print()).toMatch(
      /^net: traced anew for every height, width, .*\n {2}\[SIZE_UNKNOWN\] conv needs height and width of \[batch, 2, height, width\]/,
    );
    const w = waves(3, 2, 3, 3);
    for (const [batch, height, width] of [
      [1, 8, 6],
      [4, 8, 6],
      [2, 5, 9],
      [3, 8, 6],
    ] as const) {
      const x = waves(batch, 2, height, width);
      const result = await program.run({ x, w });
      await using exact = await e.compile(
        ({ x, w }) =>
          e.mean(e.maxPool(e.relu(e.conv(x, w, undefined, { padding: 1 })), { kernel: 2 }), { axes: [2, 3] }),
        { x: f32(batch, 2, height, width), w: f32(3, 2, 3, 3) },
      );
      const wanted = await exact.run({ x, w });
      expect(result.shape).toEqual([batch, 3]);
      expect(Buffer.from(result.data.buffer).equals(Buffer.from(wanted.data.buffer))).toBe(true);
    }
    expect(traced).toBe(3); // two images sizes; the batch is a symbol in both
    expect(program.print()).toContain('with height = 5, width = 9\nnet: ');
    expect((await program.profile({ x: waves(1, 2, 8, 6), w }, { runs: 1 })).byLine.length).toBeGreaterThan(0);
  });

  test('keeps its shape errors, and other inputs still have to fit', async () => {
    const wrong = e.compile(({ x }) => e.conv(x, e.constant(waves(3, 5, 3, 3))), { x: f32('n', 2, 'h', 'w') });
    const program = await wrong; // whether channels fit shows with the first sizes
    await expect(program.run({ x: waves(1, 2, 8, 8) })).rejects.toMatchObject({ code: 'SHAPE_MISMATCH' });
    await expect(program.run({ x: waves(1, 2, 8) })).rejects.toMatchObject({ code: 'INPUT_MISMATCH' });
    await program.dispose();
    await expect(program.run({ x: waves(1, 2, 8, 8) })).rejects.toMatchObject({ code: 'DISPOSED' });
  });

  test('trains: one state for all sizes', async () => {
    const build = (...size: e.Dim[]) =>
      e.trainStep({
        params: { w: waves(2, 1, 3, 3) },
        batch: { x: f32('batch', 1, ...size) },
        loss: (p, { batch }) => e.mean(e.tanh(e.conv(batch.x, p.w!))),
        optimizer: e.sgd({ momentum: 0.9 }),
        schedule: e.constantRate(0.1),
      });
    await using any = await build('height', 'width');
    await using small = await build(6, 6);
    await using large = await build(8, 7);
    for (const [exact, x] of [
      [small, waves(2, 1, 6, 6)],
      [large, waves(3, 1, 8, 7)],
      [small, waves(1, 1, 6, 6)],
    ] as const) {
      await exact.restore(await any.snapshot());
      expect(await any.run({ x })).toEqual(await exact.run({ x }));
      expect(await any.snapshot()).toEqual(await exact.snapshot());
    }
    expect(any.print()).toMatch(/^training step: traced anew for every height, width/);
  });
});

test('of many sizes the last eight stay open', async () => {
  const [made, ended]: [number[], number[]] = [[], []];
  const variants = await Variants.open<number>(
    'it',
    ['n'],
    async (sizes) => {
      const n = sizes.get('n');
      if (n === undefined) throw new e.EngineError('SIZE_UNKNOWN', 'n is needed');
      made.push(n);
      return n;
    },
    async (n) => void ended.push(n),
  );
  const use = (n: number) => variants.use(new Map([['n', n]]), async (value) => value);
  for (let n = 1; n <= 8; n++) expect(await use(n)).toBe(n);
  await use(1);
  await use(9);
  expect(ended).toEqual([2]);
  await use(1);
  expect(made).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  await variants.close();
  expect(ended.sort()).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

describe('at the same time', () => {
  const build = () =>
    e.trainStep({
      params: { w: waves(4, 3) },
      batch: { x: f32('batch', 4) },
      loss: (p, { batch }) => e.mean(e.tanh(e.matMul(batch.x, p.w!))),
      optimizer: e.adamW(),
      schedule: e.constantRate(0.1),
    });

  test('steps that are asked for together run one after the other, in order', async () => {
    await using together = await build();
    await using apart = await build();
    const batches = [1, 2, 3, 4].map((rows) => ({ x: waves(rows, 4) }));
    const results = await Promise.all(batches.map((batch) => together.run(batch)));
    for (const [i, batch] of batches.entries()) expect(results[i]).toEqual(await apart.run(batch));
    expect(await together.snapshot()).toEqual(await apart.snapshot());
  });

  test('a step that fails does not hold up the next, and disposal waits for what was asked for before', async () => {
    const step = await build();
    const wrong = step.run({ x: waves(2, 5) });
    const right = step.run({ x: waves(2, 4) });
    const end = step.dispose();
    const late = step.run({ x: waves(2, 4) });
    await expect(wrong).rejects.toMatchObject({ code: 'INPUT_MISMATCH' });
    expect((await right).loss).toBeTypeOf('number');
    await end;
    await expect(late).rejects.toMatchObject({ code: 'DISPOSED' });
    await step.dispose(); // once more does nothing
  });

  test('runs of a program do not disturb each other, nor does disposal disturb them', async () => {
    const program = await e.compile(({ x }) => e.mul(x, 2), { x: f32('n') });
    const runs = [1, 2, 3].map((n) => program.run({ x: waves(n) }));
    const end = program.dispose();
    for (const [i, run] of runs.entries()) expect((await run).shape).toEqual([i + 1]);
    await end;
  });
});
