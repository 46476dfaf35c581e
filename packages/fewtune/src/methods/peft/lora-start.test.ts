import {
  constant,
  constantRate,
  type HostTensor,
  hostTensor,
  mul,
  type Named,
  sgd,
  sum,
  trainStep,
} from '@fewtune/engine';
import { encode, readSafetensors } from '@fewtune/models';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { type Adapter, adaptedModules, adapterScale, applyAdapter, type LoraAdapter, mergeAdapter } from './adapter.js';
import { contrastiveStage } from './contrastive-stage.js';
import { evaDirections } from './eva.js';
import { type LoraInit, type LoraSettings, loraInits, overEncoder, startLora } from './lora-start.js';
import { symmetricEigen, truncatedSvd } from './low-rank.js';
import { adapterFiles, adapterFromFiles } from './peft-files.js';
import {
  adapterFolder,
  constants,
  hiddenStates,
  largestDifference,
  readLora,
  tinyConfig,
  tinyInputs,
  tinyWeights,
} from './tiny-bert.fixture.js';

const starts = (await readSafetensors(adapterFolder('starts.safetensors'))).tensors;
const modules = ['attention.self.query', 'intermediate.dense', 'output.dense'].map((part) => `encoder.layer.0.${part}`);

const settings: LoraSettings = { rank: 4, alpha: 8, targets: 'all-linear' };
const start = (more: Partial<LoraSettings> = {}, seed = 7) =>
  startLora(tinyWeights, { ...settings, ...more }, createRandom(seed));

/** Worst element of a difference. */
const worst = (a: HostTensor, b: HostTensor) =>
  Math.max(...Array.from(a.data as Float32Array, (value, i) => Math.abs(value - (b.data[i] as number))));

/** scale · B A [out, in]. */
function update(adapter: LoraAdapter, module: string): HostTensor {
  const [a, b] = [adapter.weights[`${module}.lora_A.weight`]!, adapter.weights[`${module}.lora_B.weight`]!];
  const [rank, inner] = a.shape as [number, number];
  const product = Array.from({ length: b.shape[0]! * inner }, (_, at) => {
    let total = 0;
    for (let r = 0; r < rank; r++) {
      total += (b.data[Math.floor(at / inner) * rank + r] as number) * (a.data[r * inner + (at % inner)] as number);
    }
    return total * adapterScale(adapter, module);
  });
  return hostTensor('float32', [b.shape[0]!, inner], product);
}

/** Every number moved a little, as training would. */
function moved(weights: Named<HostTensor>, seed: number): Record<string, HostTensor> {
  const random = createRandom(seed);
  const shift = ({ shape, data }: HostTensor) =>
    hostTensor(
      'float32',
      shape,
      Float32Array.from(data as Float32Array, (x) => x + 0.1 * random.gaussian()),
    );
  return Object.fromEntries(Object.entries(weights).map(([name, value]) => [name, shift(value)]));
}

const beside = (adapter: Adapter, base: Named<HostTensor>) =>
  hiddenStates(base, (weights) => applyAdapter(adapter, weights, constants({ ...adapter.weights, ...adapter.saved })));

const variants: [string, Partial<LoraSettings>][] = [
  ...loraInits.map((init: LoraInit): [string, Partial<LoraSettings>] => [init, { init }]),
  ['rsLora', { rsLora: true }],
  ['dora', { dora: true }],
  ['dora with pissa and rsLora', { dora: true, init: 'pissa', rsLora: true }],
  ['olora with ranks and alphas', { init: 'olora', ranks: { query: 2, '*.layer.1.*': 6 }, alphas: { dense: 3 } }],
  ['norms trained whole', { targets: 'query', saved: 'LayerNorm' }],
];

describe.each(variants)('%s', (_, more) => {
  test('at the start base and adapter equal the encoder', async () => {
    const { adapter, base } = start(more);
    expect(largestDifference(await beside(adapter, base), await hiddenStates(tinyWeights))).toBeLessThan(1e-5);
  });

  test('trained: merged, unmerged, and as an ordinary adapter over the encoder, through a file, are equal', async () => {
    const begun = start(more);
    const { adapter, base } = begun;
    const trained = {
      ...adapter,
      weights: moved(adapter.weights, 3),
      ...(adapter.saved && { saved: moved(adapter.saved, 4) }),
    };
    const unmerged = await beside(trained, base);
    expect(largestDifference(unmerged, await hiddenStates(tinyWeights))).toBeGreaterThan(1e-2);
    expect(largestDifference(await hiddenStates(mergeAdapter(base, trained)), unmerged)).toBeLessThan(1e-5);
    const plain = adapterFromFiles(adapterFiles(overEncoder(trained, begun, tinyWeights)));
    expect(largestDifference(await beside(plain, tinyWeights), unmerged)).toBeLessThan(1e-5);
  });
});

