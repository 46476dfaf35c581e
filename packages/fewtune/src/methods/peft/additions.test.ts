import {
  compile,
  constant,
  constantRate,
  type HostTensor,
  mul,
  type Named,
  sgd,
  sum,
  type Tensor,
  trainStep,
} from '@fewtune/engine';
import { type Encoder, encode, encodeWith, packBatch, packedSpecs, packingOf, readSafetensors } from '@fewtune/models';
import { describe, expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { withoutPooler } from './adaptation.js';
import { type AdaptationName, adaptationOf } from './adaptations.js';
import { type Adapter, adaptEncoder, applyAdapter, mergeAdapter } from './adapter.js';
import type { AddedAdapter } from './additions.js';
import { adapterFiles, adapterFromFiles, readAdapter } from './peft-files.js';
import { finishedReft, orthonormalRows, reftHooks } from './reft-layer.js';
import { partOfAdapter } from './shared-part.js';
import {
  adapterFolder,
  constants,
  hiddenStates,
  largestDifference,
  tinyConfig,
  tinyEncoder,
  tinyInputs,
  tinyWeights,
} from './tiny-bert.fixture.js';

// By PyTorch: test/fixtures/peft/make-additions.py, and by PEFT: make-adapters.py.
const given = (await readSafetensors(adapterFolder('additions.safetensors'))).tensors;
const byPeft = (await readSafetensors(adapterFolder('expected.safetensors'))).tensors;
const under = (word: string) =>
  Object.fromEntries(
    Object.entries(given).flatMap(([name, value]) =>
      name.startsWith(`${word}/`) ? [[name.slice(word.length + 1), value]] : [],
    ),
  );
const numbers = (tensor: HostTensor) => tensor.data as Float32Array;

const weights = withoutPooler(tinyWeights);
const encoder = { ...tinyEncoder, weights, tokenizer: { ...tinyEncoder.tokenizer, maxLength: 13 } };

const adapters: Record<string, AddedAdapter> = {
  ...Object.fromEntries(
    (['houlsby', 'pfeiffer', 'parallel'] as const).map((style) => [
      style,
      {
        method: 'bottleneck',
        style,
        activation: style === 'houlsby' ? 'gelu' : 'relu',
        scale: 4,
        weights: under(style),
      },
    ]),
  ),
  ...Object.fromEntries(
    ['all', 'f1+l1'].map((positions) => [
      `loreft-${positions}`,
      { method: 'loreft', positions, weights: finishedReft(under(`loreft-${positions}`)) },
    ]),
  ),
};

/** Last hidden states of the golden tokens, packed, by an encoder with an addition. */
async function packedStates(adapted: Encoder): Promise<Float32Array> {
  const mask = tinyInputs.attentionMask.data as BigInt64Array;
  const ids = [0, 1, 2].map((row) =>
    Array.from(tinyInputs.inputIds.data as BigInt64Array, Number).filter(
      (_, at) => Math.floor(at / 9) === row && mask[at] === 1n,
    ),
  );
  const program = await compile(
    (batch) => encodeWith(adapted, constants(adapted.weights), batch, { packing: packingOf(batch) }),
    packedSpecs,
    { threads: 1 },
  );
  const { data } = await program.run(packBatch(ids, 0));
  await program.dispose();
  return data as Float32Array;
}

const beside = (adapter: Adapter) =>
  hiddenStates(weights, (traced) => applyAdapter(adapter, traced, constants({ ...adapter.weights, ...adapter.saved })));

describe.each(Object.keys(adapters))('%s', (name) => {
  const adapter = adapters[name]!;
  const states = numbers(given[`${name}.states`]!);

  test('computes what PyTorch computes, beside the encoder and as a part of it, padded and packed', async () => {
    expect(largestDifference(await beside(adapter), states)).toBeLessThan(2e-5); // values reach about 3
    expect(largestDifference(await packedStates(adaptEncoder(encoder, adapter)), states)).toBeLessThan(2e-5);
    expect(largestDifference(await hiddenStates(weights), states)).toBeGreaterThan(1e-2);
  });

  test('has the gradients of PyTorch', async () => {
    const spec = { dtype: 'int64', shape: [3, 9] } as const;
    const raw = under(name);
    const step = await trainStep({
      params: raw,
      batch: { inputIds: spec, attentionMask: spec } as const,
      loss: (params, { batch }) => {
        const { linear, hooks } =
          adapter.method === 'loreft'
            ? { linear: undefined, hooks: reftHooks(adapter.positions, params, orthonormalRows) }
            : applyAdapter(adapter, {}, params);
        return sum(mul(encode(tinyConfig, constants(weights), batch, { linear, hooks }), constant(given.weight!)));
      },
      optimizer: sgd(),
      schedule: constantRate(1),
      threads: 1,
    });
    await step.run(tinyInputs);
    const after = await step.params();
    await step.dispose();
    for (const [key, wanted] of Object.entries(under(`${name}.grad`))) {
      const size = Math.max(...numbers(wanted).map(Math.abs));
      const from = numbers(raw[key]!);
      const off = numbers(wanted).map((g, i) => Math.abs(from[i]! - numbers(after[key]!)[i]! - g) / size);
      expect(Math.max(...off), key).toBeLessThan(2e-4);
    }
  });

  test('is kept in files of our own without loss, and damage is found', () => {
    const whole = { ...adapter, base: { id: 'tiny', fingerprint: 'f' }, saved: { 'classifier.bias': given.weight! } };
    const files = adapterFiles(whole);
    expect([...files.keys()]).toEqual(['fewtune_adapter.json', 'fewtune_adapter.safetensors']);
    expect(adapterFromFiles(files)).toEqual(whole);
    expect(adapterFiles(adapterFromFiles(files))).toEqual(files);
    const changed = (edit: (config: Record<string, unknown>) => void) => {
      const config = JSON.parse(new TextDecoder().decode(files.get('fewtune_adapter.json'))) as Record<string, unknown>;
      edit(config);
      return new Map(files).set('fewtune_adapter.json', new TextEncoder().encode(JSON.stringify(config)));
    };
    expect(() => adapterFromFiles(changed((c) => Object.assign(c, { version: 2 })))).toThrow(/version 2.*Update/);
    expect(() => adapterFromFiles(changed((c) => Object.assign(c, { dropout: 1 })))).toThrow(/"dropout"/);
    const { [Object.keys(adapter.weights)[0]!]: _, ...fewer } = adapter.weights;
    expect(() => adapterFromFiles(adapterFiles({ ...adapter, weights: fewer } as AddedAdapter))).toThrow(
      expect.objectContaining({ code: 'MODEL_CORRUPT' }),
    );
  });

  test('a part of it changes that part', async () => {
    const half = partOfAdapter(adapter, weights, 0.5)!;
    const none = partOfAdapter(adapter, weights, 0)!;
    expect(largestDifference(await beside(none), await hiddenStates(weights))).toBeLessThan(1e-5);
    expect(largestDifference(await beside(half), states)).toBeGreaterThan(1e-2);
  });
});

describe.each(['prompt', 'prefix'])('the %s that Python PEFT wrote', (name) => {
  test('computes what Python computed, padded and packed', async () => {
    const adapter = await readAdapter(adapterFolder(name));
    const wanted = numbers(byPeft[name]!);
    expect(largestDifference(await beside(adapter), wanted)).toBeLessThan(1e-5);
    expect(largestDifference(await packedStates(adaptEncoder(encoder, adapter)), wanted)).toBeLessThan(1e-5);
    expect(largestDifference(await hiddenStates(weights), wanted)).toBeGreaterThan(1e-2);
  });
});

test('what cannot be merged is refused, and an encoder takes one addition', async () => {
  const adapter = adapters.pfeiffer!;
  expect(() => mergeAdapter(weights, adapter)).toThrow(expect.objectContaining({ code: 'MODEL_UNSUPPORTED' }));
  const adapted = adaptEncoder(encoder, adapter);
  expect(adapted.fingerprint).not.toBe(adaptEncoder(encoder, { ...adapter, scale: 2 } as AddedAdapter).fingerprint);
  expect(() => adaptEncoder(adapted, adapters.parallel!)).toThrow(/has an adapter already/);
  expect(partOfAdapter(await readAdapter(adapterFolder('prompt')), weights, 0.5)).toBeUndefined();
});

test('one for another encoder is refused by what does not fit', async () => {
  const mismatch = (message: RegExp) =>
    expect.objectContaining({ code: 'ADAPTER_MISMATCH', message: expect.stringMatching(message) });
  const renamed = (adapter: AddedAdapter, from: string, to: string) => ({
    ...adapter,
    weights: Object.fromEntries(Object.entries(adapter.weights).map(([key, value]) => [key.replace(from, to), value])),
  });
  expect(() => adaptEncoder(encoder, renamed(adapters.pfeiffer!, 'layer.1.', 'layer.7.'))).toThrow(
    mismatch(/encoder.layer.7.output.dense, which is not there/),
  );
  expect(() => adaptEncoder(encoder, renamed(adapters['loreft-all']!, 'layer.1.', 'layer.7.'))).toThrow(
    mismatch(/after encoder.layer.7, which is not there/),
  );
  const prompt = await readAdapter(adapterFolder('prompt'));
  const table = prompt.weights.prompt_embeddings!;
  const narrow = { ...table, shape: [6, 8] };
  expect(() => adaptEncoder(encoder, { ...prompt, weights: { prompt_embeddings: narrow } } as Adapter)).toThrow(
    mismatch(/made for 8 numbers a token, there are 16/),
  );
  const prefix = await readAdapter(adapterFolder('prefix'));
  expect(() => adaptEncoder(encoder, { ...prefix, layers: 1 } as Adapter)).toThrow(mismatch(/prompt_embeddings/));
});

const ids = [
  [2, 5, 3],
  [2, 9, 8, 7, 3],
];
const kinds: [AdaptationName, object][] = [
  ['bottleneck', { style: 'houlsby', size: 3, sizePattern: { 'layer.1.output.dense': 2 }, modulesToSave: 'LayerNorm' }],
  ['bottleneck', { style: 'parallel', targets: '*.layer.1.*' }],
  ['loreft', { rank: 2, rankPattern: { 'layer.1': 3 }, positions: 'f1+l2' }],
  ['loreft', { targets: 'layer.1' }],
];

test.each(kinds)('%s %o begins as the encoder it is made for', async (name, options) => {
  const { params, adapter } = await adaptationOf(name, options)(encoder, ids, createRandom(1));
  expect(largestDifference(await beside(adapter!(params)), await hiddenStates(weights))).toBeLessThan(1e-5);
});

test('sizes, ranks, targets and saved modules are those that were asked for; others are refused', async () => {
  const params = async (name: AdaptationName, options: object) =>
    Object.entries((await adaptationOf(name, options)(encoder, ids, createRandom(1))).params).map(
      ([key, { shape }]) => `${key} ${shape.join('x')}`,
    );
  expect(
    await params('bottleneck', {
      style: 'houlsby',
      size: 3,
      targets: '*.layer.1.*',
      sizePattern: { 'layer.1.output.dense': 2 },
    }),
  ).toEqual([
    'encoder.layer.1.attention.output.dense.adapter_down.weight 3x16',
    'encoder.layer.1.attention.output.dense.adapter_down.bias 3',
    'encoder.layer.1.attention.output.dense.adapter_up.weight 16x3',
    'encoder.layer.1.attention.output.dense.adapter_up.bias 16',
    'encoder.layer.1.output.dense.adapter_down.weight 2x16',
    'encoder.layer.1.output.dense.adapter_down.bias 2',
    'encoder.layer.1.output.dense.adapter_up.weight 16x2',
    'encoder.layer.1.output.dense.adapter_up.bias 16',
  ]);
  expect(await params('loreft', { rank: 2, targets: 'layer.1', modulesToSave: 'embeddings.LayerNorm' })).toEqual([
    'encoder.layer.1.reft_R 2x16',
    'encoder.layer.1.reft_W 2x16',
    'encoder.layer.1.reft_b 2',
    'embeddings.LayerNorm.bias 16',
    'embeddings.LayerNorm.weight 16',
  ]);
  expect(await params('prompt', { virtualTokens: 4 })).toEqual(['prompt_embeddings 4x16']);
  expect(await params('prefix', { virtualTokens: 4, projection: 5 })).toHaveLength(5);
  await expect(params('bottleneck', { targets: 'query' })).rejects.toThrow(
    /pfeiffer adapter can stand at is named "query"/,
  );
  await expect(params('loreft', { targets: 'layer.9' })).rejects.toThrow(/no layer of this encoder is named "layer.9"/);
  await expect(params('loreft', { positions: 'm2' })).rejects.toThrow(/f1\+l1/);
  await expect(params('loreft', { rank: 17 })).rejects.toThrow(/states have 16/);
  await expect(params('prompt', { virtualTokens: 12 })).rejects.toThrow(/leave 4 of 16 positions/);
});

test('a prefix with a projection is kept as the table that it made', async () => {
  const {
    params,
    hooks,
    adapter,
    ids: cut,
  } = await adaptationOf('prefix', { virtualTokens: 3, projection: 5 })(
    encoder,
    [[2, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 3]],
    createRandom(1),
  );
  expect(cut).toEqual([[2, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 3]]); // 16 positions less 3, the closing token kept
  const training = await hiddenStates(weights, (traced) => ({
    weights: traced,
    hooks: hooks!(constants(params) as Named<Tensor>, {}),
  }));
  expect(largestDifference(training, await beside(adapter!(params)))).toBeLessThan(1e-5);
  expect(largestDifference(training, await hiddenStates(weights))).toBeGreaterThan(1e-3);
});
