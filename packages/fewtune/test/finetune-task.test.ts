import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { env, pipeline } from '@huggingface/transformers';
import * as ort from 'onnxruntime-node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createRandom } from '../src/data/random.js';
import type { Targets, TaskDataset } from '../src/data/task-dataset.js';
import { finetuneTask } from '../src/workflow/finetune-task.js';
import type { FinetuneTaskOptions } from '../src/workflow/finetune-task-options.js';
import { load } from '../src/workflow/load.js';
import { loadTuned } from '../src/workflow/load-tuned.js';
import type { TunedModel } from '../src/workflow/tuned-model.js';
import { writeTinyEncoder } from './tiny-encoder.js';

const words = Array.from({ length: 26 }, (_, i) => `w${String.fromCharCode(97 + i)}`);
const random = createRandom(11);
const word = (from: number, to: number): string => words[from + random.int(to - from)]!;
const rows = 80;

/** The words of a text say its target: which of three groups of five they are from; the others are filler. */
function dataset(targets: (group: number, row: number) => unknown, kind: Targets['kind'], pairs = false): TaskDataset {
  const groups = Array.from({ length: rows }, () => random.int(3));
  const texts = groups.map((group) =>
    [word(15, 26), word(group * 5, group * 5 + 5), word(group * 5, group * 5 + 5), word(15, 26)].join(' '),
  );
  const values = groups.map(targets);
  const classes = ['low', 'middle', 'high'];
  const all = {
    classification: { kind, labels: values, classes },
    ordinal: { kind, labels: values, classes },
    'multi-label': { kind, labels: values, classes },
    regression: { kind, values, name: 'stars' },
    tokens: { kind, entities: values, classes },
  } as unknown as Record<Targets['kind'], Targets>;
  const second = groups.map((group, row) =>
    word((row % 2 ? group : (group + 1) % 3) * 5, (row % 2 ? group : (group + 1) % 3) * 5 + 5),
  );
  return {
    source: 'made.csv',
    texts,
    ...(pairs && { pairs: second }),
    lines: texts.map((_, i) => i + 2),
    targets: all[kind],
    repairs: [],
  };
}

const name = ['low', 'middle', 'high'];
const sets = {
  classification: dataset((group) => name[group], 'classification'),
  ordinal: dataset((group) => name[group], 'ordinal'),
  'multi-label': dataset((group, row) => [name[group], ...(row % 9 === 0 ? ['high'] : [])], 'multi-label'),
  regression: dataset((group) => 1 + 2 * group, 'regression'),
  tokens: dataset((group) => [{ start: 3, end: 8, label: name[group] }], 'tokens'),
} as const;

let root: string;
let base: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'fewtune-finetune-'));
  base = join(root, 'base');
  await writeTinyEncoder(base, [`cls sep ${words.join(' ')}`]);
  const file = join(base, 'tokenizer.json');
  const json = JSON.parse(await readFile(file, 'utf8'));
  const special = (token: string): [string, number] => [token, json.model.vocab[token]];
  json.post_processor = { type: 'BertProcessing', sep: special('sep'), cls: special('cls') };
  await writeFile(file, JSON.stringify(json));
  env.allowRemoteModels = false;
  env.localModelPath = root;
});
afterAll(() => rm(root, { recursive: true, force: true }));

const tuneFast = { epochs: 12, batchSize: 8, lr: 5e-3, warmup: 0 } as const;
const run = (data: TaskDataset, options: FinetuneTaskOptions = {}): Promise<TunedModel> =>
  finetuneTask(base, data, { method: 'full', tune: tuneFast, threads: 1, ...options }).result;

