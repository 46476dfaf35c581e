import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  fromOnnxTensor,
  hostTensor,
  mergeLora,
  readOnnx,
  readOnnxModel,
  saveOnnx,
  toOnnxTensor,
  writeOnnx,
} from '@fewtune/engine';
import { env, pipeline } from '@huggingface/transformers';
import { afterAll, expect, test } from 'vitest';
import { readTable } from '../src/data/read-table.js';
import { asLora } from '../src/methods/peft/adapter.js';
import { applyOnnxAdapter } from '../src/methods/peft/onnx-lora.js';
import { readAdapter } from '../src/methods/peft/peft-files.js';
import { type FinetuneOnnxOptions, finetuneOnnx } from '../src/workflow/finetune-onnx.js';
import { load } from '../src/workflow/load.js';
import { subjectRows, subjectTexts, writeOnnxBase } from './onnx-base.js';

const folder = await mkdtemp(join(tmpdir(), 'fewtune-onnx-'));
afterAll(() => rm(folder, { recursive: true, force: true }));
env.allowRemoteModels = false;
env.localModelPath = folder;

const table = join(folder, 'subjects.csv');
await writeFile(table, `text,label\n${subjectRows.map(({ text, label }) => `${text},${label}`).join('\n')}\n`);
const data = await readTable(table);
const at = (name: string) => join(folder, name);

const states = await writeOnnxBase(at('states'), 'states');
/** Enough for a vocabulary of eleven words. */
const quick = { targets: ['query', 'value'], lr: 0.02, epochs: 12, patience: 'none' } as const;
const tune = (base: string, options: FinetuneOnnxOptions = {}) =>
  finetuneOnnx(base, data, { options: quick, ...options });

test('a folder of hidden states becomes a classifier, with the adapter beside it', async () => {
  const run = tune(states, { test: data });
  const stages = new Set<string>();
  let last = 0;
  for await (const { stage, fraction } of run) {
    stages.add(stage);
    expect(fraction).toBeGreaterThanOrEqual(last);
    last = fraction;
  }
  expect([...stages]).toEqual(['read', 'fit', 'evaluate']);
  const { model, adapter, head, merge, parameters } = await run.result;
  expect(merge).toMatchObject({ merged: true, texts: 24 });
  expect(merge.largestDifference).toBeGreaterThan(0); // measured, not assumed
  expect(merge.largestDifference).toBeLessThan(1e-5);
  expect(merge.accuracyAfter).toBe(merge.accuracyBefore);
  expect(merge.accuracyAfter).toBeGreaterThan(0.9);
  expect(model.report.metrics.accuracy).toBe(merge.accuracyAfter);
  const layer = 'encoder.layer.0.attention.self';
  expect(Object.keys(adapter.weights).sort()).toEqual(
    ['query', 'value'].flatMap((name) => [`${layer}.${name}.lora_A.weight`, `${layer}.${name}.lora_B.weight`]),
  );
  expect(parameters).toMatchObject({ adapter: 2 * 2 * 8 * 32, head: 3 * 32 + 3 });
  expect(head!.bias).toHaveLength(3);
  await model.save(at('tuned'));
  const predictions = await model.predict(subjectTexts);
  await model.dispose();

  const again = await load(at('tuned'));
  expect(await again.predict(subjectTexts)).toEqual(predictions);
  await again.dispose();
  const classify = await pipeline('text-classification', 'tuned', { dtype: 'fp32' });
  for (const [i, text] of subjectTexts.slice(0, 5).entries()) {
    const [found] = (await classify(text, { top_k: 1 })) as { label: string; score: number }[];
    expect(found!.label).toBe(predictions[i]!.label);
    expect(found!.score).toBeCloseTo(predictions[i]!.confidence, 4);
  }
  await classify.dispose();
});

test('the adapter is PEFT’s: read again and merged into the base it gives the same model', async () => {
  const adapter = asLora(await readAdapter(at('tuned/adapters/tuned')));
  expect(JSON.parse(await readFile(at('tuned/adapters/tuned/adapter_config.json'), 'utf8'))).toEqual({
    peft_type: 'LORA',
    task_type: null,
    base_model_name_or_path: 'states',
    revision: null,
    inference_mode: true,
    target_modules: ['query', 'value'],
    r: 8,
    lora_alpha: 16,
  });
  const file = join(states, 'onnx', 'model.onnx');
  const model = await readOnnxModel(file);
  const { tuned, values } = applyOnnxAdapter(model, adapter);
  const merged = mergeLora(tuned, values);
  const written = await readOnnxModel(at('tuned/onnx/model.onnx'));
  for (const [name, { data }] of Object.entries(merged)) {
    expect(written.values([name])[name]!.data).toEqual(data);
  }
  expect(Object.keys(merged)).toHaveLength(2);
});

test('same seed, same bytes', async () => {
  const tuneOnce = async () => {
    const { model, adapter } = await tune(states, { seed: 3 }).result;
    await model.dispose();
    return adapter;
  };
  expect(await tuneOnce()).toEqual(await tuneOnce());
});

