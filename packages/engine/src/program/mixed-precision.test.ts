import { describe, expect, test } from 'vitest';
import * as e from '../index.js';
import { bytes, distance, wave } from './training-fixture.js';

const f32 = (shape: readonly e.Dim[]) => ({ dtype: 'float32', shape }) as const;
const rows = 12;
const x = wave([rows, 6], 1.7);
const y = e.hostTensor(
  'int64',
  [rows],
  Array.from({ length: rows }, (_, i) => (i * 7) % 3),
);
const data = { x, y };
const params = () => ({ w1: wave([16, 6], 2.3), b1: e.zeros('float32', [16]), w2: wave([3, 16], 0.9) });
const build = (more: Partial<e.TrainStepOptions<{ x: e.TensorSpec; y: e.TensorSpec }>> = {}) =>
  e.trainStep({
    params: params(),
    batch: { x: f32(['batch', 6]), y: { dtype: 'int64', shape: ['batch'] } },
    loss: (p, { batch }) => e.crossEntropy(e.linear(e.gelu(e.linear(batch.x, p.w1!, p.b1)), p.w2!), batch.y),
    optimizer: e.adamW({ weightDecay: 0.1 }),
    schedule: e.constantRate(0.02),
    clipNorm: 1,
    ...more,
  });
const half = { precision: e.float16Compute } as const;

describe('a float16 training step', () => {
  test('reaches the loss of float32, with float32 weights', async () => {
    const schedule = e.constantRate(0.08);
    await using exact = await build({ schedule });
    await using lowered = await build({ ...half, schedule });
    const losses: [number, number][] = [];
    for (let i = 0; i < 60; i++) losses.push([(await exact.run(data)).loss, (await lowered.run(data)).loss]);
    const [wanted, got] = losses.at(-1)!;
    expect(losses[0]![0]).toBeGreaterThan(0.8);
    expect(wanted).toBeLessThan(0.5);
    expect(got).not.toBe(wanted);
    expect(Math.abs(got / wanted - 1)).toBeLessThan(0.02); // 2^-11 a rounding, amplified by 60 steps
    expect((await lowered.params()).w1!.dtype).toBe('float32');
  });

  test('with micro-batches equals the step without', async () => {
    await using whole = await build(half);
    await using parts = await build({ ...half, accumulate: true });
    const cut = (from: number, to: number) => ({
      x: e.hostTensor('float32', [to - from, 6], (x.data as Float32Array).slice(from * 6, to * 6)),
      y: e.hostTensor('int64', [to - from], (y.data as BigInt64Array).slice(from, to)),
    });
    for (let i = 0; i < 5; i++) {
      const [wanted, got] = [await whole.run(data), await parts.run([cut(0, 5), cut(5, 12)])];
      expect(Object.keys(got)).toEqual(Object.keys(wanted));
      expect(Math.abs(got.loss / wanted.loss - 1)).toBeLessThan(1e-3);
    }
    expect(distance(await parts.params(), await whole.params())).toBeLessThan(5e-3);
  });
});

describe('dynamic loss scaling', () => {
  // Where gradients are computed in float32, as on a CPU, an overflow takes a scale near float32's own range.
  const lossScale = { init: 2 ** 127, growthInterval: 3 };

  test('an overflow is skipped: weights, moments and count stay, the scale halves, and grows again later', async () => {
    await using step = await build({ lossScale });
    const before = await step.snapshot();
    // 2^127 times a loss above 2 has no place in float32.
    const far = {
      ...data,
      x: e.hostTensor(
        'float32',
        [rows, 6],
        (x.data as Float32Array).map((v) => v * 1e3),
      ),
    };
    const first = await step.run(far);
    expect(first).toMatchObject({ skipped: true, lossScale: 2 ** 127 });
    const after = await step.snapshot();
    for (const name of Object.keys(before)) {
      if (name.startsWith('scale/')) continue;
      expect(Buffer.compare(bytes(before[name]!), bytes(after[name]!)), name).toBe(0);
    }
    expect(after['scale/value']!.data[0]).toBe(2 ** 126);

    const scales: (number | undefined)[] = [];
    await using calm = await build({ lossScale: { init: 2 ** 10, growthInterval: 3 } });
    for (let i = 0; i < 7; i++) scales.push((await calm.run(data)).lossScale);
    expect(scales).toEqual([2 ** 10, 2 ** 10, 2 ** 10, 2 ** 11, 2 ** 11, 2 ** 11, 2 ** 12]);
  });

  test('a step whose micro-batch overflows is skipped as a whole, and the next one is clean', async () => {
    await using step = await build({ lossScale: { init: 4 }, accumulate: true });
    await using other = await build({ lossScale: { init: 2 }, accumulate: true });
    const broken = { ...data, x: e.hostTensor('float32', [rows, 6], Array(rows * 6).fill(Infinity)) };
    expect(await step.run([data, broken])).toMatchObject({ skipped: true, lossScale: 4 });
    const [after, untouched] = [await step.snapshot(), await other.snapshot()];
    expect(after).toEqual(untouched); // the scale has halved as well
    expect(await step.run([data])).toEqual(await other.run([data]));
  });

  test('changes nothing but rounding: the same weights as without', async () => {
    await using plain = await build();
    await using scaled = await build({ lossScale: true });
    for (let i = 0; i < 8; i++) {
      const [wanted, got] = [await plain.run(data), await scaled.run(data)];
      expect(got.skipped).toBe(false);
      expect(Math.abs(got.gradientNorm! / wanted.gradientNorm! - 1)).toBeLessThan(1e-5);
    }
    expect(distance(await scaled.params(), await plain.params())).toBeLessThan(1e-5);
  });

  test('goes on from a snapshot bit for bit', async () => {
    await using one = await build({ ...half, lossScale: { growthInterval: 4 } });
    await using two = await build({ ...half, lossScale: { growthInterval: 4 } });
    for (let i = 0; i < 6; i++) await one.run(data);
    await two.restore(await one.snapshot());
    for (let i = 0; i < 4; i++) expect(await two.run(data)).toEqual(await one.run(data));
    const [a, b] = [await one.snapshot(), await two.snapshot()];
    for (const name of Object.keys(a)) expect(Buffer.compare(bytes(a[name]!), bytes(b[name]!)), name).toBe(0);
  });
});