describe('against Python PEFT', () => {
  test.each(['pissa', 'olora'] as const)('%s takes the same part out of each weight', (init) => {
    const { adapter } = start({ init });
    const tolerance = init === 'pissa' ? 1e-4 : 1e-5; // ours iterates, and stops when the singular values stand
    for (const module of modules)
      expect(worst(update(adapter, module), starts[`${init}.${module}`]!)).toBeLessThan(tolerance);
  });

  test('EVA starts from the directions in which the inputs vary most', async () => {
    const mask = tinyInputs.attentionMask.data as BigInt64Array;
    const ids = [0, 1, 2].map((row) =>
      Array.from(tinyInputs.inputIds.data as BigInt64Array, Number).filter(
        (_, at) => Math.floor(at / 9) === row && mask[at] === 1n,
      ),
    );
    const encoder = { config: tinyConfig, weights: tinyWeights };
    const down = await evaDirections(encoder, ids, 0, modules, () => 4, createRandom(2));
    for (const module of modules) {
      const a = down[module]!;
      const [rank, inner] = a.shape as [number, number];
      const projection = Array.from({ length: inner * inner }, (_, at) => {
        let total = 0;
        for (let r = 0; r < rank; r++) {
          total +=
            (a.data[r * inner + Math.floor(at / inner)] as number) * (a.data[r * inner + (at % inner)] as number);
        }
        return total;
      });
      expect(worst(hostTensor('float32', [inner, inner], projection), starts[`eva.${module}`]!)).toBeLessThan(1e-3);
    }
    const { adapter, base } = start({ targets: ['self.query', 'intermediate.dense', 'output.dense'], down });
    expect(adapter.weights[`${modules[0]}.lora_A.weight`]).toEqual(down[modules[0]!]);
    expect(largestDifference(await beside(adapter, base), await hiddenStates(tinyWeights))).toBeLessThan(1e-5);
  });

  test('DoRA starts from the lengths of the rows, and its gradients are those of PyTorch', async () => {
    const { adapter: fresh } = start({ dora: true });
    for (const module of modules) {
      expect(worst(fresh.weights[`${module}.lora_magnitude_vector`]!, starts[`dora.${module}`]!)).toBeLessThan(1e-5);
    }
    const adapter = await readLora('dora');
    const spec = { dtype: 'int64', shape: [3, 9] } as const;
    const step = await trainStep({
      params: adapter.weights,
      batch: { inputIds: spec, attentionMask: spec } as const,
      loss: (params, { batch }) => {
        const { weights, linear } = applyAdapter(adapter, constants(tinyWeights), params);
        return sum(mul(encode(tinyConfig, weights, batch, { linear }), constant(starts.weight!)));
      },
      optimizer: sgd(),
      schedule: constantRate(1),
    });
    await step.run(tinyInputs);
    const after = await step.params();
    await step.dispose();
    const names = Object.keys(starts).flatMap((name) => (name.startsWith('grad.') ? [name.slice(5)] : []));
    expect(names).toHaveLength(9);
    for (const name of names) {
      const [from, to] = [adapter.weights[name]!.data as Float32Array, after[name]!.data as Float32Array];
      const gradient = Float32Array.from(from, (value, i) => value - to[i]!); // rate 1: what was subtracted
      const reference = starts[`grad.${name}`]!;
      const size = Math.max(...(reference.data as Float32Array).map(Math.abs));
      expect(worst(hostTensor('float32', reference.shape, gradient), reference) / size, name).toBeLessThan(1e-4);
    }
  });
});

