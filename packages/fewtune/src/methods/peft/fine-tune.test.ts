import { compile, constant, type HostTensor } from '@fewtune/engine';
import { loadEncoder, padBatch, SentenceEmbedder } from '@fewtune/models';
import { describe, expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { CachedFeatures } from '../features.js';
import type { FitContext, Labelled } from '../method.js';
import { adaptEncoder } from './adapter.js';
import { bottleneck } from './bottleneck.js';
import { dropTokens } from './contrastive-stage.js';
import { full } from './full.js';
import { lora } from './lora.js';
import { loreft } from './loreft.js';
import { prefix } from './prefix.js';
import { prompt } from './prompt.js';

const encoder = await loadEncoder();
const features = new CachedFeatures(encoder, { cache: false });
const context: FitContext = { encoder: async () => encoder, features: async () => features, seed: 7 };

const classes = ['lost_parcel', 'new_card', 'refund'];
const examples: [string, number][] = [
  ['where is my package', 0],
  ['the parcel never came', 0],
  ['delivery has not arrived yet', 0],
  ['I need another card', 1],
  ['please send me a replacement card', 1],
  ['order a second card', 1],
  ['give me my money back', 2],
  ['I want to return this and be paid', 2],
  ['how do I get reimbursed', 2],
];
const data: Labelled = {
  texts: examples.map(([text]) => text),
  labels: Int32Array.from(examples, ([, label]) => label),
  classes,
};
const asked = ['my shipment is missing', 'can I have one more card', 'pay me back please'];

/** Whole weights are compared as bytes: element by element takes a test runner minutes. */
const sameBytes = (a: HostTensor, b: HostTensor) => Buffer.from(a.data.buffer).equals(Buffer.from(b.data.buffer));

const argMax = (logits: Float32Array, row: number) => {
  const own = logits.subarray(row * classes.length, (row + 1) * classes.length);
  return own.indexOf(Math.max(...own));
};

describe.each([
  ['lora', lora, { ...lora.defaults, steps: 6, tokenDropout: 0 }],
  ['full', full, { ...full.defaults, steps: 6, tokenDropout: 0 }],
] as const)('%s', (_, method, options) => {
  test('learns, is reproducible from its seed, and changes the encoder', async () => {
    const losses: number[] = [];
    const onProgress = (_: number, metrics: Readonly<Record<string, number>>) => {
      if (metrics.step !== undefined) losses.push(metrics.loss!);
    };
    const fitted = await method.fit(data, options as never, { ...context, onProgress });
    const again = await method.fit(data, options as never, context);
    const logits = await fitted.logits(asked);
    expect(asked.map((_, row) => argMax(logits, row))).toEqual([0, 1, 2]);
    expect(await again.logits(asked)).toEqual(logits);
    expect(losses).toHaveLength(6);
    expect(losses.at(-1)!).toBeLessThan(losses[0]!);
    const { weights } = await fitted.graph();
    const name = 'encoder.layer.5.attention.self.query.weight';
    expect(sameBytes(weights[name]!, encoder.weights[name]!)).toBe(false);
    await fitted.dispose?.();
    await again.dispose?.();
  });

  test('with interpolation 0 the encoder stays as it was', async () => {
    const fitted = await method.fit(data, { ...options, steps: 1, interpolation: 0 } as never, context);
    const { weights } = await fitted.graph();
    for (const [name, weight] of Object.entries(weights)) {
      if (!name.startsWith('classifier.')) expect(sameBytes(weight, encoder.weights[name]!), name).toBe(true);
    }
    await fitted.dispose?.();
  });

  test('stops when asked to, and says so', async () => {
    const controller = new AbortController();
    const stopped = method.fit(
      data,
      options as never,
      {
        ...context,
        signal: controller.signal,
        onProgress: (_, { step }) => step === 2 && controller.abort(),
      } as FitContext,
    );
    await expect(stopped).rejects.toMatchObject({ code: 'INTERRUPTED' });
  });
});

test('lora with DoRA, PiSSA, rsLoRA, LoRA+ and a pattern of ranks learns too', async () => {
  const options = lora.schema.parse({
    steps: 4,
    tokenDropout: 0,
    targets: ['*.layer.4.*.query', '*.layer.5.*.query', '*.layer.5.*.value'],
    dora: true,
    init: 'pissa',
    rsLora: true,
    loraPlus: 4,
    rankPattern: { 'layer.5.attention.self.query': 4 },
  });
  const fitted = await lora.fit(data, options, context);
  const logits = await fitted.logits(asked);
  expect(asked.map((_, row) => argMax(logits, row))).toEqual([0, 1, 2]);
  // Two layers with rank 8, one with 4, and three magnitudes.
  expect(fitted.details.trainableParameters).toBe(768 * (8 + 8 + 4) + 3 * 384);
  await fitted.dispose?.();
});

test.each([
  ['bottleneck', bottleneck, { style: 'parallel', lr: 3e-3 }, 6 * (2 * 32 * 384 + 32 + 384)],
  ['loreft', loreft, { positions: 'f1+l1', lr: 3e-3 }, 6 * (2 * 8 * 384 + 8)],
  ['prefix', prefix, { virtualTokens: 4 }, 4 * 12 * 384],
  ['prompt', prompt, { virtualTokens: 4 }, 4 * 384],
] as const)('%s learns, and the model that is saved computes it', async (_, method, options, parameters) => {
  const losses: number[] = [];
  const onProgress = (_: number, metrics: Readonly<Record<string, number>>) => {
    if (metrics.step !== undefined) losses.push(metrics.loss!);
  };
  const parsed = method.schema.parse({ steps: 8, tokenDropout: 0, ...options });
  const fitted = await method.fit(data, parsed as never, { ...context, onProgress });
  expect(losses.at(-1)!).toBeLessThan(losses[0]!);
  expect(fitted.details.trainableParameters).toBe(parameters);
  const logits = await fitted.logits(asked);
  const { weights, forward } = await fitted.graph();
  const ids = { dtype: 'int64', shape: ['batch', 'seq'] } as const;
  const traced = Object.fromEntries(Object.entries(weights).map(([name, value]) => [name, constant(value, name)]));
  const program = await compile((inputs) => forward(traced, inputs).logits, { inputIds: ids, attentionMask: ids });
  const rows = asked.map((text) => encoder.tokenizer.encode(text));
  const { data: saved } = await program.run(padBatch(rows, encoder.tokenizer.padId));
  await program.dispose();
  expect(Math.max(...logits.map((value, i) => Math.abs(value - (saved[i] as number))))).toBeLessThan(1e-3);
  // The adapter alone, over the encoder as it was, is what the head was fitted on.
  await using again = await SentenceEmbedder.create(adaptEncoder(encoder, fitted.adapter!));
  await using before = await SentenceEmbedder.create(encoder);
  const [tuned, plain] = [await again.embed(data.texts), await before.embed(data.texts)];
  const off = (a: Float32Array) => Math.max(...a.map((value, i) => Math.abs(value - fitted.support!.features[i]!)));
  expect(off(tuned)).toBeLessThan(1e-4);
  expect(off(plain)).toBeGreaterThan(1e-3);
  await fitted.dispose?.();
});

test('a learning rate that is far too high is named as the cause', async () => {
  const options = { ...full.defaults, steps: 20, lr: 1e4 };
  await expect(full.fit(data, options, context)).rejects.toMatchObject({
    code: 'LOSS_NOT_FINITE',
    message: expect.stringMatching(/step \d+ of 20.*try a lower rate/),
  });
});

test('lora is estimated to be quicker than full, whatever the machine does meanwhile', async () => {
  const seconds = [
    await lora.estimateSeconds!(data, lora.defaults, context),
    await full.estimateSeconds!(data, full.defaults, context),
  ];
  expect(seconds[0]).toBeGreaterThan(0);
  expect(seconds[0]).toBeLessThan(seconds[1]!);
});

test('targets that no layer has are refused with the names there are', async () => {
  await expect(lora.fit(data, { ...lora.defaults, targets: ['q_proj'] }, context)).rejects.toThrow(/self\.query/);
});

test('dropped tokens: ends stay, order stays, the share is about right, and nothing is emptied', () => {
  const ids = Array.from({ length: 1002 }, (_, i) => i);
  const kept = dropTokens(ids, 0.25, createRandom(1));
  expect([kept[0], kept.at(-1)]).toEqual([0, 1001]);
  expect([...kept].sort((a, b) => a - b)).toEqual([...kept]);
  expect(Math.abs(kept.length - 752)).toBeLessThan(60); // four deviations of 14
  expect(dropTokens([101, 7, 102], 0.9, createRandom(2))).toEqual([101, 7, 102]);
  expect(dropTokens(ids, 0, createRandom(1))).toBe(ids);
});
