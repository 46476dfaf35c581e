import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type HostTensor, hostTensor } from '@fewtune/engine';
import { writeSafetensors } from '@fewtune/models';
import { afterAll, describe, expect, test } from 'vitest';
import { batches, inputs, model, small, unseen, ways } from './cluster-tasks.fixture.js';
import { Maml } from './maml.js';
import type { MetaTask } from './meta-model.js';
import type { MetaTrainEvent } from './meta-train.js';
import { mlp } from './mlp.js';

const filled = ({ shape, data }: HostTensor, value: number) =>
  hostTensor('float32', shape, new Float32Array(data.length).fill(value));

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

  test('an epoch in which every step diverged has no loss, in a resumed run as well', async () => {
    const bad = given[1]!.map(({ support, query }) => ({
      support,
      query: { ...query, x: filled(query.x, Number.NaN) },
    }));
    const epochsOf = (epoch: number) => [epoch === 1 ? bad : given[0]!];
    await using whole = new Maml(small);
    const expected = await whole.metaTrain(epochsOf, { epochs: 3, checkpoint: { path } }).result;
    expect(expected.epochLosses).toEqual([expect.any(Number), Number.NaN, expect.any(Number)]);
    await using resumed = new Maml(small);
    expect(await resumed.metaTrain(epochsOf, { epochs: 3, resume: path }).result).toEqual(expected);
    const never = resumed.metaTrain(given, { checkpoint: { path, every: 0 } });
    await expect(never.result).rejects.toThrow('checkpoint.every is 0');
  });

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
    await expect(resume({}, join(folder, 'other'))).rejects.toThrow('no checkpoint of a training');
    const nowhere = maml.metaTrain(given, { checkpoint: { path: join(path, 'below a file') } });
    await expect(nowhere.result).rejects.toMatchObject({ code: 'OUTPUT_UNWRITABLE' });
  });
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