describe.each(Object.entries(sets))('%s', (kind, data) => {
  test('learns, is measured beside what needs no encoder, and opens elsewhere with the same answers', async () => {
    const tune = { ...tuneFast, epochs: kind === 'tokens' ? 30 : 12 };
    await using model = await run(data, { tune, patience: 30 });
    const { score, baselines, evaluatedOn, pairs } = model.report;
    expect(score.value).toBeGreaterThan(0.5);
    expect(score.interval[0]).toBeLessThanOrEqual(score.value);
    expect(score.interval[1]).toBeGreaterThanOrEqual(score.value);
    expect(baselines[0]!.score.name).toBe(score.name);
    expect(baselines[0]!.score.value).toBeLessThan(score.value);
    expect([evaluatedOn.examples, pairs]).toEqual([16, false]);
    const folder = join(root, kind);
    await model.save(folder);
    const texts = data.texts.slice(0, 5);
    const found = await model.predict(texts);

    const session = await ort.InferenceSession.create(join(folder, 'onnx/model.onnx'));
    expect(session.inputNames).toEqual(['input_ids', 'attention_mask']);
    await session.release();
    if (kind === 'classification') {
      await using again = await load(folder); // as train's own
      const labels = (await again.predict(texts)).map(({ label }) => label);
      expect(labels).toEqual(found.map((one) => one.kind === 'classification' && one.label));
      expect(again.report.metrics.accuracy).toBe(score.value);
      await expect(loadTuned(folder)).rejects.toMatchObject({
        code: 'MODEL_UNSUPPORTED',
        message: expect.stringMatching(/with load\./),
      });
    } else {
      await using again = await loadTuned(folder);
      expect(again.report).toEqual(model.report);
      expect(await again.predict(texts)).toEqual(found);
      await using small = await loadTuned(folder, { weights: 'quantized' });
      expect((await small.predict(texts)).map((one) => one.kind)).toEqual(texts.map(() => kind));
      await expect(load(folder)).rejects.toThrow(/for fine-tuned.*Open it with loadTuned/);
    }
    const own = (await model.logits(texts)).map((row) => Array.from(row));
    const task = kind === 'tokens' ? 'token-classification' : 'text-classification';
    const theirs = await pipeline(task, kind, { dtype: 'fp32' });
    const inputs = await theirs.tokenizer(texts[0]!);
    const { logits } = await theirs.model(inputs);
    expect(Array.from(logits.data as Float32Array)).toEqual(own[0]!.map((value) => expect.closeTo(value, 4)));
    const config = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'));
    expect(Object.values(config.id2label)).toEqual(model.report.outputs);
    await theirs.dispose();
  });
});

test('pairs: the ONNX file reads types, and transformers.js feeds them', async () => {
  const data = dataset((_, row) => (row % 2 ? 'high' : 'low'), 'classification', true);
  const labelled = { ...data, targets: { ...data.targets, classes: ['high', 'low'] } as Targets };
  await using model = await run(labelled, { tune: { ...tuneFast, epochs: 3 } });
  const folder = join(root, 'pairs');
  await model.save(folder);
  const pairs = [
    ['wa wb', 'wc'],
    ['wf', 'wa wg'],
  ] as const;
  await using again = await loadTuned(folder);
  expect(await again.predict(pairs)).toEqual(await model.predict(pairs));
  const session = await ort.InferenceSession.create(join(folder, 'onnx/model.onnx'));
  expect(session.inputNames).toEqual(['input_ids', 'attention_mask', 'token_type_ids']);
  await session.release();
  const theirs = await pipeline('text-classification', 'pairs', { dtype: 'fp32' });
  const inputs = theirs.tokenizer(pairs[0][0], { text_pair: pairs[0][1], return_token_type_ids: true });
  const { logits } = await theirs.model(inputs);
  const [own] = await model.logits(pairs);
  expect(Array.from(logits.data as Float32Array)).toEqual(Array.from(own!, (value) => expect.closeTo(value, 4)));
  await theirs.dispose();
  await expect(model.predict(['one text'])).rejects.toThrow(/reads pairs of texts/);
  await expect(model.predict([['a', ' ']])).rejects.toMatchObject({ code: 'TEXT_BLANK' });
});

test('what the task tells stands in the report', async () => {
  const entities = sets.tokens.texts.map(() => [{ start: 3, end: 7, label: 'low' }]);
  const data = { ...sets.tokens, targets: { kind: 'tokens', entities, classes: ['low'] } as Targets };
  await using model = await run(data, { tune: { ...tuneFast, epochs: 1 }, baselines: false });
  expect(model.report.trainingData.notes[0]).toMatch(/58 entities begin or end inside a word.*"low in row 1"/);
  expect(model.report.baselines).toEqual([]);
});

test('bad options are refused before any work', async () => {
  const data = sets.regression;
  await expect(run(data, { loss: 'coral' })).rejects.toThrow(
    /coral is none of regression; its losses are mse and huber/,
  );
  await expect(run(data, { test: 2 })).rejects.toThrow(/option test/);
  await expect(run(data, { method: 'lorra' as never })).rejects.toThrow(/no way of fine-tuning is named "lorra"/);
  await expect(run(data, { test: sets.ordinal })).rejects.toThrow(/read for another task/);
  await expect(run(data, { tune: { tokenDropout: 2 } })).rejects.toMatchObject({ code: 'OPTION_INVALID' });
  const other = {
    ...sets.ordinal,
    targets: { ...sets.ordinal.targets, labels: sets.ordinal.texts.map(() => 'top') } as Targets,
  };
  await expect(run(sets.ordinal, { test: other })).rejects.toThrow(/made\.csv:2: the label "top"/);
  await expect(run(data, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'INTERRUPTED' });
});
