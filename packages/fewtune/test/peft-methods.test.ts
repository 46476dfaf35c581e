import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type HostTensor, hostTensor, type Named } from '@fewtune/engine';
import { type Encoder, loadEncoder } from '@fewtune/models';
import { beforeAll, describe, expect, test } from 'vitest';
import { createRandom } from '../src/data/random.js';
import { CachedFeatures } from '../src/methods/features.js';
import type { FitContext, Labelled, Method } from '../src/methods/method.js';
import { type Adapter, adaptEncoder, applyAdapter, mergeAdapter } from '../src/methods/peft/adapter.js';
import { bitfit } from '../src/methods/peft/bitfit.js';
import { full } from '../src/methods/peft/full.js';
import { ia3 } from '../src/methods/peft/ia3.js';
import { startIa3 } from '../src/methods/peft/ia3-layer.js';
import { lora } from '../src/methods/peft/lora.js';
import { adapterFiles, adapterFromFiles } from '../src/methods/peft/peft-files.js';
import { constants, hiddenStates, largestDifference, tinyWeights } from '../src/methods/peft/tiny-bert.fixture.js';
import { vera } from '../src/methods/peft/vera.js';
import { startVera } from '../src/methods/peft/vera-layer.js';
import { writeTinyEncoder } from './tiny-encoder.js';

const random = createRandom(5);
const moved = (weights: Named<HostTensor>): Record<string, HostTensor> =>
  Object.fromEntries(
    Object.entries(weights).map(([name, { shape, data }]) => [
      name,
      hostTensor(
        'float32',
        shape,
        Float32Array.from(data as Float32Array, (x) => x + 0.2 * random.gaussian()),
      ),
    ]),
  );

/** The adapter at its start, and with what is trained moved. */
function pair(adapter: Adapter, trained: (name: string) => boolean): [Adapter, Adapter] {
  const own = Object.fromEntries(Object.entries(adapter.weights).filter(([name]) => trained(name)));
  return [adapter, { ...adapter, weights: { ...adapter.weights, ...moved(own) } }];
}

const veraStart = startVera(tinyWeights, { rank: 5, targets: 'all-linear' }, createRandom(1));
const kinds: [string, Adapter, Adapter][] = [
  [
    'ia3',
    ...pair(
      { method: 'ia3', weights: startIa3(tinyWeights, { targets: ['key', 'value'], feedforward: '*.1.output.dense' }) },
      () => true,
    ),
  ],
  [
    'vera',
    ...pair({ method: 'vera', rank: 5, weights: { ...veraStart.params, ...veraStart.shared } }, (name) =>
      name.includes('lambda'),
    ),
  ],
];

describe.each(kinds)('%s', (_, start, trained) => {
  const beside = (adapter: Adapter) =>
    hiddenStates(tinyWeights, (weights) => applyAdapter(adapter, weights, constants(adapter.weights)));

  test('starts equal to its base; trained, merged equals unmerged, and a file changes nothing', async () => {
    const base = await hiddenStates(tinyWeights);
    expect(largestDifference(await beside(start), base)).toBeLessThan(1e-6);
    const unmerged = await beside(trained);
    expect(largestDifference(unmerged, base)).toBeGreaterThan(1e-2);
    expect(largestDifference(await hiddenStates(mergeAdapter(tinyWeights, trained)), unmerged)).toBeLessThan(1e-5);
    expect(await beside(adapterFromFiles(adapterFiles(trained)))).toEqual(unmerged);
  });
});

const examples: [string, number][] = [
  ['where is my package', 0],
  ['my package never came', 0],
  ['the package has not come', 0],
  ['a new card please', 1],
  ['send me another card', 1],
  ['order a second card', 1],
  ['give my money back', 2],
  ['return it and pay my money', 2],
  ['how is money paid back', 2],
];
const data: Labelled = {
  texts: examples.map(([text]) => text),
  labels: Int32Array.from(examples, ([, label]) => label),
  classes: ['parcel', 'card', 'refund'],
};

