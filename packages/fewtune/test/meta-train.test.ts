import { cp, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TextDataset } from '../src/data/dataset.js';
import { createRandom } from '../src/data/random.js';
import { readAdapter } from '../src/methods/peft/peft-files.js';
import { load } from '../src/workflow/load.js';
import { metaTrainEncoder } from '../src/workflow/meta-train.js';
import { MetaTrained, openMetaTrained } from '../src/workflow/meta-trained.js';
import { train } from '../src/workflow/train.js';
import { fewtune } from './run-cli.js';
import { writeTinyEncoder } from './tiny-encoder.js';

const fillers = ['please', 'tell', 'me', 'about', 'the', 'thing', 'now', 'today'];
const marks = 'amber brick cedar delta ember flint grove haven inlet jetty knoll ledge'.split(' ');

/** Classes that are two of twelve words, in any order, among words that say nothing. */
function pairs(names: readonly string[], each: number, seed: number): TextDataset {
  const random = createRandom(seed);
  const rows = names.flatMap((label) =>
    Array.from({ length: each }, () => {
      const words = [...label.split('+'), ...Array.from({ length: 4 }, () => fillers[random.int(fillers.length)]!)];
      return { label, text: random.shuffle(words).join(' ') };
    }),
  );
  return {
    source: 'pairs.csv',
    texts: rows.map(({ text }) => text),
    labels: rows.map(({ label }) => label),
    lines: rows.map((_, i) => i + 2),
    classes: [...names].sort(),
    repairs: [],
  };
}
const all = marks.flatMap((a, i) => marks.slice(i + 1).map((b) => `${a}+${b}`));
const known = createRandom(5).shuffle([...all]);
const data = pairs(known.slice(0, 24), 8, 1);
const unseen = pairs(known.slice(30, 36), 3, 2);
const settings = { steps: 40, lr: 5e-3, tokenDropout: 0, interpolation: 1, classesPerBatch: 12, validateEvery: 20 };

let cwd: string;
let encoder: string;
const start = () => join(cwd, 'start');
beforeAll(async () => {
  cwd = await mkdtemp(join(tmpdir(), 'fewtune-meta-'));
  encoder = join(cwd, 'encoder');
  await writeTinyEncoder(encoder, [...data.texts, ...unseen.texts]);
  const trained = await metaTrainEncoder(data, { encoder, options: settings, threads: 1 }).result;
  await trained.save(start());
});
afterAll(() => rm(cwd, { recursive: true, force: true }));

const refusal = (work: Promise<unknown>) => work.then(() => undefined).catch((error: unknown) => error);

test('a start is better on classes that it has never seen, is small, and opens as it was', async () => {
  const stages = new Set<string>();
  const run = metaTrainEncoder(data, { encoder, options: settings, threads: 1 });
  for await (const { stage } of run) stages.add(stage);
  expect([...stages]).toEqual(['read', 'train', 'measure']);
  const trained = await run.result;
  const opened = await openMetaTrained(start());
  expect(opened.encoder.fingerprint).toBe(trained.encoder.fingerprint); // same seed, and half precision lost nothing
  expect(opened.report).toEqual({ ...trained.report, created: expect.any(String), seconds: expect.any(Number) });
  const { classes, validationClasses, measured } = opened.report;
  expect([classes, validationClasses].map(({ length }) => length)).toEqual([12, 6]);
  const [onTest] = measured.filter(({ on }) => on === 'test');
  expect(onTest!.classes).toBe(6);
  expect(onTest!.after).toBeGreaterThan(onTest!.before + 0.05);
  // Python's PEFT finds its two files, in half precision.
  const { weights, base } = await readAdapter(start());
  expect(base!.fingerprint).toBe(opened.report.base.fingerprint);
  const values = Object.values(weights).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b), 0);
  expect((await stat(join(start(), 'adapter_model.safetensors'))).size).toBeLessThan(2 * values + 4096);
});

test('train from a start: its encoder is used, and the report says where it comes from', async () => {
  const opened = await openMetaTrained(start());
  await using model = await train(unseen, { method: 'prototype', from: start(), threads: 1 }).result;
  expect(model.report.encoder).toMatchObject({
    id: encoder,
    fingerprint: opened.encoder.fingerprint,
    start: { source: 'start', kind: 'metric', classes: 12, seen: [] },
  });
  await using plain = await train(unseen, { method: 'prototype', encoder, threads: 1 }).result;
  expect(model.report.metrics.accuracy).toBeGreaterThan(plain.report.metrics.accuracy);
  await model.learn('more', ['amber tell ledge', 'ledge me amber now']);
  await model.save(join(cwd, 'model'));
  expect(await readFile(join(cwd, 'model', 'README.md'), 'utf8')).toContain('meta-trained start `start`');
  await using again = await load(join(cwd, 'model'));
  expect(again.report.encoder).toEqual(model.report.encoder);
});

