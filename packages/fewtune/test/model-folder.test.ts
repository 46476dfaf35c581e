import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { env, pipeline } from '@huggingface/transformers';
import * as ort from 'onnxruntime-node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { checkOutput, writeFolder } from '../src/artifact/folder.js';
import { completeFolder, packModel } from '../src/artifact/pack.js';
import { load } from '../src/workflow/load.js';
import { meanOfWords, reportFor } from './hand-made.js';

const words = Array.from(
  { length: 40 },
  (_, i) => `word${String.fromCharCode(97 + (i % 26))}${String.fromCharCode(97 + Math.floor(i / 26))}`,
);
const labels = Array.from({ length: 20 }, (_, i) => (i === 3 ? '__proto__' : i === 4 ? 'constructor' : `class ${i}`));
const texts = [
  `${words[0]} ${words[1]}`,
  `${words[5]}`,
  `${words[7]} unheard ${words[9]} ${words[30]} ${words[2]}`,
  'Unheard',
];

let root: string;
let folder: string;
const files = () => completeFolder(packModel(meanOfWords(words, labels.length), labels, 0.5), reportFor(labels));

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'fewtune-folder-'));
  folder = join(root, 'models', 'hand-made');
  await writeFolder(folder, files());
  env.allowRemoteModels = false;
  env.localModelPath = join(root, 'models');
});
afterAll(() => rm(root, { recursive: true, force: true }));

describe('the folder is a transformers.js model', () => {
  test.each([
    ['fp32', 'fp32', 1e-4],
    ['quantized', 'q8', 1e-4],
  ] as const)('%s: pipeline gives our labels and probabilities', async (weights, dtype, tolerance) => {
    const ours = await load(folder, { weights });
    const predictions = await ours.predict(texts);
    const classify = await pipeline('text-classification', 'hand-made', { dtype });
    for (const [i, text] of texts.entries()) {
      const theirs = (await classify(text, { top_k: labels.length })) as { label: string; score: number }[];
      expect(theirs[0]!.label).toBe(predictions[i]!.label);
      for (const { label, score } of theirs) {
        expect(Math.abs(score - predictions[i]!.scores[label]!)).toBeLessThan(tolerance);
      }
    }
    await classify.dispose();
    await ours.dispose();
  });

  test('plain ONNX Runtime reads it: names, types, and a softmax gives the confidences', async () => {
    const ours = await load(folder);
    const [prediction] = await ours.predict([texts[0]!]);
    const session = await ort.InferenceSession.create(join(folder, 'onnx/model.onnx'));
    expect(session.inputNames).toEqual(['input_ids', 'attention_mask']);
    expect(session.outputNames).toEqual(['logits']);
    const { logits } = await session.run({
      input_ids: new ort.Tensor('int64', [2n, 3n, 0n], [1, 3]), // padded
      attention_mask: new ort.Tensor('int64', [1n, 1n, 0n], [1, 3]),
    });
    const exps = Array.from(logits!.data as Float32Array, Math.exp);
    const total = exps.reduce((a, b) => a + b);
    labels.forEach((label, i) => {
      expect(Math.abs(exps[i]! / total - prediction!.scores[label]!)).toBeLessThan(1e-4);
    });
    await ours.dispose();
  });

  test('int8 weights take about a quarter of the space and keep nearly the same confidences', async () => {
    const size = async (name: string) => (await readFile(join(folder, 'onnx', name))).byteLength;
    expect((await size('model_quantized.onnx')) / (await size('model.onnx'))).toBeLessThan(0.4);
    const [full, small] = [await load(folder), await load(folder, { weights: 'quantized' })];
    const [a, b] = [await full.predict(texts), await small.predict(texts)];
    for (const [i, { scores }] of a.entries()) {
      for (const label of labels) {
        // 7-bit weights in (−1, 1): each rounded by at most 1/254; the sum of 256 of them over temperature 0.5 stays small.
        expect(Math.abs(scores[label]! - b[i]!.scores[label]!)).toBeLessThan(0.1);
      }
    }
    await full.dispose();
    await small.dispose();
  });
});