test('LoRA+: B moves by its own rate', async () => {
  const { adapter, base } = start();
  const stage = (ratio: number) =>
    contrastiveStage(
      { config: tinyConfig, pooling: 'mean' },
      {
        params: adapter.weights,
        frozen: base,
        linear: (params) => applyAdapter(adapter, {}, params).linear,
        lrScale: (name) => (name.includes('lora_B') ? ratio : 1),
      },
      [
        [2, 3, 4, 5],
        [2, 3, 7, 5],
        [2, 9, 10, 11],
        [2, 9, 12, 11],
      ],
      Int32Array.of(0, 0, 1, 1),
      0,
      {
        steps: 1,
        classesPerBatch: 2,
        perClass: 2,
        lr: 1e-3,
        temperature: 0.1,
        weightDecay: 0,
        tokenDropout: 0,
        warmup: 0,
        clipNorm: 1,
      },
      { random: createRandom(1) },
    );
  const name = `${modules[0]}.lora_B.weight`;
  const step = async (ratio: number) => Math.max(...((await stage(ratio))[name]!.data as Float32Array).map(Math.abs));
  expect((await step(16)) / (await step(1))).toBeCloseTo(16, 3); // B starts at 0, so its size is the step
});

test('targets: ends of names, globs, expressions; what means nothing is an error with near names', () => {
  const targets = (value: LoraSettings['targets']) => adaptedModules(start({ targets: value }).adapter);
  expect(targets('query')).toEqual(['encoder.layer.0.attention.self.query', 'encoder.layer.1.attention.self.query']);
  expect(targets(['*.layer.1.*.query', '/.*0\\.(output|intermediate)\\.dense/'])).toEqual([
    'encoder.layer.0.intermediate.dense',
    'encoder.layer.0.output.dense',
    'encoder.layer.1.attention.self.query',
  ]);
  expect(targets('all-linear')).toHaveLength(12);
  expect(() => targets(['query', 'valve'])).toThrow(/named "valve"; near are encoder.layer.\*.attention.self.value/);
  expect(() => start({ targets: 'query', ranks: { value: 2 } })).toThrow(/no adapted layer is named "value"/);
  expect(() => start({ saved: 'Layernorm' })).toThrow(/LayerNorm/);
  expect(() => start({ init: 'olora', rank: 17 })).toThrow(/at most 16/);
});

test('truncated SVD: orthonormal vectors, and the error is the singular values that were left out', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 12 }),
      fc.integer({ min: 1, max: 12 }),
      fc.integer(),
      (rows, columns, seed) => {
        const random = createRandom(seed);
        const data = Float32Array.from({ length: rows * columns }, () => random.gaussian());
        const matrix = hostTensor('float32', [rows, columns], data);
        const full = Math.min(rows, columns);
        const rank = Math.max(1, full - 2);
        const { u, s, v } = truncatedSvd(matrix, rank, random, 1e-14, 2000);
        const all = truncatedSvd(matrix, full, random, 1e-14, 2000).s;
        let error = 0;
        for (let i = 0; i < rows; i++) {
          for (let j = 0; j < columns; j++) {
            let value = data[i * columns + j]!;
            for (let r = 0; r < rank; r++) value -= u[r * rows + i]! * s[r]! * v[r * columns + j]!;
            error += value * value;
          }
        }
        const left = all.subarray(rank).reduce((total, value) => total + value * value, 0);
        expect(Math.abs(error - left)).toBeLessThan(1e-6 * Math.max(1, all[0]! ** 2));
        for (let p = 0; p < rank; p++) {
          let length = 0;
          for (let j = 0; j < columns; j++) length += v[p * columns + j]! ** 2;
          expect(length).toBeCloseTo(1, 8);
        }
      },
    ),
    { numRuns: 40, seed: 7 },
  );
});

test('a matrix of a lower rank has zeros, not noise; eigenvalues of a known matrix', () => {
  const one = hostTensor(
    'float32',
    [4, 3],
    Array.from({ length: 12 }, (_, at) => (1 + Math.floor(at / 3)) * (1 + (at % 3))),
  );
  const { s, u } = truncatedSvd(one, 2, createRandom(1));
  expect(s[0]).toBeCloseTo(Math.sqrt(30 * 14), 5);
  expect(Math.abs(s[1]!)).toBeLessThan(1e-6);
  expect(u.every(Number.isFinite)).toBe(true);
  const { values } = symmetricEigen(Float64Array.of(2, 1, 0, 1, 2, 1, 0, 1, 2), 3);
  [2 + Math.SQRT2, 2, 2 - Math.SQRT2].forEach((value, i) => {
    expect(values[i]).toBeCloseTo(value, 10);
  });
});
