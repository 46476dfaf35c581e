import { describe, expect, test } from 'vitest';
import * as e from '../index.js';
import { bytes, distance, wave } from './training-fixture.js';

const f32 = (shape: readonly e.Dim[]) => ({ dtype: 'float32', shape }) as const;
const rows = 11;
const x = wave([rows, 5], 1.7);
const y = e.hostTensor(
  'int64',
  [rows],
  Array.from({ length: rows }, (_, i) => (i * 7) % 3),
);
/** Rows `from` to `to` of both. */
const part = (from: number, to: number) => ({
  x: e.hostTensor('float32', [to - from, 5], (x.data as Float32Array).slice(from * 5, to * 5)),
  y: e.hostTensor('int64', [to - from], (y.data as BigInt64Array).slice(from, to)),
});
const whole = part(0, rows);

const params = () => ({ w1: wave([16, 5], 2.3), b1: e.zeros('float32', [16]), w2: wave([3, 16], 0.9) });
const network = (p: e.Named<e.Tensor>, x: e.Tensor) => e.linear(e.tanh(e.linear(x, p.w1!, p.b1)), p.w2!);
const options = {
  batch: { x: f32(['batch', 5]), y: { dtype: 'int64', shape: ['batch'] } },
  loss: (p, { batch }) => e.crossEntropy(network(p, batch.x!), batch.y!),
  optimizer: e.adamW({ weightDecay: 0.1 }),
  schedule: e.linearDecay({ lr: 0.05, steps: 20, warmup: 2 }),
  clipNorm: 0.3,
} satisfies Partial<e.TrainStepOptions<{ x: e.TensorSpec; y: e.TensorSpec }>>;

describe('gradient accumulation', () => {
  test.each([
    ['equal parts', [0, 4, 8, 11]],
    ['different parts, one of a single row', [0, 1, 8, 11]],
    ['one part', [0, 11]],
  ])('%s: eight steps of AdamW with clipping equal those of the whole batch', async (_, cuts) => {
    await using large = await e.trainStep({ ...options, params: params() });
    await using small = await e.trainStep({ ...options, params: params(), accumulate: true });
    const parts = cuts.slice(1).map((to, i) => part(cuts[i]!, to));
    for (let i = 0; i < 8; i++) {
      const [wanted, got] = [await large.run(whole), await small.run(parts)];
      expect(Object.keys(got)).toEqual(Object.keys(wanted));
      expect(Math.abs(got.loss / wanted.loss - 1)).toBeLessThan(1e-5);
      expect(Math.abs(got.gradientNorm! / wanted.gradientNorm! - 1)).toBeLessThan(1e-5);
      expect(got.lr).toBe(wanted.lr);
    }
    expect(distance(await small.params(), await large.params())).toBeLessThan(1e-5);
    expect(distance(await small.params(), params())).toBeGreaterThan(0.01);
  });

  test('the weight of a micro-batch is what its loss is a mean over', async () => {
    const masked = {
      ...options,
      params: params(),
      batch: { ...options.batch, mask: f32(['batch']) },
      loss: (p, { batch }) => {
        const squared = e.sum(e.mul(network(p, batch.x!), network(p, batch.x!)), { axes: [1] });
        return e.div(e.sum(e.mul(squared, batch.mask!)), e.sum(batch.mask!));
      },
    } satisfies e.TrainStepOptions<Record<string, e.TensorSpec>>;
    const mask = (from: number, to: number) =>
      e.hostTensor('float32', [to - from], [0, 1, 1, 1, 0, 1, 1, 0, 0, 0, 1].slice(from, to));
    const given = (from: number, to: number) => ({ ...part(from, to), mask: mask(from, to) });
    await using large = await e.trainStep(masked);
    await using small = await e.trainStep({ ...masked, accumulate: { weight: ({ mask }) => e.sum(mask!) } });
    for (let i = 0; i < 4; i++) {
      const [wanted, got] = [await large.run(given(0, 11)), await small.run([given(0, 6), given(6, 11)])];
      expect(Math.abs(got.loss / wanted.loss - 1)).toBeLessThan(1e-5);
    }
    expect(distance(await small.params(), await large.params())).toBeLessThan(1e-5);
    const wrong = e.trainStep({ ...masked, accumulate: { weight: ({ mask }) => mask! } });
    await expect(wrong).rejects.toThrow('the weight of a micro-batch is a float32 scalar, not float32 [batch]');
  });

  test('a snapshot between two micro-batches goes on bit for bit', async () => {
    const dropping = {
      ...options,
      loss: (p: e.Named<e.Tensor>, { batch, step }: { batch: e.Named<e.Tensor>; step: e.Tensor }) =>
        e.crossEntropy(network(p, e.dropout(batch.x!, 0.3, step)), batch.y!),
      accumulate: true,
    };
    await using one = await e.trainStep({ ...dropping, params: params() });
    await using two = await e.trainStep({ ...dropping, params: params() });
    await one.run([part(0, 5), part(5, 11)]);
    await one.accumulate(part(0, 3));
    const snapshot = await one.snapshot();
    const goOn = async (step: typeof one) => [
      await step.accumulate(part(3, 11)),
      await step.update(),
      await step.run([part(0, 2), part(2, 11)]),
    ];
    const wanted = await goOn(one);
    await two.accumulate(whole); // something else, which the snapshot replaces
    await two.accumulate(whole);
    await two.restore(snapshot);
    expect(await goOn(two)).toEqual(wanted);
    const [a, b] = [await one.params(), await two.params()];
    for (const name of Object.keys(a)) expect(Buffer.compare(bytes(a[name]!), bytes(b[name]!))).toBe(0);
  });

  test('every micro-batch has random numbers of its own; those of the first are those of a step without parts', async () => {
    const drawing = {
      ...options,
      optimizer: e.sgd(),
      schedule: e.constantRate(0),
      loss: (p: e.Named<e.Tensor>, { step }: { step: e.Tensor }) =>
        e.add(e.sum(e.randomUniform([4], step)), e.mul(e.sum(p.w1!), 0)),
    };
    await using plain = await e.trainStep({ ...drawing, params: params() });
    await using parts = await e.trainStep({ ...drawing, params: params(), accumulate: true });
    const first = await plain.run(whole);
    const draws = [await parts.accumulate(whole), await parts.accumulate(whole)];
    expect(draws[0]!.loss).toBe(first.loss);
    expect(draws[1]!.loss).not.toBe(first.loss);
  });

  test('says what is missing, and forgets what a failed step had collected', async () => {
    await using plain = await e.trainStep({ ...options, params: params() });
    await expect(plain.run([whole])).rejects.toThrow('give trainStep the option `accumulate`');
    await using step = await e.trainStep({ ...options, params: params(), accumulate: true });
    await expect(step.update()).rejects.toThrow('there is no micro-batch to update by');
    await expect(step.run([])).rejects.toThrow('there is no micro-batch');
    const before = await step.snapshot();
    await expect(step.run([whole, { ...whole, x: e.zeros('float32', [2, 5]) }])).rejects.toThrow('batch = 2');
    expect(await step.snapshot()).toEqual(before);
    await step.accumulate(whole);
    await expect(step.run([whole])).rejects.toThrow('1 micro-batches wait for update()');
    await step.discard();
    await step.run([whole]);
  });
});