test.each([
  ['maml', {}, 0],
  ['meta-sgd', { variant: 'meta-sgd' }, 1],
] as const)('%s: a start for inner steps is saved, opened and adapted to new classes', async (name, more, rates) => {
  const out = join(cwd, name);
  const options = { steps: 4, ways: 4, shots: 2, queries: 2, innerSteps: 2, innerLr: 0.05, ...more };
  const trained = await metaTrainEncoder(data, { encoder, method: 'maml', options, threads: 1 }).result;
  await trained.save(out);
  const opened = await openMetaTrained(out);
  expect(opened.report).toMatchObject({ kind: 'maml', steps: 4, options });
  const { params, settings, encoder: base } = opened.mamlStart();
  expect({ params, settings }).toEqual({ params: trained.mamlStart().params, settings: trained.mamlStart().settings });
  expect(base.fingerprint).toBe(opened.report.base.fingerprint);
  expect(Object.keys(params).some((key) => key.startsWith('rate/'))).toBe(rates === 1);
  expect(settings).toMatchObject({ innerSteps: 2, innerLr: 0.05, ...more });

  await using model = await train(unseen, { method: 'maml', from: out, threads: 1 }).result;
  expect(model.report.method).toMatchObject({ name: 'maml', details: { metaTrained: true, innerSteps: 2 } });
  expect(model.report.encoder!.start).toMatchObject({ source: name, kind: 'maml' });
  await model.save(join(cwd, `${name}-model`));
  await using again = await load(join(cwd, `${name}-model`));
  const asked = unseen.texts.slice(0, 4);
  expect(await again.predict(asked)).toEqual(await model.predict(asked));
  await model.learn('more', ['amber tell ledge', 'ledge me amber now']);
  const [found] = await model.predict(['ledge amber']);
  expect(found!.label).toBe('more');
});

test('a start of metric learning does for inner steps as well; options of the other way are refused', async () => {
  await using model = await train(unseen, { method: 'maml', options: { innerSteps: 1 }, from: start(), threads: 1 })
    .result;
  expect(model.report.method.details).toMatchObject({ metaTrained: true, innerSteps: 1, rateHalvings: 0 });
  const wrong = metaTrainEncoder(data, { encoder, method: 'maml', options: { temperature: 0.1 } });
  expect(await refusal(wrong.result)).toMatchObject({
    code: 'OPTION_INVALID',
    message: expect.stringContaining('innerSteps'),
  });
});

test('classes that the start has seen are told: in the run, in the report', async () => {
  const { report } = await openMetaTrained(start());
  const [seen] = report.classes;
  const mixed = pairs([seen!, ...known.slice(30, 33)], 4, 3);
  const warnings: unknown[] = [];
  const run = train(mixed, { method: 'linear', from: await openMetaTrained(start()), threads: 1 });
  for await (const { metrics } of run) if ('warning' in metrics) warnings.push(metrics.warning);
  await using model = await run.result;
  expect(model.report.encoder!.start!.seen).toEqual([seen]);
  expect(warnings).toEqual([expect.stringContaining(`"${seen}"`)]);
  // A start from several tables names them before its classes.
  const tables = {
    ...data,
    labels: data.labels.map((name) => `old/${name}`),
    classes: data.classes.map((name) => `old/${name}`),
  };
  const several = await metaTrainEncoder(tables, { encoder, options: { ...settings, steps: 1 }, threads: 1 }).result;
  const [one] = several.report.classes;
  expect(several.describeFor([one!.slice(4), 'another']).seen).toEqual([one!.slice(4)]);
});

test('what is no start, is damaged, or belongs to another encoder is refused, and told apart', async () => {
  const code = async (folder: string) => {
    const error = (await refusal(openMetaTrained(folder))) as { code: string; message: string };
    return `${error.code}: ${error.message}`;
  };
  const copy = async (name: string) => {
    await cp(start(), join(cwd, name), { recursive: true });
    return join(cwd, name);
  };
  await using model = await train(unseen, { method: 'tfidf' }).result;
  await model.save(join(cwd, 'ordinary'));
  expect(await code(join(cwd, 'ordinary'))).toMatch(/^MODEL_NOT_FOUND: .*trained classifier/);
  expect(await code(join(cwd, 'nowhere'))).toMatch(/^MODEL_NOT_FOUND: .*no meta-trained start/);
  const bare = await copy('bare');
  await rm(join(bare, 'fewtune-meta.json'));
  expect(await code(bare)).toMatch(/^MODEL_NOT_FOUND: .*bare PEFT adapter/);
  const flipped = await copy('flipped');
  const bytes = await readFile(join(flipped, 'adapter_model.safetensors'));
  bytes[bytes.length - 9]! ^= 1;
  await writeFile(join(flipped, 'adapter_model.safetensors'), bytes);
  expect(await code(flipped)).toMatch(/^MODEL_CORRUPT: .*adapter_model\.safetensors/);
  const edited = await copy('edited');
  const text = await readFile(join(edited, 'fewtune-meta.json'), 'utf8');
  await writeFile(join(edited, 'fewtune-meta.json'), text.replace('"seed": 7', '"seed": 8'));
  expect(await code(edited)).toMatch(/^MODEL_CORRUPT: .*fewtune-meta\.json/);
  // Another start's adapter under this one's name: the hashes in the manifest find it.
  const other = await metaTrainEncoder(data, { encoder, options: { ...settings, steps: 1 }, threads: 1 }).result;
  await other.save(join(cwd, 'other'));
  const foreign = await copy('foreign');
  await cp(join(cwd, 'other', 'adapter_model.safetensors'), join(foreign, 'adapter_model.safetensors'));
  expect(await code(foreign)).toMatch(/^MODEL_CORRUPT/);
  // The encoder under that name is another one now.
  await cp(encoder, join(cwd, 'kept-encoder'), { recursive: true });
  await writeTinyEncoder(encoder, [...data.texts, ...unseen.texts], 9);
  expect(await code(start())).toMatch(/^ADAPTER_MISMATCH/);
  await cp(join(cwd, 'kept-encoder'), encoder, { recursive: true });
  expect(await openMetaTrained(start())).toBeInstanceOf(MetaTrained);
});

