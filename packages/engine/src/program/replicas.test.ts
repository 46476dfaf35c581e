import { describe, expect, test } from 'vitest';
import * as e from '../index.js';
import { bytes, wave } from './training-fixture.js';

const rows = 12;
const x = wave([rows, 5], 1.7);
const part = (from: number, to: number) => ({
  x: e.hostTensor('float32', [to - from, 5], (x.data as Float32Array).slice(from * 5, to * 5)),
  y: e.hostTensor(
    'int64',
    [to - from],
    Array.from({ length: to - from }, (_, i) => ((from + i) * 7) % 3),
  ),
});
const parts = [part(0, 3), part(3, 4), part(4, 9), part(9, 10), part(10, 12)];
const params = () => ({ w1: wave([16, 5], 2.3), b1: e.zeros('float32', [16]), w2: wave([3, 16], 0.9) });
const options = () =>
  ({
    params: params(),
    batch: { x: { dtype: 'float32', shape: ['batch', 5] }, y: { dtype: 'int64', shape: ['batch'] } },
    // Dropout: every micro-batch has the random numbers that it would have in turn.
    loss: (p, { batch, step }) => {
      const hidden = e.dropout(e.tanh(e.linear(batch.x!, p.w1!, p.b1)), 0.3, step);
      return e.crossEntropy(e.linear(hidden, p.w2!), batch.y!);
    },
    optimizer: e.adamW({ weightDecay: 0.1 }),
    schedule: e.constantRate(0.05),
    clipNorm: 0.3,
  }) satisfies e.TrainStepOptions<Record<string, e.TensorSpec>>;

describe('replicas', () => {
  test('three threads change the weights as micro-batches in turn do, bit for bit', async () => {
    await using inTurn = await e.trainStep({ ...options(), accumulate: true });
    await using together = await e.trainStep({ ...options(), accumulate: { replicas: 3 } });
    for (let i = 0; i < 4; i++) expect(await together.run(parts)).toEqual(await inTurn.run(parts));
    expect(await together.accumulate(parts[0]!)).toEqual(await inTurn.accumulate(parts[0]!));
    const [a, b] = [await together.snapshot(), await inTurn.snapshot()];
    expect(Object.keys(a)).toEqual(Object.keys(b));
    for (const name of Object.keys(b)) expect(Buffer.compare(bytes(a[name]!), bytes(b[name]!))).toBe(0);
  });

  test('a micro-batch that does not fit changes nothing, and the step goes on', async () => {
    await using step = await e.trainStep({ ...options(), accumulate: { replicas: 2 } });
    const before = await step.snapshot();
    await expect(step.run([...parts, { ...parts[0]!, x: e.zeros('float32', [2, 5]) }])).rejects.toThrow('batch = 2');
    expect(await step.snapshot()).toEqual(before);
    const wrongLabel = { ...parts[0]!, y: e.hostTensor('int64', [3], [0, 9, 1]) };
    await expect(step.run([parts[1]!, wrongLabel, parts[2]!])).rejects.toMatchObject({ code: 'SESSION_FAILED' });
    expect(await step.snapshot()).toEqual(before);
    expect((await step.run(parts)).loss).toBeGreaterThan(0);
  });

  test('it can be printed, profiled and planned like any other step', async () => {
    await using step = await e.trainStep({ ...options(), accumulate: { replicas: 2 } });
    expect(step.print()).toContain('micro-batch');
    expect((await step.profile(parts[0]!, { runs: 2 })).byOperator.length).toBeGreaterThan(5);
    expect((await step.memory({ batch: 3 })).total).toBeGreaterThan(0);
  });

  test('numbers that are none, other backends and a shadow are refused', async () => {
    const open = (replicas: number, more: object = {}) =>
      e.trainStep({ ...options(), ...more, accumulate: { replicas } });
    await expect(open(0)).rejects.toThrow('replicas is 0; it must be a whole number above 0');
    await expect(open(2, { backend: 'webgpu' })).rejects.toThrow('replicas are on "cpu" only');
    await expect(open(2, { shadow: true })).rejects.toThrow('`replicas` and `shadow` do not go together');
  });
});
