import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Encoder, loadEncoder, SentenceEmbedder } from '@fewtune/models';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { tinyCheckpoint } from '../../../../models/src/tiny-checkpoint.fixture.js';
import { packModel } from '../../artifact/pack.js';
import { ClassifierSession } from '../../artifact/session.js';
import type { EpisodeSource } from '../../data/meta-dataset.js';
import { createRandom } from '../../data/random.js';
import { softmaxRows } from '../../evaluation/calibration.js';
import { headLogits } from '../linear/logistic.js';
import type { FitContext, Labelled } from '../method.js';
import { prototypeHead } from '../metric/prototype.js';
import { adaptText } from './adapt-text.js';
import { labelTensor } from './lora-encoder.js';
import { Maml } from './maml.js';
import { maml as method } from './maml-method.js';
import { bilevelOf, type MetaMamlEvent, mamlEncoder, metaTrainMaml } from './text-maml.js';

let encoder: Encoder;
beforeAll(async () => {
  encoder = await loadEncoder(await tinyCheckpoint('bert'));
});
const folder = mkdtempSync(join(tmpdir(), 'fewtune-text-maml-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Every sentence holds the letter of its class among letters that say nothing. */
function source(marks: string, each: number): EpisodeSource {
  const random = createRandom(3);
  const labels = Int32Array.from({ length: marks.length * each }, (_, i) => Math.floor(i / each));
  const texts = Array.from(labels, (c) => {
    const filler = Array.from({ length: 2 + random.int(4) }, () => 'abcde'[random.int(5)]!);
    return random.shuffle([marks[c]!, ...filler]).join(' ');
  });
  return { texts, labels, classes: [...marks] };
}

const options = {
  ...{ rank: 2, alpha: 4, ways: 3, shots: 2, queries: 2, steps: 6, tasksPerStep: 1, innerSteps: 2, innerLr: 0.02 },
  warmUp: { steps: 4 },
  metaLr: 5e-3,
};
const seen = source('fghijklm', 8);
const unseen: Labelled = source('xyz', 6);
const asked = ['a x b', 'c y', 'z d a e'];

describe('meta-training of LoRA weights', () => {
  test.each([
    ['maml', 0],
    ['meta-sgd', 1],
  ] as const)(
    '%s: warm-up, then tasks; resumed in either, the result is the same to the bit',
    async (variant, rates) => {
      const events: MetaMamlEvent[] = [];
      const path = join(folder, `${variant}.safetensors`);
      const begun = metaTrainMaml(encoder, seen, { ...options, variant });
      for await (const event of begun) events.push(event);
      const whole = await begun.result;
      expect(events.map(({ stage, step }) => `${stage} ${step}`)).toEqual([
        ...[1, 2, 3, 4].map((step) => `warm-up ${step}`),
        ...[1, 2, 3, 4, 5, 6].map((step) => `meta ${step}`),
      ]);
      expect(Object.keys(whole.rates).length > 0).toBe(rates === 1);
      if (rates === 1) {
        await expect(adaptText(whole.start, unseen, { innerLr: 0.5 })).rejects.toThrow(
          'has learned its rates (meta-sgd)',
        );
      }
      expect(Object.keys(whole.adapter.weights).every((name) => /lora_[AB]\.weight$/.test(name))).toBe(true);

      for (const stopAt of ['warm-up 3', 'meta 4']) {
        const stop = new AbortController();
        const kept = { ...options, variant, checkpoint: { path, every: 1 } };
        const cut = metaTrainMaml(encoder, seen, { ...kept, signal: stop.signal });
        const failed = expect(cut.result).rejects.toMatchObject({ code: 'INTERRUPTED' });
        try {
          for await (const { stage, step } of cut) if (`${stage} ${step}` === stopAt) stop.abort();
        } catch {} // the result is looked at
        await failed;
        const resumed = await metaTrainMaml(encoder, seen, { ...kept, resume: path }).result;
        expect(resumed.start.params).toEqual(whole.start.params);
      }
      const other = metaTrainMaml(encoder, unseen as EpisodeSource, { ...options, variant, ways: 3, resume: path });
      await expect(other.result).rejects.toMatchObject({ code: 'OPTION_INVALID' });
    },
  );
});

describe('a classifier adapted from a meta-trained start', () => {
  test('its logits are those of the adapted model, in memory and as a packed model', async () => {
    const { start } = await metaTrainMaml(encoder, seen, options).result;
    const fitted = await adaptText(start, unseen);
    const model = mamlEncoder(start, 3);
    await using maml = new Maml({ model, ...bilevelOf(start.settings), start: start.params });
    const support = { x: model.tokens(unseen.texts), y: labelTensor(unseen.labels) };
    const adapted = await maml.adapt({ support });
    const wanted = [...((await adapted.predict(model.tokens(asked))).data as Float32Array)];
    const near = wanted.map((value) => expect.closeTo(value, 4));
    expect([...softmaxRows(await fitted.logits(asked), 3)]).toEqual(near);
    expect(Math.max(...wanted) - Math.min(...wanted)).toBeGreaterThan(0.03);

    const session = await ClassifierSession.open(packModel(await fitted.graph(), unseen.classes, 1));
    const [own, packed] = [await fitted.logits(asked), await session.logits(asked)];
    expect([...packed]).toEqual([...own].map((value) => expect.closeTo(value, 4)));
    expect(fitted.details).toMatchObject({ innerSteps: 2, rateHalvings: 0 });
    await Promise.all([fitted.dispose?.(), session.dispose()]);
  });

  test('without inner steps it is the prototype head; a class without examples is refused', async () => {
    const { start, encoder: tuned } = await metaTrainMaml(encoder, seen, { ...options, steps: 1 }).result;
    const fitted = await adaptText(start, unseen, { innerSteps: 0 });
    await using embedder = await SentenceEmbedder.create(tuned);
    const features = await embedder.embed(unseen.texts);
    const head = prototypeHead({ hidden: tuned.hidden, classes: 3, features, labels: unseen.labels }, 1);
    const wanted = headLogits(head, await embedder.embed(asked)).map((value) => start.settings.scale * value);
    const found = await fitted.logits(asked);
    expect([...found]).toEqual([...wanted].map((value) => expect.closeTo(value, 3)));
    const empty = adaptText(start, { ...unseen, classes: [...unseen.classes, 'none'] });
    await expect(empty).rejects.toMatchObject({ code: 'CLASS_TOO_SMALL' });
    await fitted.dispose?.();
  });

  test('the method takes a start, says when there is none, and learns another class as its prototype', async () => {
    const { start } = await metaTrainMaml(encoder, seen, { ...options, steps: 1, ways: 50 }).result; // there are 8
    const context = { encoder: async () => encoder, seed: 7 } as FitContext;
    const plain = await method.fit(unseen, { innerSteps: 1, innerLr: 0.01 }, context);
    expect(plain.details).toMatchObject({ metaTrained: false, innerSteps: 1 });
    const losses: number[] = [];
    const fitted = await method.fit(unseen, method.defaults, {
      ...context,
      mamlStart: async () => start,
      onProgress: (_, { loss }) => losses.push(loss!),
    });
    expect(fitted.details).toMatchObject({ metaTrained: true, innerSteps: 2 });
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
    const { hidden, features } = fitted.support!;
    const head = { weight: features, bias: new Float32Array(features.length / hidden) };
    const task = { hidden, others: features, labels: unseen.labels, head, logits: headLogits(head, features) };
    const learn = method.classRow!({ ...task, details: fitted.details, options: {} });
    const { weight, bias } = await learn(features.subarray(0, 2 * hidden));
    expect(Math.hypot(...weight)).toBeCloseTo(20, 3);
    expect(bias).toBe(0);
    await Promise.all([plain.dispose?.(), fitted.dispose?.()]);
  });
});
