import { type HostTensor, hostTensor, openOnnx } from '@fewtune/engine';
import { conv4 } from '@fewtune/models';
import { describe, expect, test } from 'vitest';
import { createRandom, type Random } from '../../data/random.js';
import { batches, model, small, unseen, ways } from './cluster-tasks.fixture.js';
import { Maml } from './maml.js';
import type { Examples, MetaTask } from './meta-model.js';
import { type MetaTrainEvent, stepShares } from './meta-train.js';
import { mlp } from './mlp.js';

function accuracyOf(probabilities: HostTensor, y: HostTensor): number {
  const values = probabilities.data as Float32Array;
  const right = [...(y.data as BigInt64Array)].filter((label, row) => {
    const own = values.subarray(row * ways, (row + 1) * ways);
    return own.indexOf(Math.max(...own)) === Number(label);
  });
  return right.length / y.data.length;
}

async function meanAccuracy(maml: Maml, unseen: readonly MetaTask[], steps?: number): Promise<number> {
  let sum = 0;
  for (const { support, query } of unseen) {
    const adapted = await maml.adapt({ support }, { steps });
    sum += accuracyOf(await adapted.predict(query.x), query.y);
  }
  return sum / unseen.length;
}

/** BOIL may not touch its head, and Reptile sees no query: both learn less from so few tasks. */
describe.each([
  ['maml', 4, {}],
  ['fomaml', 4, {}],
  ['anil', 4, {}],
  ['boil', 4, {}],
  ['meta-sgd', 4, {}],
  ['maml++', 10, {}], // first-order and multi-step epochs, then neither
  ['reptile', 4, { metaLr: 0.3 }],
  ['imaml', 4, { proximal: 2, innerSteps: 16 }], // its gradient is that of a converged inner loop
] as const)('%s', (variant, epochs, more) => {
  test('learns to learn: unseen tasks after adaptation, against before it and against no meta-training', async () => {
    await using maml = new Maml({ model, variant, innerLr: 0.1, innerSteps: 3, metaLr: 0.01, ...more });
    const untrained = await meanAccuracy(maml, unseen);
    const { steps, epochLosses } = await maml.metaTrain(batches(1, 200 / epochs), { epochs }).result;
    expect(steps).toBe(200);
    expect(epochLosses.at(-1)).toBeLessThan(epochLosses[0]!);
    const [before, after] = [await meanAccuracy(maml, unseen, 0), await meanAccuracy(maml, unseen)];
    expect(after).toBeGreaterThan(before + 0.2);
    expect(after).toBeGreaterThan(untrained + 0.05);
  });
});

const changed = (a: HostTensor, b: HostTensor) => a.data.some((value, i) => value !== b.data[i]);

test.each([
  ['anil', ['head.bias', 'head.weight']],
  ['boil', ['layer0.bias', 'layer0.weight']],
] as const)('%s adapts its own weights only', async (variant, names) => {
  await using maml = new Maml({ ...small, variant });
  const { weights } = await maml.adapt(unseen[0]!);
  const moved = Object.keys(weights).filter((name) => changed(weights[name]!, model.weights[name]!));
  expect(moved.sort()).toEqual(names);
});

test('the same tasks give the same weights; events are there for a late reader', async () => {
  const learn = async () => {
    await using maml = new Maml(small);
    const run = maml.metaTrain(batches(2, 5));
    await run.result;
    const steps: number[] = [];
    for await (const { step } of run) steps.push(step);
    expect(steps).toEqual([1, 2, 3, 4, 5]);
    return maml.weights;
  };
  expect(await learn()).toEqual(await learn());
});

test('sine waves of unseen amplitude and phase: ten points and five steps (Finn et al. 2017, section 5.1)', async () => {
  const wave = (random: Random): MetaTask => {
    const [amplitude, phase] = [0.1 + 4.9 * random.next(), Math.PI * random.next()];
    const draw = (rows: number): Examples => {
      const x = Float32Array.from({ length: rows }, () => 10 * random.next() - 5);
      const y = x.map((at) => amplitude * Math.sin(at - phase));
      return {
        x: hostTensor(
          'float32',
          [rows, 1],
          x.map((at) => at / 5),
        ),
        y: hostTensor('float32', [rows, 1], y),
      };
    };
    return { support: draw(10), query: draw(20) };
  };
  const random = createRandom(4);
  const sine = mlp({ inputs: 1, hidden: [40, 40], outputs: 1, seed: 4 });
  await using maml = new Maml({ model: sine, innerLr: 0.02, innerSteps: 3, metaLr: 0.003, loss: 'squared-error' });
  const error = async (steps: number) => {
    const held = createRandom(77);
    let sum = 0;
    for (let i = 0; i < 50; i++) {
      const { support, query } = wave(held);
      const { data } = await (await maml.adapt({ support }, { steps })).predict(query.x);
      sum += (query.y.data as Float32Array).reduce((total, y, row) => total + (y - Number(data[row])) ** 2, 0) / 20;
    }
    return sum / 50;
  };
  const untrained = await error(5);
  await maml.metaTrain(() => Array.from({ length: 500 }, () => Array.from({ length: 8 }, () => wave(random)))).result;
  const [before, after] = [await error(0), await error(5)];
  expect(after).toBeLessThan(before / 3);
  expect(after).toBeLessThan(untrained / 3);
});

