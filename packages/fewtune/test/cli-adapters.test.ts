import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type HostTensor, hostTensor } from '@fewtune/engine';
import { loadEncoder } from '@fewtune/models';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createRandom } from '../src/data/random.js';
import { readTable } from '../src/data/read-table.js';
import { type LoraAdapter, mergeAdapter } from '../src/methods/peft/adapter.js';
import { diffAdapters } from '../src/methods/peft/diff-adapters.js';
import { startLora } from '../src/methods/peft/lora-start.js';
import { readAdapter, writeAdapter } from '../src/methods/peft/peft-files.js';
import { load } from '../src/workflow/load.js';
import { addAdapter, readAdapters, removeAdapter } from '../src/workflow/model-adapters.js';
import { train } from '../src/workflow/train.js';
import { subjectRows, subjectTexts } from './onnx-base.js';
import { fewtune } from './run-cli.js';
import { writeTinyEncoder } from './tiny-encoder.js';

let folder: string;
let encoder: Awaited<ReturnType<typeof loadEncoder>>;
const at = (name: string) => join(folder, name);
const run = (...args: string[]) => fewtune(['adapters', ...args, '--json'], { cwd: folder });

function lora(seed: number, rank: number, targets: string | string[] = 'all-linear'): LoraAdapter {
  const random = createRandom(seed);
  const { adapter } = startLora(encoder.weights, { rank, alpha: 6, targets }, random);
  const filled = ({ shape, data }: HostTensor) =>
    hostTensor(
      'float32',
      shape,
      Float32Array.from(data as Float32Array, () => 0.2 * random.gaussian()),
    );
  return {
    ...adapter,
    base: { id: 'encoder', fingerprint: encoder.fingerprint },
    weights: Object.fromEntries(Object.entries(adapter.weights).map(([name, value]) => [name, filled(value)])),
  };
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fewtune-cli-adapters-'));
  await writeFile(
    at('subjects.csv'),
    `text,label\n${subjectRows.map(({ text, label }) => `${text},${label}`).join('\n')}\n`,
  );
  await writeTinyEncoder(at('encoder'), subjectTexts);
  encoder = await loadEncoder(at('encoder'));
  const model = await train(await readTable(at('subjects.csv')), { method: 'linear', encoder: at('encoder') }).result;
  await model.save(at('model'));
  await model.dispose();
  await writeAdapter(at('first'), lora(1, 4));
  await writeAdapter(at('second'), lora(2, 2, ['query', 'value']));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test('add, list, diff, remove: the folder stays a whole model', async () => {
  const before = await load(at('model'));
  const answers = await before.predict(subjectTexts);
  await before.dispose();
  expect(await readAdapters(at('model'))).toEqual([]);
  const added = await run('add', 'model', 'first');
  expect(added.stderr).toBe('');
  const first = {
    name: 'first',
    method: 'lora',
    rank: 4,
    modules: 6,
    parameters: 4 * (4 * 64 + 2 * 96),
    bytes: expect.any(Number),
    base: 'encoder',
    labels: null,
  };
  expect(JSON.parse(added.stdout)).toEqual({ model: 'model', added: first });
  await addAdapter(at('model'), 'b.2', at('second'));
  const { stdout } = await fewtune(['adapters', 'list', 'model'], { cwd: folder });
  expect(stdout).toMatch(/^name +kind +rank.*\n.*\nb\.2 +lora +2 +2 +256 +\d+ KiB +encoder/);
  const { adapters } = JSON.parse((await run('list', 'model')).stdout);
  expect(adapters).toEqual([{ ...first, name: 'b.2', rank: 2, modules: 2, parameters: 2 * 2 * 64 }, first]);
  expect(await readdir(at('model/adapters'))).toEqual(['b.2', 'first']);
  expect((await readAdapters(at('model')))[1]!.adapter).toEqual(await readAdapter(at('first')));

  const again = await load(at('model'));
  expect(await again.predict(subjectTexts)).toEqual(answers);
  await again.save(at('copy'));
  await again.dispose();
  expect(await readdir(at('copy/adapters'))).toEqual(['b.2', 'first']);

  const diff = JSON.parse((await run('diff', 'model', 'first', 'b.2')).stdout);
  expect(diff).toMatchObject({ model: 'model', a: 'first', b: 'b.2', of: 'updates' });
  expect(diff.places).toHaveLength(6);
  expect(diff.config.r).toEqual([4, 2]);
  expect(JSON.parse((await run('remove', 'model', 'first')).stdout)).toEqual({ model: 'model', removed: 'first' });
  expect(await readdir(at('model/adapters'))).toEqual(['b.2']);
});

test('a diff is that of the updates, multiplied out', () => {
  const [a, b] = [lora(1, 4), lora(2, 2, ['query', 'value'])];
  const { places, whole } = diffAdapters(a, b);
  const update = (adapter: LoraAdapter, name: string) => {
    const { data } = mergeAdapter(encoder.weights, adapter)[`${name}.weight`]!;
    return (data as Float32Array).map((value, i) => value - (encoder.weights[`${name}.weight`]!.data[i] as number));
  };
  const length = (values: Float32Array) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
  const name = 'encoder.layer.0.attention.self.value';
  const [x, y] = [update(a, name), update(b, name)];
  const found = places.find((place) => place.name === name)!;
  expect(found.a).toBeCloseTo(length(x), 4);
  expect(found.b).toBeCloseTo(length(y), 4);
  expect(found.difference).toBeCloseTo(length(x.map((value, i) => value - y[i]!)), 4);
  expect(found.cosine).toBeCloseTo(x.reduce((sum, value, i) => sum + value * y[i]!, 0) / length(x) / length(y), 4);
  const alone = places.find((place) => place.name.endsWith('key'))!;
  expect(alone).toEqual({ name: alone.name, a: expect.any(Number) });
  expect(whole.a).toBeCloseTo(Math.hypot(...places.map((place) => place.a ?? 0)), 6);
  const same = diffAdapters(a, a);
  expect(same.whole.cosine).toBeCloseTo(1, 9);
  expect(same.whole.difference).toBeCloseTo(0, 4);
  expect(same.config).toEqual({});
});

test('adapters of another encoder, unknown names and damaged files are refused, and the folder stays', async () => {
  const manifest = await readFile(at('model/fewtune.json'));
  await writeAdapter(at('foreign'), { ...lora(3, 2), base: { id: 'elsewhere', fingerprint: 'f'.repeat(64) } });
  const renamed = Object.entries(lora(3, 2).weights).map(([name, value]) => [
    name.replace('layer.0', 'layer.9'),
    value,
  ]);
  await writeAdapter(at('deeper'), { ...lora(3, 2), base: {}, weights: Object.fromEntries(renamed) });
  const narrow = startLora(
    { 'encoder.layer.0.attention.self.query.weight': hostTensor('float32', [16, 16], new Float32Array(256).fill(1)) },
    { rank: 2, alpha: 2, targets: 'query' },
    createRandom(1),
  ).adapter;
  await writeAdapter(at('narrow'), narrow);
  await cp(at('first'), at('truncated'), { recursive: true });
  const bytes = await readFile(at('first/adapter_model.safetensors'));
  await writeFile(at('truncated/adapter_model.safetensors'), bytes.subarray(0, bytes.length - 10));
  await cp(at('first'), at('newer'), { recursive: true });
  const config = JSON.parse(await readFile(at('first/adapter_config.json'), 'utf8'));
  await writeFile(at('newer/adapter_config.json'), JSON.stringify({ ...config, use_something_new: true }));
  const add = (from: string, name = from) => addAdapter(at('model'), name, at(from));
  const cases: [() => Promise<unknown>, RegExp][] = [
    [() => add('foreign'), /ADAPTER_MISMATCH.*elsewhere.*fingerprint/],
    [() => add('deeper'), /ADAPTER_MISMATCH.*layer\.9.*near are encoder\.layer\.0/],
    [() => add('narrow'), /ADAPTER_MISMATCH.*\[16, 16\], there it is \[32, 32\]/],
    [() => add('truncated'), /SAFETENSORS_INVALID.*truncated/],
    [() => add('newer'), /MODEL_UNSUPPORTED.*"use_something_new" is true/],
    [() => add('second', 'b.2'), /OPTION_INVALID.*already/],
    [() => add('second', '../out'), /OPTION_INVALID.*name/],
    [() => add('encoder'), /MODEL_NOT_FOUND.*no PEFT adapter/],
    [() => addAdapter(at('encoder'), 'first', at('first')), /MODEL_NOT_FOUND/],
    [() => removeAdapter(at('model'), 'b3'), /ADAPTER_UNKNOWN.*near are b\.2/],
  ];
  for (const [work, message] of cases) {
    const error = await work().then(
      () => new Error('nothing was refused'),
      (cause: Error & { code: string }) => cause,
    );
    expect(`${'code' in error ? error.code : ''} ${error.message}`).toMatch(message);
  }
  const { code, stdout, stderr } = await run('diff', 'model', 'b.2', 'b3');
  expect(stderr).toMatch(/error \[ADAPTER_UNKNOWN\] model has no adapter "b3"; near are b\.2/);
  expect(code).toBe(2);
  expect(stdout).toBe('');
  expect(await readFile(at('model/fewtune.json'))).toEqual(manifest);
  const file = at('model/adapters/b.2/adapter_model.safetensors');
  const whole = await readFile(file);
  whole[whole.length - 3]! ^= 1;
  await writeFile(file, whole);
  await expect(readAdapters(at('model'))).rejects.toMatchObject({
    code: 'MODEL_CORRUPT',
    message: expect.stringContaining('adapters/b.2'),
  });
});
