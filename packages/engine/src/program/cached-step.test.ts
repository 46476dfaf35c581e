import { describe, expect, test } from 'vitest';
import * as e from '../index.js';
import { distance, wave } from './training-fixture.js';

const f32 = (shape: readonly e.Dim[]) => ({ dtype: 'float32', shape }) as const;
const rows = 9;
const anchors = wave([rows, 6], 1.7);
const positives = wave([rows, 6], 1.9);
const part = (from: number, to: number) => ({
  anchor: e.hostTensor('float32', [to - from, 6], (anchors.data as Float32Array).slice(from * 6, to * 6)),
  positive: e.hostTensor('float32', [to - from, 6], (positives.data as Float32Array).slice(from * 6, to * 6)),
});
const labels = e.hostTensor(
  'int64',
  [rows],
  Array.from({ length: rows }, (_, i) => i),
);
const params = () => ({
  w1: wave([12, 6], 2.3),
  w2: wave([4, 12], 0.9),
  // log of the temperature's inverse, as CLIP learns it
  scale: e.hostTensor('float32', [], [1]),
});

const tower = (p: e.Named<e.Tensor>, x: e.Tensor) => e.l2Normalize(e.linear(e.tanh(e.linear(x, p.w1!)), p.w2!));
const encode = (p: e.Named<e.Tensor>, { batch }: { batch: e.Named<e.Tensor> }) => ({
  anchor: tower(p, batch.anchor!),
  positive: tower(p, batch.positive!),
});
/** Each anchor finds its positive among all of the batch. van den Oord et al. 2018, arXiv:1807.03748. */
const infoNce = (z: e.Named<e.Tensor>, p: e.Named<e.Tensor>, labels: e.Tensor) => {
  const scores = e.mul(e.matMul(z.anchor!, z.positive!, { transposeB: true }), e.exp(p.scale!));
  const own = e.cast(e.equal(e.reshape(labels, [-1, 1]), e.reshape(labels, [1, -1])), 'float32');
  return e.neg(e.mean(e.sum(e.mul(e.logSoftmax(scores), own), { axes: [1] })));
};

const batch = { anchor: f32(['batch', 6]), positive: f32(['batch', 6]) } as const;
const targets = { labels: { dtype: 'int64', shape: ['batch'] } } as const;
const update = {
  optimizer: e.adamW({ weightDecay: 0.1 }),
  schedule: e.linearDecay({ lr: 0.02, steps: 20, warmup: 2 }),
  clipNorm: 0.3,
};
const build = () =>
  e.cachedStep({
    ...update,
    params: params(),
    batch,
    encode,
    targets,
    loss: (z, { params, targets }) => infoNce(z, params, targets.labels),
  });