test('a sentence vector is read as it is', async () => {
  const base = await writeOnnxBase(at('vector'), 'vector');
  const { model, merge } = await tune(base, { test: data }).result;
  expect(merge.accuracyAfter).toBeGreaterThan(0.9);
  expect(merge.largestDifference).toBeLessThan(1e-5);
  await model.dispose();
});

test('the file’s own classifier is kept where it has the labels, and replaced where not', async () => {
  const own = await writeOnnxBase(at('own'), 'logits', ['refund', 'card', 'other', 'parcel']);
  const kept = await tune(own, { test: data }).result;
  expect(kept.head).toBeUndefined();
  expect(kept.model.labels).toEqual(['refund', 'card', 'other', 'parcel']);
  expect(kept.model.report.method.details.ownClassifier).toBe(true);
  expect(kept.merge.accuracyAfter).toBeGreaterThan(0.9);
  expect(kept.merge.largestDifference).toBeLessThan(1e-5);
  await kept.model.dispose();
  const other = await writeOnnxBase(at('other'), 'logits', ['good', 'bad']);
  const replaced = await tune(other, { test: data }).result;
  expect(replaced.head!.bias).toHaveLength(3);
  expect(replaced.model.labels).toEqual(['card', 'parcel', 'refund']);
  expect(replaced.merge.accuracyAfter).toBeGreaterThan(0.9);
  await replaced.model.save(at('replaced'));
  await replaced.model.dispose();
  const written = readOnnx(await readFile(at('replaced/onnx/model.onnx')));
  expect(written.graph.initializer!.map(({ name }) => name)).not.toContain('top.weight');
  expect(written.graph.output.map(({ name }) => name)).toEqual(['logits']);
});

test('other names, int32, token types and a fixed length are filled in as the file wants them', async () => {
  const base = at('odd');
  await cp(states, base, { recursive: true });
  const bytes = await readFile(join(states, 'onnx', 'model.onnx'));
  const model = readOnnx(bytes);
  const input = (name: string) => ({
    name,
    type: { tensorType: { elemType: 6, shape: { dim: [{ dimParam: `n_${name}` }, { dimValue: 12 }] } } },
  });
  const toInt64 = (from: string, to: string) => ({
    opType: 'Cast',
    input: [from],
    output: [to],
    attribute: [{ name: 'to', type: 2, i: 7 }],
  });
  const graph = {
    ...model.graph,
    input: ['ids', 'mask', 'segment_ids'].map(input),
    node: [toInt64('ids', 'input_ids'), toInt64('mask', 'attention_mask'), ...model.graph.node],
  };
  await writeFile(join(base, 'onnx', 'model.onnx'), writeOnnx({ ...model, graph }));
  const { model: tuned, merge } = await tune(base, { test: data }).result;
  expect(merge.accuracyAfter).toBeGreaterThan(0.9);
  await tuned.save(at('odd-tuned'));
  expect(await tuned.predict(['my card'])).toEqual((await tuned.predict([...subjectTexts, 'my card'])).slice(-1));
  expect(readOnnx(await readFile(at('odd-tuned/onnx/model.onnx'))).graph.input.map(({ name }) => name)).toEqual([
    'input_ids',
    'attention_mask',
    'token_type_ids',
  ]);
  await tuned.dispose();
});

test('beside quantised weights adapters stay nodes, and the report says so', async () => {
  const base = at('int8');
  await cp(states, base, { recursive: true });
  const file = join(base, 'onnx', 'model.onnx');
  const name = 'encoder.layer.0.intermediate.dense.weight';
  const plain = readOnnx(await readFile(file));
  const tensor = fromOnnxTensor(plain.graph.initializer!.find((one) => one.name === name)!);
  const scale = Math.max(...(tensor.data as Float32Array).map(Math.abs)) / 127;
  const int8 = Int8Array.from(tensor.data as Float32Array, (value) => Math.round(value / scale));
  const graph = {
    ...plain.graph,
    node: [{ opType: 'DequantizeLinear', input: ['int8', 'scale'], output: [name] }, ...plain.graph.node],
    initializer: [
      ...plain.graph.initializer!.filter((one) => one.name !== name),
      toOnnxTensor('int8', { dtype: 'int8', shape: tensor.shape, data: int8 }),
      toOnnxTensor('scale', hostTensor('float32', [], [scale])),
    ],
  };
  await writeFile(file, writeOnnx({ ...plain, graph }));
  const { model, merge, adapter } = await tune(base, {
    test: data,
    options: { ...quick, targets: 'int8' },
  }).result;
  expect(merge).toMatchObject({ merged: false, texts: 24 });
  expect(merge.largestDifference).toBeLessThan(1e-5);
  expect(Object.keys(adapter.weights)[0]).toBe('int8.lora_A.weight'); // the file tells no more of it
  await model.dispose();
});

