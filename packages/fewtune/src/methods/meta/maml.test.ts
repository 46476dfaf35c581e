import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type HostTensor, hostTensor, openOnnx } from '@fewtune/engine';
import { conv4, writeSafetensors } from '@fewtune/models';
import { afterAll, describe, expect, test } from 'vitest';
import { createRandom, type Random } from '../../data/random.js';
import { Maml } from './maml.js';
import type { Examples, MetaTask } from './meta-model.js';
import { type MetaTrainEvent, stepShares } from './meta-train.js';
import { mlp } from './mlp.js';

const ways = 3;
const inputs = 6;

/** Only the first two of six numbers tell a task's classes apart; the noise in the others is as large. */
function clusterTask(random: Random, shots: number, queries: number): MetaTask {
  const means = Array.from({ length: ways }, () => [random.gaussian() * 2, random.gaussian() * 2]);
  const draw = (each: number): Examples => {
    const rows = Array.from({ length: ways * each }, (_, row) => Math.floor(row / each));
    const x = rows.flatMap((way) =>
      Array.from({ length: inputs }, (_, i) => (means[way]![i] ?? 0) + random.gaussian() * (i < 2 ? 0.4 : 2)),
    );
    return { x: hostTensor('float32', [rows.length, inputs], x), y: hostTensor('int64', [rows.length], rows) };
  };
  return { support: draw(shots), query: draw(queries) };
}

const tasks = (seed: number, count: number, shots = 2, queries = 5) => {
  const random = createRandom(seed);
  return Array.from({ length: count }, () => clusterTask(random, shots, queries));
};

const batches = (seed: number, count: number, size = 4) =>
  Array.from({ length: count }, (_, i) => tasks(seed * 1000 + i, size));

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

const model = mlp({ inputs, hidden: [16], outputs: ways, seed: 3 });
const unseen = tasks(99, 60, 2, 10);

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

const small = { model, innerLr: 0.1, innerSteps: 2, metaLr: 0.01 };
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

