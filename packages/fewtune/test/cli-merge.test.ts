import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openOnnx } from '@fewtune/engine';
import { loadEncoder, padBatch } from '@fewtune/models';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readTable } from '../src/data/read-table.js';
import { adaptEncoder } from '../src/methods/peft/adapter.js';
import { AdapterServer } from '../src/methods/peft/adapter-server.js';
import { readAdapter, writeAdapter } from '../src/methods/peft/peft-files.js';
import { finetune } from '../src/workflow/finetune.js';
import { finetuneOnnx } from '../src/workflow/finetune-onnx.js';
import { load } from '../src/workflow/load.js';
import { merge } from '../src/workflow/merge.js';
import { readAdapters } from '../src/workflow/model-adapters.js';
import { subjectRows, subjectTexts, writeOnnxBase } from './onnx-base.js';
import { fewtune } from './run-cli.js';
import { writeTinyEncoder } from './tiny-encoder.js';

let folder: string;
const at = (name: string) => join(folder, name);
const run = (...args: string[]) => fewtune([...args, '--json'], { cwd: folder });
const flags = ['--targets', 'query,value', '--lr', '0.02', '--epochs', '12', '--set', 'patience=none'];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fewtune-cli-merge-'));
  await writeFile(
    at('subjects.csv'),
    `text,label\n${subjectRows.map(({ text, label }) => `${text},${label}`).join('\n')}\n`,
  );
  await writeOnnxBase(at('base'), 'states');
  await writeTinyEncoder(at('encoder'), subjectTexts);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test('finetune, then merge: one adapter in the same file gives the same classifier', async () => {
  const tuned = await run('finetune', 'base', 'subjects.csv', ...flags, '--test', 'subjects.csv', '--out', 'tuned');
  expect(tuned.stderr).toContain('validation');
  expect(tuned.code).toBe(0);
  const document = JSON.parse(tuned.stdout);
  expect(document).toMatchObject({
    model: 'tuned',
    adapter: join('tuned', 'adapters', 'tuned'),
    base: 'base',
    method: 'lora',
    merge: { merged: true, texts: 24, accuracyAfter: document.merge.accuracyBefore },
    evaluatedOn: { kind: 'test', examples: 24 },
  });
  expect(document.metrics.accuracy).toBeGreaterThan(0.9);
  await cp(at('tuned/adapters/tuned'), at('adapter'), { recursive: true });

  const merged = await run('merge', 'base', 'adapter', '--test', 'subjects.csv', '--out', 'merged');
  expect(merged.stderr).toBe('');
  const { measured, ...rest } = JSON.parse(merged.stdout);
  expect(rest).toMatchObject({ folder: 'merged', kind: 'onnx', merged: true, weight: 1, base: { id: 'base' } });
  expect(rest.adapter).toMatchObject({ source: 'adapter', method: 'lora', modules: 2 });
  expect(measured).toMatchObject({
    of: 'logits',
    texts: 24,
    accuracyBefore: document.metrics.accuracy,
    accuracyAfter: document.metrics.accuracy,
  });
  expect(measured.largestDifference).toBeLessThan(1e-5);
  expect(measured.largestChange).toBeGreaterThan(1e-3);
  const { tokenizer } = await loadEncoder(at('encoder'));
  const { inputIds, attentionMask } = padBatch(
    subjectTexts.map((text) => tokenizer.encode(text)),
    tokenizer.padId,
  );
  const logits = async (name: string) => {
    const session = await openOnnx(at(`${name}/onnx/model.onnx`));
    const { logits: found } = await session.run({ input_ids: inputIds, attention_mask: attentionMask });
    await session.dispose();
    return found!.data as Float32Array;
  };
  const { temperature } = JSON.parse(await readFile(at('tuned/fewtune.json'), 'utf8'));
  const [ours, theirs] = [await logits('tuned'), await logits('merged')];
  for (const [i, value] of ours.entries()) expect(theirs[i]).toBeCloseTo(value * temperature, 4);
});

test('an encoder: minus the adapter after plus the adapter is the base again', async () => {
  const config = JSON.parse(await readFile(at('adapter/adapter_config.json'), 'utf8'));
  expect(config.target_modules).toEqual(['query', 'value']);
  // The adapter was trained on the ONNX file: as one without a fingerprint it fits the encoder of the same layers.
  const refused = await run('merge', 'encoder', 'adapter', '--out', 'no');
  expect(refused.code).toBe(2);
  expect(refused.stderr).toMatch(/ADAPTER_MISMATCH.*fingerprint/);
  const adapter = await readAdapter(at('adapter'));
  await writeAdapter(at('plain'), { ...adapter, base: {} });
  await cp(at('adapter/head.safetensors'), at('plain/head.safetensors'));

  const merged = await run('merge', 'encoder', 'plain', '--test', 'subjects.csv', '--out', 'merged-encoder');
  const { measured, kind } = JSON.parse(merged.stdout);
  expect(kind).toBe('encoder');
  expect(measured.of).toBe('embeddings');
  expect(measured.largestDifference).toBeLessThan(1e-5);
  expect(measured.accuracyAfter).toBe(measured.accuracyBefore);
  expect(measured.accuracyAfter).toBeGreaterThan(0.9);
  const [base, plain] = [await loadEncoder(at('encoder')), await readAdapter(at('plain'))];
  expect((await loadEncoder(at('merged-encoder'))).weights).toEqual(adaptEncoder(base, plain).weights);

  const back = await run('merge', 'merged-encoder', 'plain', '--weight=-1', '--out', 'back');
  expect(back.code).toBe(0);
  const name = 'encoder.layer.0.attention.self.query.weight';
  const again = (await loadEncoder(at('back'))).weights[name]!.data as Float32Array;
  for (const [i, value] of (base.weights[name]!.data as Float32Array).entries()) expect(again[i]).toBeCloseTo(value, 6);
});