test('labels that are names of Object’s properties survive saving, loading and JSON', async () => {
  const model = await load(folder);
  const [prediction] = await model.predict([texts[0]!]);
  expect(Object.keys(prediction!.scores)).toEqual(labels);
  expect(Object.keys(JSON.parse(JSON.stringify(prediction!.scores)))).toHaveLength(labels.length);
  const config = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'));
  expect(Object.hasOwn(config.label2id, '__proto__')).toBe(true);
  await model.dispose();
});

describe('integrity', () => {
  const copyWith = async (name: string, change: (bytes: Buffer) => Buffer) => {
    const copy = join(root, `copy-${Math.abs(name.length * 7919)}-${name.replaceAll('/', '_')}`);
    await rm(copy, { recursive: true, force: true });
    for (const [path, bytes] of files()) {
      const changed = path === name ? change(Buffer.from(bytes)) : Buffer.from(bytes);
      await mkdir(join(copy, path, '..'), { recursive: true });
      await writeFile(join(copy, path), changed);
    }
    return copy;
  };
  const flip = (bytes: Buffer) => {
    bytes[Math.floor(bytes.length / 2)]! ^= 1;
    return bytes;
  };

  test.each([...files().keys()])('a changed byte in %s is found and the file named', async (name) => {
    const copy = await copyWith(name, flip);
    await expect(load(copy)).rejects.toMatchObject({ code: 'MODEL_CORRUPT', message: expect.stringContaining(name) });
  });

  test('a file cut short is found by its size', async () => {
    const copy = await copyWith('onnx/model.onnx', (bytes) => bytes.subarray(0, -1));
    await expect(load(copy)).rejects.toMatchObject({
      code: 'MODEL_CORRUPT',
      message: expect.stringContaining('onnx/model.onnx'),
    });
  });

  test('a missing file, a link out of the folder and no folder at all are told apart', async () => {
    const copy = await copyWith('README.md', (bytes) => bytes);
    await rm(join(copy, 'README.md'));
    await expect(load(copy)).rejects.toMatchObject({
      code: 'MODEL_CORRUPT',
      message: expect.stringContaining('is missing'),
    });
    await symlink(join(folder, 'README.md'), join(copy, 'README.md'));
    await expect(load(copy)).rejects.toMatchObject({
      code: 'MODEL_CORRUPT',
      message: expect.stringContaining('outside'),
    });
    await expect(load(join(root, 'nowhere'))).rejects.toMatchObject({ code: 'MODEL_NOT_FOUND' });
  });
});

describe('writing', () => {
  test('a model is replaced as a whole and nothing else is left behind', async () => {
    await writeFile(join(folder, 'stray.txt'), 'from an older version');
    await writeFolder(folder, files());
    expect(await readdir(folder)).not.toContain('stray.txt');
    expect(await readdir(join(root, 'models'))).toEqual(['hand-made']);
  });

  test('a folder that is no model is refused and left alone', async () => {
    const foreign = join(root, 'photos');
    await mkdir(foreign);
    await writeFile(join(foreign, 'cat.jpg'), 'meow');
    await expect(checkOutput(foreign)).rejects.toMatchObject({ code: 'OUTPUT_UNWRITABLE' });
    await expect(writeFolder(foreign, files())).rejects.toMatchObject({ code: 'OUTPUT_UNWRITABLE' });
    expect(await readdir(foreign)).toEqual(['cat.jpg']);
  });

  test('a place that cannot be written to is found without leaving anything', async () => {
    await writeFile(join(root, 'plain-file'), '');
    await expect(checkOutput(join(root, 'plain-file', 'model'))).rejects.toMatchObject({ code: 'OUTPUT_UNWRITABLE' });
    await checkOutput(join(root, 'a', 'b', 'c'));
    expect(await readdir(root)).not.toContain('a');
  });
});