describe('checkpoints', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fewtune-maml-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'run.safetensors');
  const given = batches(5, 6);

  test.each(['maml', 'maml++', 'meta-sgd'] as const)(
    '%s: a resumed run ends where an unbroken one does, to the bit',
    async (variant) => {
      const [epochs, options] = [3, { ...small, variant }];
      await using whole = new Maml(options);
      const expected = await whole.metaTrain(given, { epochs }).result;
      await using broken = new Maml(options);
      const stop = new AbortController();
      const onProgress = ({ step }: MetaTrainEvent) => step === 9 && stop.abort();
      const run = broken.metaTrain(given, { epochs, checkpoint: { path, every: 4 }, signal: stop.signal, onProgress });
      await expect(run.result).rejects.toMatchObject({ code: 'INTERRUPTED' });
      await using resumed = new Maml(options);
      const again = resumed.metaTrain(given, { epochs, resume: path });
      expect(await again.result).toEqual(expected);
      expect(resumed.weights).toEqual(whole.weights);
      for await (const { step } of again) {
        expect(step).toBe(9); // the checkpoint is of step 8
        break;
      }
    },
  );

  test('of another configuration, of no run, or not there', async () => {
    await using maml = new Maml(small);
    await maml.metaTrain(given, { epochs: 1, checkpoint: { path } }).result;
    const resume = (more: object, from = path) =>
      new Maml({ ...small, ...more }).metaTrain(given, { resume: from }).result;
    await expect(resume({ innerLr: 0.2, innerSteps: 3 })).rejects.toThrow('innerLr 0.1, not 0.2; innerSteps 2, not 3');
    await expect(resume({ model: mlp({ inputs, hidden: [8], outputs: ways }) })).rejects.toThrow('other weights');
    await expect(resume({}, `${path}.gone`)).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    writeFileSync(join(folder, 'cut'), readFileSync(path).subarray(0, 100));
    await expect(resume({}, join(folder, 'cut'))).rejects.toMatchObject({ code: 'FILE_UNREADABLE' });
    await writeSafetensors(join(folder, 'other'), model.weights, { configuration: '{', progress: '{}' });
    await expect(resume({}, join(folder, 'other'))).rejects.toThrow('no checkpoint of meta-training');
    const nowhere = maml.metaTrain(given, { checkpoint: { path: join(folder, 'no', 'folder') } });
    await expect(nowhere.result).rejects.toMatchObject({ code: 'OUTPUT_UNWRITABLE' });
  });
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

  test.each([
    ['innerLr is 0', { innerLr: 0 }],
    ['innerSteps is 1.5', { innerSteps: 1.5 }],
    ['one of maml, fomaml', { variant: 'mamal' as 'maml' }],
    ['no weight to adapt', { variant: 'anil' as const, model: { ...model, headNames: [] } }],
  ])('options: %s', (message, wrong) => {
    expect(() => new Maml({ ...small, ...wrong })).toThrow(message);
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

describe('divergence in meta-training', () => {
  const poisoned = (from: MetaTask, factor: number): MetaTask => {
    const { shape, data } = from.query.x;
    const x = hostTensor(
      'float32',
      shape,
      Float32Array.from(data as Float32Array, (value) => value * factor),
    );
    return { support: from.support, query: { x, y: from.query.y } };
  };
  /** Fourteen batches, one of them bad. */
  const withOne = (factor: number, at = 11) =>
    batches(8, 14).map((tasks, i) => (i === at ? tasks.map((task) => poisoned(task, factor)) : tasks));

  test.each([
    ['a loss that is not finite', Number.NaN, 'the loss became NaN'],
    ['a loss that explodes', 1e3, 'the loss rose to'],
  ])('%s halves the rate and goes back to the last good weights', async (_, factor, told) => {
    await using maml = new Maml(small);
    const events: MetaTrainEvent[] = [];
    const { rateHalvings, epochLosses, steps } = await maml.metaTrain(withOne(factor), {
      onProgress: (event) => events.push(event),
    }).result;
    expect([rateHalvings, steps]).toEqual([1, 14]);
    expect(events.filter(({ warning }) => warning !== undefined).map(({ step }) => step)).toEqual([12]);
    expect(events[11]!.warning).toContain(told);
    expect(events[11]!.warning).toContain('metaLr is now 0.005, and the weights are those of step 10 again');
    expect(events.map(({ lr }) => Number(lr.toPrecision(3)))).toEqual([...Array(12).fill(0.01), 0.005, 0.005]);
    expect(epochLosses[0]).toBeLessThan(5);
    // What happened after step 10 was undone: step 13 finds the weights of step 10.
    await using ten = new Maml(small);
    await ten.metaTrain(withOne(factor).slice(0, 10)).result;
    const losses: number[] = [];
    await ten.metaTrain(withOne(factor).slice(12, 13), { onProgress: ({ loss }) => losses.push(loss) }).result;
    expect(events[12]!.loss).toBe(losses[0]);
  });

  test('a resumed run remembers the rate and the weights it would go back to', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fewtune-maml-'));
    const path = join(folder, 'run.safetensors');
    const given = withOne(Number.NaN, 11).map((tasks, i) => (i === 13 ? withOne(1e3, 13)[13]! : tasks));
    await using whole = new Maml(small);
    const expected = await whole.metaTrain(given, { epochs: 2 }).result;
    expect(expected.rateHalvings).toBe(4);
    await using broken = new Maml(small);
    const stop = new AbortController();
    const onProgress = ({ step }: MetaTrainEvent) => step === 13 && stop.abort();
    const run = broken.metaTrain(given, {
      epochs: 2,
      checkpoint: { path, every: 13 },
      signal: stop.signal,
      onProgress,
    });
    await expect(run.result).rejects.toMatchObject({ code: 'INTERRUPTED' });
    await using resumed = new Maml(small);
    expect(await resumed.metaTrain(given, { epochs: 2, resume: path }).result).toEqual(expected);
    expect(resumed.params).toEqual(whole.params);
    rmSync(folder, { recursive: true });
  });

  test('after so many halvings it stops, with the last good weights', async () => {
    await using maml = new Maml(small);
    const given = batches(8, 6).map((tasks, i) => (i > 0 ? tasks.map((task) => poisoned(task, Number.NaN)) : tasks));
    await expect(maml.metaTrain(given, { rateHalvings: 2 }).result).rejects.toMatchObject({
      code: 'LOSS_NOT_FINITE',
      message: expect.stringContaining('halved 2 times'),
    });
    expect(maml.weights).toEqual(model.weights);
  });

  test('adaptation that diverges halves its own rate, and says so', async () => {
    await using maml = new Maml({ ...small, innerLr: 4 });
    const { supportLoss, rateHalvings } = await maml.adapt(unseen[0]!, { steps: 3 });
    expect(rateHalvings).toBeGreaterThan(0);
    expect(supportLoss.after).toBeLessThan(Math.max(supportLoss.before, Math.log(ways)));
    await using calm = new Maml(small);
    expect(await calm.adapt(unseen[0]!)).toMatchObject({ rateHalvings: 0 });
  });
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
