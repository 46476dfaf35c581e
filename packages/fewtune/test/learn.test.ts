import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { env, pipeline } from '@huggingface/transformers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openModel } from '../src/artifact/load.js';
import type { TextDataset } from '../src/data/dataset.js';
import { readTable } from '../src/data/read-table.js';
import { load } from '../src/workflow/load.js';
import { train } from '../src/workflow/train.js';
import { TrainedModel } from '../src/workflow/trained-model.js';
import { writeTinyEncoder } from './tiny-encoder.js';

const ticketsFile = fileURLToPath(new URL('./fixtures/tickets.csv', import.meta.url));
const passwords = [
  'login password refused',
  'password login page',
  'reset login password',
  'locked login password',
  'forgot login password pin',
];
const old = ['the machine swallowed my card', 'where is my parcel', 'refund my payment please'];
const asked = ['login password', 'refused password login'];

let root: string;
let encoder: string;
let tickets: TextDataset;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'fewtune-learn-'));
  env.allowRemoteModels = false;
  env.localModelPath = root;
  tickets = await readTable(ticketsFile);
  encoder = join(root, 'encoder');
  await writeTinyEncoder(encoder, [...tickets.texts, ...passwords, ...old, ...asked]);
  for (const method of ['prototype', 'linear', 'tfidf'] as const) {
    const options = method === 'linear' ? { C: 10 } : {};
    const model = await train(tickets, { method, options, encoder, threads: 1 }).result;
    await model.save(join(root, method));
    await model.dispose();
  }
});
afterAll(() => rm(root, { recursive: true, force: true }));

const open = (name: string) => load(join(root, name), { threads: 1 });

describe.each(['prototype', 'linear'])('a model of the method %s', (method) => {
  test('learns a class, keeps the others as they were, and forgets it without a trace', async () => {
    await using model = await open(method);
    const before = await model.logits(old);
    const learned = await model.learn('login', passwords);
    expect(learned).toMatchObject({ label: 'login', isNew: true, added: 5, examples: 5, classes: 4, repeated: 0 });
    expect(learned.heldOut!.right).toBeGreaterThanOrEqual(4);
    expect(model.labels).toEqual(['card', 'delivery', 'refund', 'login']);
    expect((await model.predict(asked)).map(({ label }) => label)).toEqual(['login', 'login']);
    expect((await model.predict(old)).map(({ label }) => label)).toEqual(['card', 'delivery', 'refund']);
    const after = await model.logits(old);
    for (const row of [0, 1, 2]) {
      for (const c of [0, 1, 2]) expect(after[4 * row + c]).toBeCloseTo(before[3 * row + c]!, 4);
    }
    expect(await model.forget('login')).toEqual({ label: 'login', examples: 5, classes: 3 });
    for (const [i, logit] of (await model.logits(old)).entries()) expect(logit).toBeCloseTo(before[i]!, 4);
    expect(model.report.changes!.map(({ change, label, examples }) => [change, label, examples])).toEqual([
      ['learn', 'login', 5],
      ['forget', 'login', 5],
    ]);
  });

  test('saved and loaded it answers the same, in transformers.js too', async () => {
    await using model = await open(method);
    await model.learn('Zugang 🔑\u0301', passwords);
    const told = await model.predict(asked, { explain: 2 });
    await model.save(join(root, `${method}-more`));
    await using again = await open(`${method}-more`);
    const saved = await again.predict(asked, { explain: 2 });
    for (const [i, { label, confidence, nearest }] of saved.entries()) {
      expect([label, nearest]).toEqual([told[i]!.label, told[i]!.nearest]);
      expect(confidence).toBeCloseTo(told[i]!.confidence, 5); // the head is then a part of the graph
    }
    await using small = await load(join(root, `${method}-more`), { weights: 'quantized' });
    expect((await small.predict(asked))[0]!.label).toBe('Zugang 🔑\u0301');
    await expect(small.learn('x', ['y z'])).rejects.toMatchObject({ code: 'MODEL_UNSUPPORTED' });
    const classify = await pipeline('text-classification', `${method}-more`, { dtype: 'fp32' });
    const [top] = (await classify(asked[0]!)) as { label: string; score: number }[];
    await classify.dispose();
    expect(top!.label).toBe(told[0]!.label);
    expect(Math.abs(top!.score - told[0]!.confidence)).toBeLessThan(1e-4);
    expect(await readFile(join(root, `${method}-more`, 'README.md'), 'utf8')).toContain('learned from 5 examples');
  });

  test('more examples move a class, and what it has already is not counted twice', async () => {
    await using model = await open(method);
    await model.learn('login', passwords.slice(0, 1));
    const [before] = await model.predict(['pin forgot password']);
    const learned = await model.learn('login', [...passwords, passwords[2]!], { more: true });
    expect(learned).toMatchObject({ isNew: false, added: 4, repeated: 2, examples: 5, classes: 4 });
    const [after] = await model.predict(['pin forgot password']);
    expect(after!.scores.login!).toBeGreaterThan(before!.scores.login!);
  });
});

test('of two changes to one folder at once the later is refused, and none is lost', async () => {
  const shared = join(root, 'shared');
  await using model = await open('prototype');
  await model.save(shared);
  await using one = await open('shared');
  await using other = await open('shared');
  await one.learn('login', passwords);
  await one.save(shared);
  await one.learn('login', ['the password page is blank'], { more: true });
  await one.save(shared); // its own change stands in no one's way
  await other.learn('hours', ['when do you open']);
  await expect(other.save(shared)).rejects.toMatchObject({ code: 'MODEL_CORRUPT', message: /another change/ });
  await using after = await open('shared');
  expect(after.labels).toContain('login');
});