describe('each method trains what it says, and nothing else', () => {
  let context: FitContext;
  let weights: Named<HostTensor>;
  let encoder: Encoder;
  beforeAll(async () => {
    const folder = await mkdtemp(join(tmpdir(), 'encoder-'));
    await writeTinyEncoder(folder, data.texts);
    encoder = await loadEncoder(folder);
    weights = encoder.weights;
    const features = new CachedFeatures(encoder, { cache: false });
    context = { encoder: async () => encoder, features: async () => features, seed: 7 };
  });

  const at = 'encoder.layer.0';
  const linears = [
    'attention.self.query',
    'attention.self.key',
    'attention.self.value',
    'attention.output.dense',
    'intermediate.dense',
    'output.dense',
  ];
  // The biases of keys and values are 0 in this encoder: factors leave them so.
  const scaled = ['attention.self.key.weight', 'attention.self.value.weight', 'output.dense.weight'];
  // hidden 32, feed-forward 64
  const all: [string, Method<never>, object, (name: string) => boolean, number][] = [
    ['ia3', ia3 as Method<never>, { lr: 0.1 }, (name) => scaled.some((end) => name === `${at}.${end}`), 32 + 32 + 64],
    [
      'ia3 of queries',
      ia3 as Method<never>,
      { targets: 'query', feedforward: 'none', lr: 1 },
      (name) => name === `${at}.attention.self.query.weight`,
      32,
    ],
    ['bitfit', bitfit as Method<never>, {}, (name) => name.endsWith('.bias'), 5 * 32 + 64 + 3 * 32],
    [
      'vera',
      vera as Method<never>,
      { rank: 8 },
      (name) => linears.some((module) => name === `${at}.${module}.weight`),
      6 * 8 + 5 * 32 + 64,
    ],
    [
      'lora of one layer',
      lora as Method<never>,
      { targets: ['self.query'], rank: 2, modulesToSave: 'embeddings.LayerNorm' },
      (name) => /query.weight|embeddings.LayerNorm/.test(name),
      2 * 64 + 64,
    ],
    ['full', full as Method<never>, {}, () => true, 0],
  ];

  test.each(all)('%s', async (_, method, given, changes, trainable) => {
    const losses: number[] = [];
    const onProgress = (_: number, { step, loss }: Readonly<Record<string, number>>) =>
      step !== undefined && losses.push(loss!);
    const options = method.schema.parse({ steps: 30, tokenDropout: 0, ...given });
    const fitted = await method.fit(data, options, { ...context, onProgress });
    expect(losses.at(-1)!).toBeLessThan(losses[0]!);
    if (trainable > 0) expect(fitted.details.trainableParameters).toBe(trainable);
    const { weights: tuned } = await fitted.graph();
    for (const [name, { data: values }] of Object.entries(weights)) {
      const same = (values as Float32Array).every((value, i) => value === tuned[name]!.data[i]);
      // A bias of the keys adds the same to every score of a query, so it has no gradient.
      if (name === `${at}.attention.self.key.bias`) continue;
      if (method === (full as Method<never>)) expect(same, name).toBe(/position|token_type/.test(name) && same);
      else expect(same, name).toBe(!changes(name));
    }
    await fitted.dispose?.();
  });

  test('full: each layer has its share of the rate of the one above', async () => {
    const name = (end: string) => `${end}.bias`;
    const step = async (layerDecay: number) => {
      // One step of Adam moves every weight that has a gradient by its rate.
      const options = full.schema.parse({ steps: 1, tokenDropout: 0, weightDecay: 0, lr: 0.01, layerDecay });
      const fitted = await full.fit(data, options, context);
      const { weights: tuned } = await fitted.graph();
      await fitted.dispose?.();
      return (module: string) => {
        const [from, to] = [weights[name(module)]!.data, tuned[name(module)]!.data] as Float32Array[];
        return Math.max(...from!.map((value, i) => Math.abs(to![i]! - value)));
      };
    };
    const [even, falling] = [await step(1), await step(0.5)];
    expect(falling(`${at}.output.dense`)).toBeCloseTo(even(`${at}.output.dense`), 6);
    expect(falling('embeddings.LayerNorm') / even('embeddings.LayerNorm')).toBeCloseTo(0.5, 3);
  });

  const withAdapter: [string, Method<never>, object][] = [
    ['lora', lora as Method<never>, { modulesToSave: 'embeddings.LayerNorm', alphaPattern: { query: 3 } }],
    ['lora from pissa, rsLora', lora as Method<never>, { init: 'pissa', rsLora: true }],
    ['lora, dora', lora as Method<never>, { dora: true, init: 'olora', interpolation: 1 }],
    ['ia3', ia3 as Method<never>, { lr: 0.1 }],
    ['vera', vera as Method<never>, { rank: 8 }],
  ];
  test.each(withAdapter)('%s: its adapter over the encoder is the model, through a file', async (_, method, given) => {
    const options = method.schema.parse({ steps: 5, ...given });
    const fitted = await method.fit(data, options, context);
    const adapted = adaptEncoder(encoder, adapterFromFiles(adapterFiles(fitted.adapter!)));
    const { weights: tuned } = await fitted.graph();
    let largest = 0;
    for (const [name, { data: values }] of Object.entries(adapted.weights)) {
      (values as Float32Array).forEach((value, i) => {
        largest = Math.max(largest, Math.abs(value - (tuned[name]!.data[i] as number)));
      });
    }
    expect(largest).toBeLessThan(1e-5);
    await fitted.dispose?.();
  });

  test('there is no adapter between the base and DoRA, and none of biases alone', async () => {
    const dora = await lora.fit(data, lora.schema.parse({ steps: 1, dora: true }), context);
    expect(dora.adapter).toBeUndefined();
    const biases = await bitfit.fit(data, bitfit.schema.parse({ steps: 1 }), context);
    expect(biases.adapter).toBeUndefined();
    await Promise.all([dora.dispose?.(), biases.dispose?.()]);
  });

  test('lora from the directions of EVA learns', async () => {
    const losses: number[] = [];
    const onProgress = (_: number, { step, loss }: Readonly<Record<string, number>>) =>
      step !== undefined && losses.push(loss!);
    const options = lora.schema.parse({ steps: 20, tokenDropout: 0, init: 'eva', rankPattern: { query: 4 } });
    const fitted = await lora.fit(data, options, { ...context, onProgress });
    expect(losses.at(-1)!).toBeLessThan(losses[0]!);
    await fitted.dispose?.();
  });
});

test('targets that mean no layer are refused with the names there are', () => {
  expect(() => startIa3(tinyWeights, { targets: 'keys', feedforward: 'none' })).toThrow(
    /ia3: .*"keys"; near are .*self.key/,
  );
  expect(() => startVera(tinyWeights, { rank: 4, targets: 'querry' }, random)).toThrow(
    /vera: .*"querry"; near are .*self.query/,
  );
  expect(() => startVera(tinyWeights, { rank: 99, targets: 'query' }, random)).toThrow(
    /a rank of 99; the widest layers are 16 x 16/,
  );
});
