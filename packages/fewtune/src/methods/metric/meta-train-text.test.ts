import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { HostTensor } from '@fewtune/engine';
import { type Encoder, fingerprint, loadEncoder } from '@fewtune/models';
import { beforeAll, describe, expect, test } from 'vitest';
import { tinyCheckpoint } from '../../../../models/src/tiny-checkpoint.fixture.js';
import { episodeAccuracy } from './episode-accuracy.js';
import { letters, train, unseen } from './letters.fixture.js';
import type { MetaTextOptions } from './meta-text-options.js';
import { type MetaTextResult, metaTrainText } from './meta-train-text.js';

let encoder: Encoder;
beforeAll(async () => {
  encoder = await loadEncoder(await tinyCheckpoint('bert'));
});

const options: MetaTextOptions = {
  steps: 60,
  lr: 5e-3,
  classesPerBatch: 12,
  tokenDropout: 0,
  interpolation: 1,
  threads: 1,
};

const last = async (result: Promise<MetaTextResult>) => (await result).adapter.weights;
const values = (weights: Readonly<Record<string, HostTensor>>) =>
  Object.fromEntries(Object.entries(weights).map(([name, { data }]) => [name, [...(data as Float32Array)]]));

test('classes it has never seen are told apart better, by the weights that validation chose', async () => {
  const before = await episodeAccuracy(encoder, unseen, { threads: 1 });
  const run = metaTrainText(encoder, train, { ...options, validation: unseen, validateEvery: 20 });
  const steps: number[] = [];
  for await (const { step } of run) steps.push(step);
  const { encoder: tuned, adapter, validation, keptStep } = await run.result;
  expect(steps).toEqual(Array.from({ length: 60 }, (_, i) => i + 1));
  expect(validation.map(({ step }) => step)).toEqual([0, 20, 40, 60]);
  const best = Math.max(...validation.map(({ accuracy }) => accuracy));
  expect(validation[0]!.accuracy).toBeCloseTo(before, 10);
  expect(best).toBeGreaterThan(before + 0.1);
  expect(validation.find(({ step }) => step === keptStep)!.accuracy).toBe(best);
  expect(await episodeAccuracy(tuned, unseen, { threads: 1 })).toBeCloseTo(best, 10);
  expect(tuned.fingerprint).toBe(fingerprint(tuned));
  expect(tuned.fingerprint).not.toBe(encoder.fingerprint);
  expect((adapter.targets as string[]).map((module) => `${module}.lora_A.weight`)).toEqual(
    Object.keys(adapter.weights).filter((name) => name.endsWith('lora_A.weight')),
  );
});

test('a share of the update is that share of B, and none is the encoder as it was', async () => {
  const few = { ...options, steps: 3, seed: 3 };
  const whole = await last(metaTrainText(encoder, train, few).result);
  const none = await metaTrainText(encoder, train, { ...few, interpolation: 0 }).result;
  const half = await last(metaTrainText(encoder, train, { ...few, interpolation: 0.5 }).result);
  const name = Object.keys(whole).find((key) => key.endsWith('lora_B.weight'))!;
  const [b, halfB] = [whole[name]!.data as Float32Array, half[name]!.data as Float32Array];
  expect(Math.max(...b.map(Math.abs))).toBeGreaterThan(1e-3);
  b.forEach((value, i) => {
    expect(halfB[i]).toBeCloseTo(value / 2, 7);
  });
  expect(none.encoder.fingerprint).toBe(encoder.fingerprint);
  const auto = await last(metaTrainText(encoder, train, { ...few, interpolation: 'auto' }).result);
  expect(values(auto)).toEqual(values(half)); // without validation classes
});

test('it stops when validation no longer improves', async () => {
  // A rate of 0 cannot improve anything.
  const still = { ...options, lr: 0, validation: unseen, validateEvery: 2, patience: 2 };
  const { steps, keptStep } = await metaTrainText(encoder, train, still).result;
  expect([steps, keptStep]).toEqual([4, 0]);
});

test('validation chooses the share, and the encoder as it was where nothing is better', async () => {
  const auto = { ...options, steps: 40, interpolation: 'auto', validation: unseen } as const;
  const { validation, keptShare, keptStep, encoder: tuned } = await metaTrainText(encoder, train, auto).result;
  expect(validation.map(({ step, share }) => [step, share])).toEqual([
    [0, 0],
    ...[0.25, 0.5, 0.75, 1].map((share) => [40, share]),
  ]);
  const best = Math.max(...validation.map(({ accuracy }) => accuracy));
  expect(validation.find(({ share }) => share === keptShare)!.accuracy).toBe(best);
  expect(keptStep).toBe(40);
  expect(await episodeAccuracy(tuned, unseen, { threads: 1 })).toBeCloseTo(best, 10);

  const still = await metaTrainText(encoder, train, { ...auto, steps: 2, lr: 0 }).result;
  expect([still.keptStep, still.keptShare]).toEqual([0, 0]);
  expect(still.encoder.fingerprint).toBe(encoder.fingerprint);
});