describe('the shadow check', () => {
  // Σ x⁴ of a row, held in float16 on the way: beyond 65504 where x is near 16.
  const overflowing = {
    ...half,
    loss: (p, { batch }) => {
      const h = e.linear(e.reshape(batch.x!, [2, -1, 6]), p.w1!);
      const held = e.transpose(e.mul(e.mul(h, h), e.mul(h, h)), [1, 0, 2]);
      return e.mean(held);
    },
  } satisfies Partial<e.TrainStepOptions<Record<string, e.TensorSpec>>>;
  const large = {
    ...data,
    x: e.hostTensor(
      'float32',
      [rows, 6],
      (x.data as Float32Array).map((v) => v * 20),
    ),
  };

  test('stops a run whose first batches overflow silently, and changes nothing', async () => {
    await using step = await build({
      ...overflowing,
      batch: { x: f32([rows, 6]), y: { dtype: 'int64', shape: [rows] } },
    });
    const before = await step.snapshot();
    await step.run({ ...data, x: e.hostTensor('float32', [rows, 6], Array(rows * 6).fill(0.1)) });
    await step.restore(before);
    await expect(step.run(large)).rejects.toMatchObject({
      code: 'PRECISION_LOST',
      message: expect.stringMatching(/batch 2: the loss is Infinity in float16 and \d\S+ in float32\. .*inFloat32/),
    });
    expect(await step.snapshot()).toEqual(before);
  });

  test('reports instead, when asked to, and ends after its batches', async () => {
    const reports: e.ShadowReport[] = [];
    await using step = await build({
      ...overflowing,
      batch: { x: f32([rows, 6]), y: { dtype: 'int64', shape: [rows] } },
      shadow: { batches: 1, onMismatch: (report) => void reports.push(report) },
    });
    await step.run(large);
    expect(reports.map(({ batch, quantity, float16 }) => [batch, quantity, float16])).toEqual([[1, 'loss', Infinity]]);
    const { skipped } = await step.run(data); // the first was skipped, so the check goes on with this one
    expect(skipped).toBe(false);
    await step.run(large);
    expect(reports).toHaveLength(1);
  });

  test('is content with what float16 can do', async () => {
    await using step = await build({ ...half, shadow: { batches: 5, tolerance: 0.01 } });
    for (let i = 0; i < 5; i++) await step.run(data);
  });
});

describe('frozen weights stored in float16', () => {
  const frozen = { base: wave([6, 6], 0.3), bias: wave([6], 0.8) };
  const adapted = {
    frozen,
    loss: (p, { frozen, batch }) => {
      const h = e.tanh(e.linear(batch.x!, frozen.base!, frozen.bias));
      return e.crossEntropy(e.linear(e.gelu(e.linear(h, p.w1!, p.b1)), p.w2!), batch.y!);
    },
  } satisfies Partial<e.TrainStepOptions<Record<string, e.TensorSpec>>>;

  test('give the results of the rounded weights', async () => {
    const rounded = e.convertFloat(e.convertFloat(frozen.base, 'float16'), 'float32');
    await using exact = await build({ ...adapted, frozen: { ...frozen, base: rounded } });
    await using stored = await build({ ...adapted, precision: e.float16Storage });
    // Matrices are fed in half the bytes; vectors are few and stay exact.
    expect(stored.print()).toContain('frozen/base: float16[6, 6]');
    expect(stored.print()).toContain('frozen/bias: float32[6]');
    for (let i = 0; i < 5; i++) {
      const [wanted, got] = [await exact.run(data), await stored.run(data)];
      expect(Math.abs(got.loss / wanted.loss - 1)).toBeLessThan(1e-6);
      expect(got.skipped).toBeUndefined();
    }
    expect(distance(await stored.params(), await exact.params())).toBeLessThan(1e-5);
  });

  test('a weight beyond the range of float16 is refused', async () => {
    const base = e.hostTensor('float32', [6, 6], Array(36).fill(7e4));
    const wrong = build({ ...adapted, frozen: { ...frozen, base }, precision: e.float16Storage });
    await expect(wrong).rejects.toThrow('the frozen weight "base" holds 70000, beyond float16\'s 65504');
  });
});
