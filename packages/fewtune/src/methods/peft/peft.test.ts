import { compile, constant, hostTensor, l2Normalize, valueAndGrad } from '@fewtune/engine';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { classBatches } from './class-batches.js';
import { initLora, loraLinear, mergeLora } from './lora-layer.js';
import { supervisedContrastive } from './supervised-contrastive.js';
import { linearsMeant } from './targets.js';
import { usedVocabulary } from './vocabulary.js';

const random = createRandom(7);
const gaussian = (shape: number[]) =>
  hostTensor(
    'float32',
    shape,
    Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => random.gaussian()),
  );

/** Equation 2 of Khosla et al. 2020, term by term. */
function contrastiveByHand(z: number[][], labels: number[], temperature: number): number {
  const dot = (a: number[], b: number[]) => a.reduce((sum, x, i) => sum + x * b[i]!, 0) / temperature;
  const terms: number[] = [];
  for (const [i, anchor] of z.entries()) {
    const positives = labels.flatMap((label, p) => (label === labels[i] && p !== i ? [p] : []));
    if (positives.length === 0) continue;
    const all = z.reduce((sum, other, a) => (a === i ? sum : sum + Math.exp(dot(anchor, other))), 0);
    const logs = positives.map((p) => Math.log(Math.exp(dot(anchor, z[p]!)) / all));
    terms.push(-logs.reduce((a, b) => a + b) / positives.length);
  }
  return terms.reduce((a, b) => a + b, 0) / Math.max(1, terms.length);
}

describe('supervised contrastive loss', () => {
  test('equals the sum of the paper, with classes of one to three sentences', async () => {
    const labels = [0, 1, 0, 2, 1, 0, 3];
    const raw = gaussian([7, 4]);
    const rows = Array.from({ length: 7 }, (_, i) => {
      const row = [...(raw.data as Float32Array).subarray(i * 4, i * 4 + 4)];
      const norm = Math.hypot(...row);
      return row.map((x) => x / norm);
    });
    const program = await compile(
      ({ x, y }) => valueAndGrad((z: typeof x) => supervisedContrastive(l2Normalize(z), y, 0.1))(x),
      { x: { dtype: 'float32', shape: ['batch', 4] }, y: { dtype: 'int64', shape: ['batch'] } } as const,
    );
    const { value, gradient } = await program.run({ x: raw, y: hostTensor('int64', [7], labels) });
    expect(value.data[0]).toBeCloseTo(contrastiveByHand(rows, labels, 0.1), 4);
    expect([...(gradient.data as Float32Array)].every(Number.isFinite)).toBe(true);
  });

  test('is 0, not NaN, when no sentence has a partner', async () => {
    const program = await compile(({ x, y }) => supervisedContrastive(l2Normalize(x), y, 0.1), {
      x: { dtype: 'float32', shape: ['batch', 4] },
      y: { dtype: 'int64', shape: ['batch'] },
    } as const);
    const { data } = await program.run({ x: gaussian([3, 4]), y: hostTensor('int64', [3], [0, 1, 2]) });
    expect(data[0]).toBeCloseTo(0, 6);
  });
});

describe('LoRA', () => {
  const module = 'encoder.layer.0.attention.self.query';
  const weights = {
    [`${module}.weight`]: gaussian([6, 5]),
    [`${module}.bias`]: gaussian([6]),
    'embeddings.word_embeddings.weight': gaussian([9, 5]),
    'encoder.layer.0.output.dense.weight': gaussian([5, 6]),
  };
  const layer = async (params: ReturnType<typeof initLora>, base = weights) => {
    const traced = Object.fromEntries(Object.entries(params).map(([name, value]) => [name, constant(value)]));
    const [w, b] = [constant(base[`${module}.weight`]!), constant(base[`${module}.bias`]!)];
    const program = await compile(({ x }) => loraLinear(traced, 2)(x, module, w, b), {
      x: { dtype: 'float32', shape: [3, 5] },
    } as const);
    return [
      ...((
        await program.run({
          x: hostTensor(
            'float32',
            [3, 5],
            Array.from({ length: 15 }, (_, i) => i / 7),
          ),
        })
      ).data as Float32Array),
    ];
  };

  test('starts equal to its base, and merged equals unmerged', async () => {
    const params = initLora(weights, [module], 2, random);
    expect(await layer(params)).toEqual(await layer({}));
    params[`${module}.lora_B.weight`] = gaussian([6, 2]);
    const unmerged = await layer(params);
    const merged = await layer({}, mergeLora(weights, params, 2) as typeof weights);
    // float32 sums in another order
    for (const [i, value] of merged.entries()) expect(value).toBeCloseTo(unmerged[i]!, 4);
    expect(unmerged).not.toEqual(await layer({}));
  });

  test('targets are matched by the end of their name; embeddings are no linear layers', () => {
    expect(linearsMeant(weights, ['query'])).toEqual([module]);
    expect(linearsMeant(weights, 'all-linear')).toEqual([module, 'encoder.layer.0.output.dense']);
    expect(() => linearsMeant(weights, ['query', 'quer'])).toThrow(/named "quer"; near are .*query/);
  });
});

test('the used vocabulary counts the same rows, and puts trained ones back', () => {
  const name = 'embeddings.word_embeddings.weight';
  const table = hostTensor('float32', [5, 2], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
  const used = usedVocabulary({ [name]: table }, [[4, 2], [2]], 0);
  expect(used.ids).toEqual([[2, 1], [1]]);
  expect(used.padId).toBe(0);
  expect([...used.weights[name]!.data]).toEqual([0, 0, 2, 2, 4, 4]);
  const trained = used.restore({ [name]: hostTensor('float32', [3, 2], [9, 9, 8, 8, 7, 7]) });
  expect([...trained[name]!.data]).toEqual([9, 9, 1, 1, 8, 8, 3, 3, 7, 7]);
});

test('class batches are balanced, without repeats, and every row has its turn', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 5, maxLength: 40 }),
      fc.integer(),
      (list, seed) => {
        const labels = Int32Array.from(list);
        const sizes = new Map<number, number>();
        for (const label of list) sizes.set(label, (sizes.get(label) ?? 0) + 1);
        const batches = classBatches(labels, { classes: 3, perClass: 2 }, createRandom(seed));
        const seen = new Set<number>();
        for (let i = 0; i < 200; i++) {
          const batch = batches.next().value as number[];
          expect(new Set(batch).size).toBe(batch.length);
          const perClass = new Map<number, number>();
          for (const row of batch) {
            seen.add(row);
            perClass.set(labels[row]!, (perClass.get(labels[row]!) ?? 0) + 1);
          }
          expect(perClass.size).toBe(Math.min(3, sizes.size));
          for (const [label, count] of perClass) expect(count).toBe(Math.min(2, sizes.get(label)!));
        }
        expect(seen.size).toBe(labels.length);
      },
    ),
    { numRuns: 30, seed: 7 },
  );
});