describe('an interrupted run', () => {
  test('goes on to the bit-equal result', async () => {
    const path = join(await mkdtemp(join(tmpdir(), 'meta-text-')), 'run.safetensors');
    const few = { ...options, steps: 8, tokenDropout: 0.3, validation: unseen, validateEvery: 3 };
    const without = await metaTrainText(encoder, train, few).result;
    const controller = new AbortController();
    const run = metaTrainText(encoder, train, { ...few, checkpoint: { path, every: 100 }, signal: controller.signal });
    const interrupted = (async () => {
      for await (const { step } of run) if (step === 4) controller.abort();
    })();
    await expect(interrupted).rejects.toMatchObject({ code: 'INTERRUPTED' });
    const steps: number[] = [];
    const resumed = metaTrainText(encoder, train, { ...few, resume: path });
    for await (const { step } of resumed) steps.push(step);
    expect(steps[0]).toBeGreaterThan(4); // it was kept when it was interrupted
    expect(steps.at(-1)).toBe(8);
    const { adapter, validation, encoder: tuned } = await resumed.result;
    expect(values(adapter.weights)).toEqual(values(without.adapter.weights));
    expect(validation).toEqual(without.validation);
    expect(tuned.fingerprint).toBe(without.encoder.fingerprint);

    await expect(metaTrainText(encoder, train, { ...few, lr: 1e-3, resume: path }).result).rejects.toMatchObject({
      code: 'OPTION_INVALID',
      message: expect.stringContaining('lr 0.005, not 0.001'),
    });
    await expect(metaTrainText(encoder, unseen, { ...few, resume: path }).result).rejects.toMatchObject({
      code: 'OPTION_INVALID',
      message: expect.stringContaining('other data'),
    });
  });

  test('is kept when the signal comes during a look at the validation classes', async () => {
    const path = join(await mkdtemp(join(tmpdir(), 'meta-text-')), 'run.safetensors');
    const few = { ...options, steps: 6, validateEvery: 3 };
    const controller = new AbortController();
    let armed = false;
    const validation = {
      ...unseen,
      get classes() {
        if (armed) controller.abort();
        return unseen.classes;
      },
    };
    const how = { checkpoint: { path, every: 100 }, signal: controller.signal };
    const run = metaTrainText(encoder, train, { ...few, ...how, validation });
    const interrupted = (async () => {
      for await (const { step } of run) armed = step === 2; // the next step looks
    })();
    await expect(interrupted).rejects.toMatchObject({ code: 'INTERRUPTED' });
    armed = false;
    const resumed = metaTrainText(encoder, train, { ...few, validation: unseen, resume: path });
    const steps: number[] = [];
    for await (const { step } of resumed) steps.push(step);
    expect(steps).toEqual([4, 5, 6]);
    const without = await metaTrainText(encoder, train, { ...few, validation: unseen }).result;
    expect((await resumed.result).validation).toEqual(without.validation);
  });

  test('a file that is none is refused', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'meta-text-'));
    const path = join(folder, 'broken.safetensors');
    await writeFile(path, 'not a checkpoint');
    const resume = (file: string) => metaTrainText(encoder, train, { ...options, resume: file }).result;
    await expect(resume(path)).rejects.toMatchObject({ code: 'FILE_UNREADABLE' });
    await expect(resume(join(folder, 'none'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });
});

test.each([
  ['one class', { ...letters(['fg'], 5, 1) }, {}, 'CLASS_SINGLE'],
  ['classes of one example', letters(['fg', 'hi', 'jk'], 1, 1), {}, 'CLASS_SINGLE'],
  ['no such layer', train, { targets: ['quarry'] }, 'OPTION_INVALID'],
  ['a layer among others that is not there', train, { targets: ['query', 'quarry'] }, 'OPTION_INVALID'],
  ['no step', train, { steps: 0 }, 'OPTION_INVALID'],
  ['batches of one example a class', train, { perClass: 1 }, 'OPTION_INVALID'],
  ['more than the whole update', train, { interpolation: 1.5 }, 'OPTION_INVALID'],
  ['every token left out', train, { tokenDropout: 1 }, 'OPTION_INVALID'],
  ['looks after no step', train, { validateEvery: 0 }, 'OPTION_INVALID'],
  ['a rate that bursts', train, { lr: 1e30, steps: 20 }, 'LOSS_NOT_FINITE'],
] as const)('refuses %s', async (_, source, given, code) => {
  await expect(metaTrainText(encoder, source, { ...options, ...given }).result).rejects.toMatchObject({ code });
});