test('finetune of an encoder: the adapter merged into it gives the model that was written', async () => {
  const args = ['--targets', 'query,value', '--lr', '0.02', '--epochs', '12', '--set', 'patience=none'];
  const { code, stdout, stderr } = await run(
    'finetune',
    'encoder',
    'subjects.csv',
    ...args,
    '--test',
    'subjects.csv',
    '--out',
    'e',
  );
  expect(stderr).toContain('validation');
  expect(code).toBe(0);
  const document = JSON.parse(stdout);
  expect(document).toMatchObject({
    model: 'e',
    adapter: join('e', 'adapters', 'tuned'),
    base: 'encoder',
    method: 'lora',
    parameters: { adapter: 2 * 2 * 8 * 32, head: 3 * 32 + 3 },
    merge: { merged: true, texts: 24, accuracyAfter: document.merge.accuracyBefore },
  });
  expect(document.merge.largestDifference).toBeLessThan(1e-5);
  expect(document.metrics.accuracy).toBeGreaterThan(0.9);
  const model = await load(at('e'));
  const found = await model.predict(subjectTexts);
  await model.dispose();
  await using server = await AdapterServer.create(await loadEncoder(at('encoder')));
  // Paths are ids of folders: the encoder of the run was named from where it ran.
  for (const { name, adapter, head } of await readAdapters(at('e'))) server.add(name, adapter, head!);
  const served = await server.predict(subjectTexts, 'tuned');
  expect(served.map(({ label }) => label)).toEqual(found.map(({ label }) => label));
  const {
    model: whole,
    adapter,
    merge: report,
  } = await finetune(at('encoder'), await readTable(at('subjects.csv')), {
    method: 'full',
    options: { epochs: 2 },
  }).result;
  expect(adapter).toBeUndefined();
  expect(report.largestDifference).toBeLessThan(1e-5);
  await whole.dispose();
  const wrong = (options: object) => finetune(at('encoder'), data, options as never).result;
  const data = await readTable(at('subjects.csv'));
  await expect(wrong({ method: 'lorra' })).rejects.toMatchObject({
    code: 'OPTION_INVALID',
    message: /there are .*lora/,
  });
  await expect(wrong({ options: { ranc: 2 } })).rejects.toMatchObject({ code: 'OPTION_INVALID', message: /ranc/ });
  await expect(wrong({ options: { targets: 'qery' } })).rejects.toMatchObject({ message: /"qery"; near are/ });
  await expect(wrong({ options: { validation: 2 } })).rejects.toMatchObject({ message: /between 0 and 1/ });
});

test('for people: what was merged and what it changed', async () => {
  const { code, stdout } = await fewtune(['merge', 'base', 'adapter', '--out', 'people'], { cwd: folder });
  expect(code).toBe(0);
  expect(stdout).toMatch(
    /lora on 2 modules, weight 1.*logits differ by at most \d\.\de-\d on 8 texts.*saved {5}people/s,
  );
});

test('wrong input is named, exit code 2, and leaves nothing behind', async () => {
  const before = await readdir(folder);
  const data = await readTable(at('subjects.csv'));
  const tune = (options: object) => finetuneOnnx(at('base'), data, options).result;
  const cases: [() => Promise<unknown>, RegExp][] = [
    [() => merge(at('base'), at('nowhere')), /MODEL_NOT_FOUND.*nowhere/],
    [() => merge(`${at('nowhere-at-all')}/`, at('adapter')), /ENCODER_NOT_FOUND/],
    [() => merge(at('tuned'), 'tuned'), /MODEL_UNSUPPORTED.*lora changed the encoder.*base/],
    [() => merge(at('base'), at('adapter'), { weight: Number.NaN }), /OPTION_INVALID.*give a number/],
    [() => tune({ options: { targets: 'qery' } }), /OPTION_INVALID.*"qery"; near are .*query/],
    [() => tune({ name: '../x' }), /OPTION_INVALID.*name/],
    [() => tune({ options: { classifer: 'new' } }), /classifer.*There are targets/],
  ];
  for (const [work, message] of cases) {
    const error = await work().then(
      () => new Error('nothing was refused'),
      (cause: Error & { code: string }) => cause,
    );
    expect(`${'code' in error ? error.code : ''} ${error.message}`).toMatch(message);
  }
  const results = await Promise.all([
    run('merge', 'base', 'adapter', '--out', 'base'),
    run('finetune', 'base', 'subjects.csv', '--lr', '1', '--set', 'lr=2', '--out', 'x'),
  ]);
  expect(results.map(({ code, stdout }) => `${code}${stdout}`)).toEqual(['2', '2']);
  expect(results[0]!.stderr).toMatch(/OUTPUT_UNWRITABLE/);
  expect(results[1]!.stderr).toMatch(/both given/);
  expect(await readdir(folder)).toEqual(before);
});

test('Ctrl-C ends with 130 and writes nothing', async () => {
  const long = ['finetune', 'base', 'subjects.csv', '--epochs', '100000', '--set', 'patience=none', '--out', 'never'];
  const { code, stderr } = await fewtune(long, { cwd: folder, interruptAt: /validation/ });
  expect(stderr).toMatch(/interrupted: nothing was written/);
  expect(code).toBe(130);
  expect(await readdir(folder)).not.toContain('never');
});