describe('gradient caching', () => {
  test.each([
    ['equal parts', [0, 3, 6, 9]],
    ['different parts, one of a single row', [0, 1, 6, 9]],
    ['one part', [0, 9]],
  ])('%s: eight steps equal those on the large batch', async (_, cuts) => {
    await using large = await e.trainStep({
      ...update,
      params: params(),
      batch: { ...batch, ...targets },
      loss: (p, { batch }) => infoNce(encode(p, { batch }), p, batch.labels),
    });
    await using small = await build();
    const parts = cuts.slice(1).map((to, i) => part(cuts[i]!, to));
    for (let i = 0; i < 8; i++) {
      const [wanted, got] = [await large.run({ ...part(0, rows), labels }), await small.run(parts, { labels })];
      expect(Object.keys(got)).toEqual(Object.keys(wanted));
      expect(Math.abs(got.loss / wanted.loss - 1)).toBeLessThan(1e-5);
      expect(Math.abs(got.gradientNorm! / wanted.gradientNorm! - 1)).toBeLessThan(1e-5);
    }
    const [got, wanted] = [await small.params(), await large.params()];
    expect(distance(got, wanted)).toBeLessThan(1e-5);
    expect(distance(got, params())).toBeGreaterThan(0.01);
    expect(got.scale!.data[0]).not.toBe(1);
  });

  test('adding up losses of micro-batches is something else', async () => {
    await using large = await build();
    await using added = await e.trainStep({
      ...update,
      params: params(),
      batch: { ...batch, ...targets },
      loss: (p, { batch }) => infoNce(encode(p, { batch }), p, batch.labels),
      accumulate: true,
    });
    const cut = (from: number, to: number) => ({
      ...part(from, to),
      labels: e.hostTensor('int64', [to - from], (labels.data as BigInt64Array).slice(from, to)),
    });
    const { loss } = await large.run([part(0, 5), part(5, 9)], { labels });
    const other = await added.run([cut(0, 5), cut(5, 9)]);
    expect(Math.abs(other.loss / loss - 1)).toBeGreaterThan(0.05);
  });

  test('dropout is the same in both passes over a micro-batch', async () => {
    // With the loss Σ z, the gradient of w is the mask; were it another one, the sum of both would show it.
    await using step = await e.cachedStep({
      params: { w: e.hostTensor('float32', [64], Array(64).fill(1)) },
      batch: { x: f32(['batch', 64]) },
      encode: (p, { batch, step }) => ({ z: e.dropout(e.mul(batch.x, p.w!), 0.5, step) }),
      loss: ({ z }) => e.sum(z!),
      optimizer: e.sgd(),
      schedule: e.constantRate(1),
    });
    const ones = { x: e.hostTensor('float32', [1, 64], Array(64).fill(1)) };
    const { loss } = await step.run([ones, ones]);
    const moved = ((await step.params()).w!.data as Float32Array).reduce((sum, value) => sum + (1 - value), 0);
    expect(moved).toBeCloseTo(loss, 4);
    expect(loss).not.toBe(128);
  });

  test('in float16 with loss scaling it stays near the float32 step, and an overflow is skipped', async () => {
    await using exact = await build();
    const loss = (
      z: e.Named<e.Tensor>,
      { params, targets }: { params: e.Named<e.Tensor>; targets: e.Named<e.Tensor> },
    ) => infoNce(z, params, targets.labels!);
    const half = { ...update, params: params(), batch, encode, targets, loss, precision: e.float16Compute };
    await using lowered = await e.cachedStep(half);
    const parts = [part(0, 4), part(4, 9)];
    for (let i = 0; i < 5; i++) {
      const [wanted, got] = [await exact.run(parts, { labels }), await lowered.run(parts, { labels })];
      expect(Math.abs(got.loss / wanted.loss - 1)).toBeLessThan(2e-3);
      expect(got.skipped).toBe(false);
    }
    await using overflowing = await e.cachedStep({ ...half, precision: undefined, lossScale: { init: 2 ** 127 } });
    const before = await overflowing.params();
    expect(await overflowing.run(parts, { labels })).toMatchObject({ skipped: true });
    expect(await overflowing.params()).toEqual(before);
  });

  test('goes on from a snapshot bit for bit, and says what does not fit', async () => {
    await using one = await build();
    await using two = await build();
    const parts = [part(0, 4), part(4, 9)];
    await one.run(parts, { labels });
    await two.restore(await one.snapshot());
    expect(await two.run(parts, { labels })).toEqual(await one.run(parts, { labels }));
    expect(await two.snapshot()).toEqual(await one.snapshot());
    await expect(one.run([], { labels })).rejects.toThrow('at least one micro-batch');
    await expect(one.run([part(0, 4)], { labels })).rejects.toThrow(
      'input "target/labels" is int64 [9], but was traced as int64 [batch] with batch = 4',
    );
    expect(await two.snapshot()).toEqual(await one.snapshot());
    const fixed = e.cachedStep({
      ...update,
      params: params(),
      batch: { anchor: f32([4, 6]), positive: f32([4, 6]) },
      encode,
      loss: (z) => e.sum(z.anchor!),
    });
    await expect(fixed).rejects.toThrow('the representation "anchor" is [4, 4], but its first axis must be a symbol');
  });
});
