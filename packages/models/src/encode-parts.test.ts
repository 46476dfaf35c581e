import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { compile, constant, grad, type HostTensor, sumSquares, type Tensor } from '@fewtune/engine';
import { describe, expect, test } from 'vitest';
import { encode, encodeLower, encodeUpper } from './encode.js';
import { packBatch, packedSpecs, packingOf } from './packing.js';
import { readSafetensors } from './safetensors.js';

const fixture = (path: string): string => fileURLToPath(new URL(`../test/fixtures/${path}`, import.meta.url));

async function tiny(type: string) {
  return {
    config: JSON.parse(await readFile(fixture(`${type}-tiny/config.json`), 'utf8')) as Record<string, unknown>,
    weights: (await readSafetensors(fixture(`${type}-tiny/model.safetensors`))).tensors,
  };
}

const traced = (weights: Readonly<Record<string, HostTensor>>): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(weights).map(([name, weight]) => [name, constant(weight, name)]));

const sentences = [
  [5, 9, 3, 7, 2],
  [4, 8],
  [6, 11, 3],
];
const types = ['bert', 'roberta', 'mpnet', 'distilbert'];
const ids = { dtype: 'int64', shape: ['batch', 'seq'] } as const;
const states = { dtype: 'float32', shape: ['tokens', 16] } as const;

describe.each(types)('%s', (type) => {
  test.each([0, 1, 2])(
    'parted after layer %i it gives the same states to the bit, packed and padded',
    async (layers) => {
      const { config, weights } = await tiny(type);
      const inputs = packBatch(sentences, 1);
      const whole = await compile(
        (given) => encode(config, traced(weights), given, { packing: packingOf(given) }),
        packedSpecs,
      );
      const lower = await compile(
        (given) => encodeLower(config, traced(weights), given, layers, { packing: packingOf(given) }),
        packedSpecs,
      );
      // Weights of what is below are not read.
      const above = Object.fromEntries(
        Object.entries(weights).filter(([name]) => !name.startsWith('embeddings.') && !below(name, layers)),
      );
      const { inputIds: _, ...rest } = packedSpecs;
      const upper = await compile(
        (given) =>
          encodeUpper(config, traced(above), given, layers, {
            packing: packingOf({ ...given, inputIds: given.slots }),
          }),
        { ...rest, states },
      );
      const expected = await whole.run(inputs);
      const kept = await lower.run(inputs);
      expect(kept.shape).toEqual([10, 16]);
      const { inputIds: __, ...packed } = inputs;
      expect((await upper.run({ ...packed, states: kept })).data).toEqual(expected.data);

      const { inputIds, attentionMask } = inputs;
      const padded = await compile((given) => encode(config, traced(weights), given), {
        inputIds: ids,
        attentionMask: ids,
      });
      const joined = await compile(
        (given) => {
          const part = encodeLower(config, traced(weights), given, layers);
          return encodeUpper(config, traced(weights), { ...given, states: part }, layers);
        },
        { inputIds: ids, attentionMask: ids },
      );
      expect((await joined.run({ inputIds, attentionMask })).data).toEqual(
        (await padded.run({ inputIds, attentionMask })).data,
      );
      for (const program of [whole, lower, upper, padded, joined]) await program.dispose();
    },
  );
});

const below = (name: string, layers: number) => Number(/\.layer\.(\d+)\./.exec(name)?.[1] ?? layers) < layers;

type Traced = Record<keyof typeof packedSpecs | 'weight', Tensor>;

test('layers that are computed again give the same gradient', async () => {
  const { config, weights } = await tiny('bert');
  const name = 'encoder.layer.0.attention.self.query.weight';
  const gradient = async (recompute: number) => {
    const program = await compile(
      ({ weight, ...given }: Traced): Record<'gradient', Tensor> => ({
        gradient: grad((w: Tensor) =>
          sumSquares(
            encode(config, { ...traced(weights), [name]: w }, given, { packing: packingOf(given), recompute }),
          ),
        )(weight),
      }),
      { ...packedSpecs, weight: { dtype: 'float32', shape: [16, 16] } } as const,
    );
    const result = await program.run({ ...packBatch(sentences, 1), weight: weights[name]! });
    const repeated = program.print().split('\n').length;
    await program.dispose();
    return { gradient: result.gradient.data, lines: repeated };
  };
  const [kept, again] = [await gradient(0), await gradient(2)];
  expect(again.gradient).toEqual(kept.gradient);
  expect(again.lines).toBeGreaterThan(kept.lines);
});

test('a layer that is not there is an error', async () => {
  const { config, weights } = await tiny('bert');
  const lower = () =>
    compile((given) => encodeLower(config, traced(weights), given, 3), { inputIds: ids, attentionMask: ids });
  await expect(lower()).rejects.toMatchObject({ code: 'ENCODER_LAYER', message: expect.stringContaining('2 layers') });
});