test('the nearest kept examples explain a prediction', async () => {
  await using model = await open('linear');
  const [nearest] = await model.explain([old[0]!], { nearest: 4 });
  expect(nearest).toHaveLength(4);
  expect(nearest![0]).toMatchObject({ label: 'card', text: expect.stringMatching(/card/) });
  const similarities = nearest!.map(({ similarity }) => similarity);
  expect(similarities).toEqual([...similarities].sort((a, b) => b - a));
  const { support } = (await openModel(join(root, 'linear'))).learned!;
  const [own] = await model.explain([support!.texts![5]!], { nearest: 1 });
  expect(own![0]!.text).toBe(support!.texts![5]);
  expect(own![0]!.similarity).toBeCloseTo(1, 4);
  await expect(model.explain(old, { nearest: 0 })).rejects.toMatchObject({ code: 'OPTION_INVALID' });
});

test('what is predicted while a class is learned is predicted by a whole model', async () => {
  await using model = await open('prototype');
  const learning = model.learn('login', passwords);
  const during = await Promise.all([model.predict(old), model.predict(old), model.predict(old)]);
  const second = model.learn('hours', ['when do you open', 'are you open on sunday']);
  await learning;
  for (const predictions of during) expect(Object.keys(predictions[0]!.scores)).toHaveLength(3);
  await second;
  expect(model.labels).toEqual(['card', 'delivery', 'refund', 'login', 'hours']);
  expect((await model.predict(asked))[0]!.label).toBe('login');
});

test('wrong requests are refused, say what is known, and change nothing', async () => {
  await using model = await open('prototype');
  const refused = async (work: Promise<unknown>, code: string, message: RegExp) =>
    expect(await work.catch((error) => error)).toMatchObject({ code, message: expect.stringMatching(message) });
  await refused(model.learn('card', passwords), 'LABEL_EXISTS', /"card"/);
  await refused(model.learn(' card ', passwords), 'LABEL_EXISTS', /"card"/);
  await refused(model.learn('  ', passwords), 'OPTION_INVALID', /blank/);
  await refused(model.learn('login', passwords, { more: true }), 'LABEL_UNKNOWN', /"card", "delivery"/);
  await refused(model.learn('login', []), 'ROWS_EMPTY', /example/);
  await refused(model.learn('login', ['fine', ' \t']), 'TEXT_BLANK', /example 2 of 2/);
  const kept = (await openModel(join(root, 'prototype'))).learned!.support.texts!;
  await refused(model.learn('login', [kept[0]!]), 'LABELS_CONFLICT', /"card"|"delivery"|"refund"/);
  await refused(model.forget('login'), 'LABEL_UNKNOWN', /"refund"/);
  await model.forget('delivery');
  await refused(model.forget('card'), 'CLASS_SINGLE', /two classes/);
  expect(model.labels).toEqual(['card', 'refund']);
});

test('models that cannot learn or explain say why', async () => {
  await using words = await open('tfidf');
  await expect(words.learn('login', passwords)).rejects.toMatchObject({
    code: 'MODEL_UNSUPPORTED',
    message: expect.stringContaining('tfidf'),
  });
  await expect(words.predict(old, { explain: 1 })).rejects.toMatchObject({ code: 'MODEL_UNSUPPORTED' });
  // A folder as version 0.1.0 wrote it: no support.
  const { report, session } = await openModel(join(root, 'prototype'));
  const { support: _, ...oldReport } = report;
  await using bare = new TrainedModel({ report: oldReport, session }, async () => new Map());
  await expect(bare.forget('card')).rejects.toMatchObject({
    code: 'MODEL_UNSUPPORTED',
    message: expect.stringContaining('keeps no examples'),
  });
  expect((await bare.predict(old))[0]!.label).toBe('card');
});

test('without its texts a model still learns and explains, by label', async () => {
  await using model = await train(tickets, { method: 'prototype', encoder, keepExamples: false, threads: 1 }).result;
  await model.learn('login', passwords);
  const [nearest] = await model.explain([asked[0]!], { nearest: 1 });
  expect(nearest![0]).toEqual({ label: 'login', similarity: expect.any(Number) });
  await model.save(join(root, 'silent'));
  const folder = await Promise.all(
    ['support.safetensors', 'README.md'].map((name) => readFile(join(root, 'silent', name))),
  );
  expect(folder.some((bytes) => bytes.includes('password'))).toBe(false);
  expect(folder[1]!.toString()).toContain('texts are not kept');
});

test('learned, saved in place, learned again and saved again: nothing is lost', async () => {
  await using first = await train(tickets, { method: 'linear', encoder, threads: 1 }).result;
  await first.save(join(root, 'moving'));
  await using opened = await open('moving');
  await opened.learn('login', passwords);
  await opened.save(join(root, 'moving'));
  await opened.learn('hours', ['sunday opening hours', 'opening hours']);
  await opened.forget('delivery');
  await opened.save(join(root, 'moving'));
  await using again = await open('moving');
  expect(again.labels).toEqual(['card', 'refund', 'login', 'hours']);
  expect((await again.predict(asked)).map(({ label }) => label)).toEqual(['login', 'login']);
  await first.save(join(root, 'moving')); // what was trained is as it was
  await using restored = await open('moving');
  expect(restored.labels).toEqual(['card', 'delivery', 'refund']);
});

test('a folder that holds another model since it was opened is not taken for the old one', async () => {
  await using opened = await open('prototype');
  await using other = await train(tickets, { method: 'linear', encoder, threads: 1 }).result;
  await other.save(join(root, 'prototype'));
  await opened.learn('login', passwords);
  await expect(opened.save(join(root, 'elsewhere'))).rejects.toMatchObject({ code: 'MODEL_CORRUPT' });
});