test('defaults that differ between variants', async () => {
  await using plain = new Maml({ model });
  await using implicit = new Maml({ model, variant: 'imaml' });
  await using reptile = new Maml({ model, variant: 'reptile' });
  expect(plain.options).toMatchObject({ innerSteps: 5, metaLr: 0.001 });
  expect(implicit.options).toMatchObject({ innerSteps: 16, metaLr: 0.001 });
  expect(reptile.options).toMatchObject({ innerSteps: 5, metaLr: 0.1 });
});

test('tasks worked on at once teach the same, to the bit', async () => {
  const learned = async (replicas?: number) => {
    await using maml = new Maml({ model, innerLr: 0.1, innerSteps: 2, threads: 1, replicas });
    await maml.metaTrain(batches(8, 3)).result;
    return maml.params;
  };
  expect(await learned(2)).toEqual(await learned());
});

test('what was learned, rates and all, starts another Maml', async () => {
  await using first = new Maml({ ...small, variant: 'meta-sgd' });
  await first.metaTrain(batches(6, 5)).result;
  await using second = new Maml({ ...small, variant: 'meta-sgd', start: first.params });
  const [a, b] = [await first.adapt(unseen[0]!), await second.adapt(unseen[0]!)];
  expect(b.weights).toEqual(a.weights);
  await using fresh = new Maml({ ...small, variant: 'meta-sgd', start: { ...first.params, ...model.weights } });
  const rates = Object.keys(first.params).filter((name) => name.startsWith('rate/'));
  expect(rates).toHaveLength(4);
  expect((await fresh.adapt(unseen[0]!)).weights).not.toEqual(a.weights);
  expect(() => new Maml({ ...small, start: first.params })).toThrow('no such tensor');
  expect(() => new Maml({ ...small, variant: 'meta-sgd', start: model.weights })).toThrow(
    '"rate/layer0.weight" is missing',
  );
});