test.each([
  ['a start and an encoder', () => train(unseen, { from: start(), encoder }).result, /brings its own encoder/],
  ['a start for word counts', () => train(unseen, { from: start(), method: 'tfidf' }).result, /no encoder/],
  [
    'folds and a split',
    () => metaTrainEncoder(data, { fold: { train: [] }, split: { train: 1 } }).result,
    /one of them/,
  ],
  ['an option that is none', () => metaTrainEncoder(data, { options: { leaning: 1 } }).result, /steps=\d.*patience/],
  ['resuming from nothing', () => metaTrainEncoder(data, { resume: true }).result, /checkpoint/],
  [
    'a part without classes',
    () => metaTrainEncoder(unseen, { split: { train: 0.9, test: 0.01 } }).result,
    /test would get none/,
  ],
])('refused: %s', async (_, work, message) => {
  expect(await refusal(work())).toMatchObject({ code: 'OPTION_INVALID', message: expect.stringMatching(message) });
});

test('classes to measure on need two, with two examples each', async () => {
  const [a, b, c, d] = data.classes as [string, string, string, string];
  const one = { encoder, fold: { train: [a, b], test: [c] } };
  expect(await refusal(metaTrainEncoder(data, one).result)).toMatchObject({ code: 'CLASS_SINGLE' });
  const rows = [...data.labels.keys()].filter((row) => data.labels[row] !== d || row === data.labels.indexOf(d));
  const short = { ...data, texts: rows.map((row) => data.texts[row]!), labels: rows.map((row) => data.labels[row]!) };
  const few = { encoder, fold: { train: [a, b], test: [c, d] } };
  expect(await refusal(metaTrainEncoder(short, few).result)).toMatchObject({ code: 'CLASS_TOO_SMALL' });
});

test('command line: interrupted, it goes on where it stopped, and ends as without a break', async () => {
  const table = data.texts.map((text, row) => `${text},${data.labels[row]}`);
  await writeFile(join(cwd, 'pairs.csv'), `text,label\n${table.join('\n')}\n`);
  const [trained, validation, tested] = [data.classes.slice(0, 12), data.classes.slice(12, 18), data.classes.slice(18)];
  const folds = { '01': { train: trained, valid: validation, test: tested }, '02': { train: data.classes } };
  await writeFile(join(cwd, 'folds.json'), JSON.stringify(folds));
  const args = (out: string) => [
    ...['meta-train', 'pairs.csv', '--folds', 'folds.json', '--fold', '01', '--encoder', 'encoder', '--threads', '1'],
    ...['--set', 'steps=120', '--set', 'lr=5e-3', '--set', 'classesPerBatch=12', '--out', out],
  ];
  const [stopped, whole, unnamed] = await Promise.all([
    fewtune(args('runs/resumed'), { cwd, interruptAt: /^train/m }),
    fewtune([...args('whole'), '--json'], { cwd }),
    fewtune(['meta-train', 'pairs.csv', '--folds', 'folds.json', '--out', 'none'], { cwd }),
  ]);
  expect(stopped).toMatchObject({ code: 130, stderr: expect.stringContaining('--resume goes on with it') });
  expect(await readdir(join(cwd, 'runs'))).toEqual(['.resumed.checkpoint.safetensors']);
  expect(unnamed).toMatchObject({ code: 2, stderr: expect.stringContaining('"01", "02"') });
  const resumed = await fewtune([...args('runs/resumed'), '--resume'], { cwd });
  expect(resumed.stdout).toMatch(/6 test classes +\d+\.\d % +\d+\.\d %/);
  const left = await Promise.all([cwd, join(cwd, 'runs')].map((folder) => readdir(folder)));
  expect(left.flat().filter((name) => name.includes('checkpoint'))).toEqual([]);
  const weights = (folder: string) => readFile(join(cwd, folder, 'adapter_model.safetensors'));
  expect((await weights('runs/resumed')).equals(await weights('whole'))).toBe(true);
  expect(JSON.parse(whole.stdout)).toMatchObject({ start: 'whole', kind: 'metric', classes: 12, steps: 120 });
});
