import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { env, pipeline } from '@huggingface/transformers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { load } from '../src/workflow/load.js';
import { fewtune } from './run-cli.js';

const tickets = fileURLToPath(new URL('./fixtures/tickets.csv', import.meta.url));
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fewtune-cli-'));
  env.allowRemoteModels = false;
  env.localModelPath = folder;
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const interval = [expect.any(Number), expect.any(Number)];
const metrics = {
  accuracy: expect.any(Number),
  macroF1: expect.any(Number),
  accuracyInterval: interval,
  ece: expect.any(Number),
};

describe.each(['tfidf', 'linear'])('%s: from a table to a model that answers', (method) => {
  test('train --json prints one document', async () => {
    const { code, stdout, stderr } = await fewtune(['train', tickets, '--method', method, '--out', method, '--json'], {
      cwd: folder,
    });
    expect(stderr).toContain('evaluate');
    expect(code).toBe(0);
    expect(stdout.trim().split('\n')).toHaveLength(1);
    expect(JSON.parse(stdout)).toMatchObject({
      model: method,
      method,
      encoder: method === 'tfidf' ? null : 'all-MiniLM-L6-v2',
      examples: 24,
      classes: 3,
      metrics,
      evaluatedOn: { kind: 'cross-validation', examples: 24 },
      advice: { requested: method, chosen: method },
    });
  });

  test('predict: texts, a file and stdin give the same answers', async () => {
    const texts = ['the machine swallowed my card', 'refund my payment please'];
    await writeFile(join(folder, 'texts.txt'), `${texts.join('\n')}\n`);
    const results = await Promise.all([
      fewtune(['predict', method, ...texts, '--json'], { cwd: folder }),
      fewtune(['predict', method, '--file', 'texts.txt', '--json'], { cwd: folder }),
      fewtune(['predict', method, '--json'], { cwd: folder, stdin: `${texts.join('\n')}\n` }),
    ]);
    const [first, ...others] = results.map(({ stdout }) => JSON.parse(stdout));
    expect(first.map((p: { label: string }) => p.label)).toEqual(['card', 'refund']);
    expect(first[0]).toEqual({
      input: texts[0],
      label: 'card',
      confidence: expect.any(Number),
      scores: { card: first[0].confidence, delivery: expect.any(Number), refund: expect.any(Number) },
    });
    for (const other of others) {
      expect(other).toEqual(first);
    }
  });

  test('evaluate --json gives metrics and every class', async () => {
    const { code, stdout } = await fewtune(['evaluate', method, tickets, '--json'], { cwd: folder });
    expect(code).toBe(0);
    const { examples, metrics: measured, perClass } = JSON.parse(stdout);
    expect(examples).toBe(24);
    expect(measured.accuracy).toBeGreaterThan(0.9); // on its own training rows
    expect(perClass.map((row: { label: string }) => row.label)).toEqual(['card', 'delivery', 'refund']);
    expect(perClass[0]).toEqual({
      label: 'card',
      precision: expect.any(Number),
      recall: expect.any(Number),
      f1: expect.any(Number),
      support: 8,
    });
  });

  test('transformers.js gives the same labels and probabilities, to 1e-4', async () => {
    const texts = ['the machine swallowed my card', 'refund my payment', 'Where, oh where is my PARCEL?! (it is late)'];
    const model = await load(join(folder, method));
    const ours = await model.predict(texts);
    const classify = await pipeline('text-classification', method, { dtype: 'fp32' });
    for (const [i, text] of texts.entries()) {
      const theirs = (await classify(text, { top_k: 3 })) as { label: string; score: number }[];
      expect(theirs[0]!.label).toBe(ours[i]!.label);
      for (const { label, score } of theirs) {
        expect(Math.abs(score - ours[i]!.scores[label]!)).toBeLessThan(1e-4);
      }
    }
    await classify.dispose();
    const quantized = await pipeline('text-classification', method, { dtype: 'q8' });
    const [top] = (await quantized(texts[0]!)) as { label: string }[];
    expect(top!.label).toBe('card');
    await quantized.dispose();
    await model.dispose();
  });
});

test('labels that the model does not know are refused and listed', async () => {
  const text = await readFile(tickets, 'utf8');
  await writeFile(join(folder, 'other.csv'), text.replaceAll(',delivery', ',shipping'));
  const { code, stderr, stdout } = await fewtune(['evaluate', 'tfidf', 'other.csv', '--json'], { cwd: folder });
  expect(code).toBe(2);
  expect(stdout).toBe('');
  expect(stderr).toMatch(/\[LABEL_UNKNOWN\].*"shipping"/);
});

test('a changed byte in the model is refused and the file named', async () => {
  const file = join(folder, 'tfidf', 'onnx', 'model.onnx');
  const bytes = await readFile(file);
  bytes[bytes.length - 5]! ^= 1;
  await writeFile(file, bytes);
  const { code, stderr } = await fewtune(['predict', 'tfidf', 'my card'], { cwd: folder });
  expect(code).toBe(2);
  expect(stderr).toMatch(/\[MODEL_CORRUPT\].*onnx\/model\.onnx/);
});

test('for people: a table, the interval, how it was measured, and no colour codes when piped', async () => {
  const { code, stdout } = await fewtune(['train', tickets, '--method', 'tfidf', '--test', '0.25', '--out', 'again'], {
    cwd: folder,
  });
  expect(code).toBe(0);
  expect(stdout).toMatch(/24 examples, 3 classes/);
  expect(stdout).toMatch(/95 % interval/);
  expect(stdout).toMatch(/6 rows put aside before training/);
  expect(stdout).not.toContain('\u001b');
});

test('doctor proves that the installation works', async () => {
  const { code, stdout } = await fewtune(['doctor', '--json'], { cwd: folder });
  const report = JSON.parse(stdout);
  expect(report.checks.filter((check: { ok: boolean }) => !check.ok)).toEqual([]);
  expect(report.ok).toBe(true);
  expect(code).toBe(0);
});