describe('bad input', () => {
  test('a rate that diverges stops the run, and the weights stay what they were', async () => {
    await using maml = new Maml({ ...small, innerLr: 1e30 });
    const run = maml.metaTrain(batches(3, 3));
    await expect(run.result).rejects.toMatchObject({
      code: 'LOSS_NOT_FINITE',
      message: expect.stringContaining('Lower innerLr'),
    });
    expect(maml.weights).toEqual(model.weights);
    await expect(maml.adapt(unseen[0]!, { steps: 5 })).rejects.toMatchObject({ code: 'LOSS_NOT_FINITE' });
  });

  test('an interrupted run keeps what it had learned', async () => {
    await using maml = new Maml(small);
    const stop = new AbortController();
    const run = maml.metaTrain(batches(3, 5), {
      signal: stop.signal,
      onProgress: ({ step }) => step === 2 && stop.abort(),
    });
    await expect(run.result).rejects.toMatchObject({ code: 'INTERRUPTED' });
    await using other = new Maml(small);
    await other.metaTrain(batches(3, 2)).result;
    expect(maml.weights).toEqual(other.weights);
  });

  const labelled = (y: readonly number[], x = model.weights['layer0.weight']!.shape[1]!): Examples => ({
    x: hostTensor('float32', [y.length, x], new Float32Array(y.length * x)),
    y: hostTensor('int64', [y.length], y),
  });
  test.each([
    ['no support', { support: labelled([]), query: labelled([0]) }, 'ROWS_EMPTY'],
    ['a label beyond the ways', { support: labelled([0, 3]), query: labelled([0]) }, 'LABEL_UNKNOWN'],
    ['queries of another size', { support: labelled([0]), query: labelled([0], 4) }, 'OPTION_INVALID'],
  ])('%s', async (_, task, code) => {
    await using maml = new Maml(small);
    await expect(maml.metaTrain([[task]]).result).rejects.toMatchObject({ code });
  });

  const headless = { ...model, headStart: { features: model.forward, head: () => ({}) } };
  test.each([
    ['innerLr is 0', { innerLr: 0 }],
    ['innerSteps is 1.5', { innerSteps: 1.5 }],
    ['one of maml, fomaml', { variant: 'mamal' as 'maml' }],
    ['innerSteps is 0', { variant: 'maml++' as const, innerSteps: 0, model: headless }],
    ['no weight to adapt', { variant: 'anil' as const, model: { ...model, headNames: [] } }],
  ])('options: %s', (message, wrong) => {
    expect(() => new Maml({ ...small, ...wrong })).toThrow(message);
  });

  test('a support set of another size is told of, and the programs are disposed of all the same', async () => {
    const maml = new Maml(small);
    await maml.adapt(unseen[0]!);
    await expect(maml.adapt({ support: labelled([0, 1], 4) })).rejects.toThrow();
    await maml.dispose();
  });

  test('a second run while the first goes on is refused; programs disposed of under a run do not stop it', async () => {
    const maml = new Maml(small);
    const first = maml.metaTrain(batches(3, 3));
    await expect(maml.metaTrain(batches(3, 1)).result).rejects.toMatchObject({ code: 'OPTION_INVALID' });
    await maml.dispose();
    expect((await first.result).steps).toBe(3);
  });

  test('no task in a batch, no batch in an epoch, no end to the cosine', async () => {
    await using maml = new Maml(small);
    await expect(maml.metaTrain([[]]).result).rejects.toMatchObject({ code: 'ROWS_EMPTY' });
    await expect(maml.metaTrain([]).result).rejects.toMatchObject({ code: 'ROWS_EMPTY' });
    await using plus = new Maml({ ...small, variant: 'maml++' });
    await expect(plus.metaTrain(() => batches(1, 2)).result).rejects.toThrow('batchesPerEpoch');
  });
});

test('shares of MAML++’s multi-step loss sum to 1 and end at the last step', () => {
  const [first, late] = [stepShares(5, 0, 100), stepShares(5, 10, 100)];
  expect([...first]).toEqual(Array.from({ length: 5 }, () => expect.closeTo(0.2, 6)));
  expect(late[0]).toBeCloseTo(0.006, 6);
  expect(late[4]).toBeCloseTo(0.976, 6);
});

test('maml++: first order for a third of the epochs, a rate that falls along a cosine, rates of its own per step', async () => {
  await using maml = new Maml({ ...small, variant: 'maml++' });
  const events: MetaTrainEvent[] = [];
  const onProgress = (event: MetaTrainEvent) => events.push(event);
  await maml.metaTrain(batches(9, 2), { epochs: 9, onProgress }).result;
  expect(events.map(({ order }) => order)).toEqual([...Array(6).fill('first'), ...Array(12).fill('second')]);
  for (const [i, { lr }] of events.entries()) {
    expect(lr).toBeCloseTo(0.005 * (1 + Math.cos((Math.PI * i) / 18)), 5);
  }
  for (const name of Object.keys(model.weights)) {
    const [first, second, ...more] = [...(maml.params[`rate/${name}`]!.data as Float32Array)];
    expect(more).toEqual([]);
    expect(first).not.toBe(0.1);
    expect(first).not.toBe(second);
  }
});

describe('an adapted model as ONNX', () => {
  const images = (rows: number) =>
    hostTensor(
      'float32',
      [rows, 1, 16, 16],
      Float32Array.from({ length: rows * 256 }, (_, i) => Math.sin(i * i * 0.013)),
    );
  const support = { x: images(6), y: hostTensor('int64', [6], [0, 1, 2, 0, 1, 2]) };
  const pictures = conv4({ filters: 4, size: 16, ways });
  test.each([
    ['rows alone', { model }, unseen[0]!.support, unseen[0]!.query.x],
    ['by the statistics of the support set', { model: pictures }, support, images(2)],
    ['by running statistics', { model: pictures, variant: 'maml++' as const }, support, images(2)],
  ])('%s: the runtime computes what predict does', async (_, options, own, x) => {
    await using maml = new Maml({ ...small, ...options });
    const adapted = await maml.adapt({ support: own });
    const session = await openOnnx(adapted.toOnnx());
    const { output } = await session.run({ x });
    const wanted = [...((await adapted.predict(x)).data as Float32Array)];
    expect([...(output!.data as Float32Array)]).toEqual(wanted.map((value) => expect.closeTo(value, 5)));
    await session.dispose();
  });
});