test('weights beside the file are read from its folder', async () => {
  const base = at('beside');
  await cp(states, base, { recursive: true });
  const file = join(base, 'onnx', 'model.onnx');
  await saveOnnx(file, await readOnnxModel(file), {}, { external: 'beside' });
  const { model, merge } = await tune(base).result;
  expect(merge.largestDifference).toBeLessThan(1e-5);
  await model.dispose();
  await cp(`${file}.data`, at('elsewhere.data'));
  await rm(`${file}.data`);
  await expect(tune(base).result).rejects.toMatchObject({
    code: 'MODEL_CORRUPT',
    message: /not in the model's folder/,
  });
});

test('targets that mean nothing list near names', async () => {
  const run = tune(states, { options: { targets: ['query', 'valu'] } });
  await expect(run.result).rejects.toMatchObject({
    code: 'OPTION_INVALID',
    message: expect.stringMatching(/"valu"; near are encoder\.layer\.\*\.attention\.self\.value/),
  });
  await expect(tune(states, { options: { target: 'query' } }).result).rejects.toMatchObject({
    code: 'OPTION_INVALID',
    message: expect.stringMatching(/target.*There are targets, rank/),
  });
});

test('an operator that cannot be differentiated is named with its node and what to do', async () => {
  const base = at('loop');
  await cp(states, base, { recursive: true });
  const file = join(base, 'onnx', 'model.onnx');
  const model = readOnnx(await readFile(file));
  const node = model.graph.node.map((one, i) => (i === 3 ? { ...one, opType: 'Bernoulli', name: 'odd_one' } : one));
  await writeFile(file, writeOnnx({ ...model, graph: { ...model.graph, node } }));
  await expect(tune(base).result).rejects.toMatchObject({
    code: 'MODEL_UNSUPPORTED',
    message: expect.stringMatching(
      /onnx.*cannot be trained.\n.*node "odd_one", operator ai\.onnx\.Bernoulli: .*export the model/,
    ),
  });
});

test('what is no text model, cut short, or without a tokenizer is said so', async () => {
  const base = at('bad');
  await cp(states, base, { recursive: true });
  const file = join(base, 'onnx', 'model.onnx');
  const bytes = await readFile(file);
  await writeFile(file, bytes.subarray(0, bytes.length / 2));
  await expect(tune(base).result).rejects.toMatchObject({ code: 'MODEL_CORRUPT' });
  const model = readOnnx(new Uint8Array(bytes));
  const images = {
    ...model.graph,
    input: model.graph.input.map((one, i) => (i === 0 ? { ...one, name: 'pixels' } : one)),
  };
  await writeFile(
    file,
    writeOnnx({
      ...model,
      graph: {
        ...images,
        node: model.graph.node.map((one) => ({
          ...one,
          input: one.input.map((name) => (name === 'input_ids' ? 'pixels' : name)),
        })),
      },
    }),
  );
  await expect(tune(base).result).rejects.toMatchObject({ code: 'MODEL_UNSUPPORTED', message: /no input_ids/ });
  await writeFile(file, bytes);
  await rm(join(base, 'tokenizer.json'));
  await expect(tune(base).result).rejects.toMatchObject({ code: 'MODEL_NOT_FOUND', message: /tokenizer/ });
  const { model: tuned } = await tune(base, { tokenizer: states }).result;
  await tuned.dispose();
  await expect(tune(at('nothing')).result).rejects.toMatchObject({ code: 'MODEL_NOT_FOUND' });
  await expect(tune(states, { output: 'logits' }).result).rejects.toMatchObject({
    code: 'OPTION_INVALID',
    message: /last_hidden_state/,
  });
});

test('an adapter for another model is refused: by fingerprint, names and sizes', async () => {
  const adapter = asLora(await readAdapter(at('tuned/adapters/tuned')));
  const model = await readOnnxModel(join(states, 'onnx', 'model.onnx'));
  expect(() => applyOnnxAdapter(model, adapter, 'another')).toThrow(/fingerprint/);
  const [name, ...others] = Object.entries(adapter.weights);
  const renamed = Object.fromEntries(
    Object.entries(adapter.weights).map(([key, value]) => [key.replace('layer.0', 'layer.7'), value]),
  );
  expect(() => applyOnnxAdapter(model, { ...adapter, weights: renamed })).toThrow(
    /layer\.7.*near are encoder\.layer\.0/,
  );
  const { shape, data } = name![1];
  const narrow = { ...name![1], shape: [shape[0]!, 16], data: (data as Float32Array).slice(0, shape[0]! * 16) };
  const weights = Object.fromEntries([[name![0], narrow], ...others]);
  expect(() => applyOnnxAdapter(model, { ...adapter, weights })).toThrow(/from 16 to 32, there it goes from 32 to 32/);
});

test('an interrupted run says so', async () => {
  const controller = new AbortController();
  const run = tune(states, { signal: controller.signal });
  const listen = async () => {
    for await (const { stage } of run) if (stage === 'fit') controller.abort();
  };
  await expect(listen()).rejects.toMatchObject({ code: 'INTERRUPTED' });
  await expect(run.result).rejects.toMatchObject({ code: 'INTERRUPTED' });
});
