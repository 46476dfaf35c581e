import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import {
  compile,
  constant,
  type HostTensor,
  hostTensor,
  mul,
  reshape,
  slice,
  sum,
  type Tensor,
  valueAndGrad,
} from '@fewtune/engine';
import { describe, expect, test } from 'vitest';
import { encode } from './encode.js';
import type { EncodeHooks } from './encode-hooks.js';
import { packBatch, packedSpecs, packingOf } from './packing.js';
import { readSafetensors } from './safetensors.js';

// By PyTorch: test/fixtures/make-hooks.py.
const fixture = (path: string): string => fileURLToPath(new URL(`../test/fixtures/${path}`, import.meta.url));
const given = (await readSafetensors(fixture('hooks.safetensors'))).tensors;
const [prompt, prefix] = [given.prompt!, given.prefix!];
const hidden = 16;

async function tiny(type: string) {
  const { tensors } = await readSafetensors(fixture(`${type}-tiny/reference.safetensors`));
  const { weights, config } = {
    config: JSON.parse(await readFile(fixture(`${type}-tiny/config.json`), 'utf8')) as Record<string, unknown>,
    weights: (await readSafetensors(fixture(`${type}-tiny/model.safetensors`))).tensors,
  };
  const mask = tensors.attention_mask!.data as BigInt64Array;
  const ids = [0, 1, 2].map((row) =>
    Array.from(tensors.input_ids!.data as BigInt64Array, Number).filter(
      (_, at) => Math.floor(at / 9) === row && mask[at] === 1n,
    ),
  );
  const traced = () => Object.fromEntries(Object.entries(weights).map(([name, w]) => [name, constant(w, name)]));
  return { config, traced, mask, ids, padId: type === 'bert' || type === 'distilbert' ? 0 : 1, tensors };
}
type Tiny = Awaited<ReturnType<typeof tiny>>;

/** PEFT's layout: for each layer keys, then values. */
const prefixHooks = (table: Tensor): EncodeHooks => ({
  prefix: {
    length: 3,
    keyValue: (layer) => ({
      key: slice(table, 1, 2 * layer * hidden, (2 * layer + 1) * hidden),
      value: slice(table, 1, (2 * layer + 1) * hidden, (2 * layer + 2) * hidden),
    }),
  },
});

async function states({ config, traced, ids, padId }: Tiny, packed: boolean, hooks: () => EncodeHooks) {
  const { places, slots, ...plain } = packedSpecs;
  const program = await compile(
    (inputs: Readonly<Record<string, Tensor>>) =>
      encode(config, traced(), inputs as never, {
        hooks: hooks(),
        packing: packed ? packingOf(inputs as never) : undefined,
      }),
    packed ? { ...plain, places, slots } : plain,
    { threads: 1 },
  );
  const { places: at, slots: of, ...padded } = packBatch(ids, padId);
  const { data } = await program.run(packed ? { ...padded, places: at, slots: of } : padded);
  await program.dispose();
  return data as Float32Array;
}

/** On real tokens: what stands on padding is never read. */
function worst({ mask }: Tiny, a: Float32Array, b: ArrayLike<number>): number {
  return a.reduce(
    (most, x, i) => (mask[Math.floor(i / hidden)] === 1n ? Math.max(most, Math.abs(x - b[i]!)) : most),
    0,
  );
}

describe.each([false, true])('packed: %s', (packed) => {
  test.each(['bert', 'roberta', 'mpnet', 'distilbert'])('tokens before each sentence, %s', async (type) => {
    const model = await tiny(type);
    const found = await states(model, packed, () => ({ prompt: constant(prompt) }));
    expect(worst(model, found, given[`${type}.prompt`]!.data as Float32Array)).toBeLessThan(1e-5); // values reach about 3
    expect(worst(model, found, model.tensors.last_hidden_state!.data as Float32Array)).toBeGreaterThan(1e-2);
  });

  test.each(['bert', 'roberta'])('keys and values before each sentence, %s', async (type) => {
    const model = await tiny(type);
    const found = await states(model, packed, () => prefixHooks(constant(prefix)));
    expect(worst(model, found, given[`${type}.prefix`]!.data as Float32Array)).toBeLessThan(1e-5);
    expect(worst(model, found, model.tensors.last_hidden_state!.data as Float32Array)).toBeGreaterThan(1e-2);
  });

  test('a hook after a layer sees its states and where the tokens stand', async () => {
    const model = await tiny('bert');
    const layers: number[] = [];
    const found = await states(model, packed, () => ({
      afterLayer: (layer, x, { attentionMask, toTokens }) => {
        layers.push(layer);
        const [batch, seq] = attentionMask.shape;
        const first = slice(reshape(attentionMask, [batch!, seq!, 1]), 1, 0, 1);
        expect(first.shape).toEqual([batch, 1, 1]);
        expect(toTokens(reshape(attentionMask, [batch!, seq!, 1])).shape[0]).toEqual(x.shape[0]);
        return layer === 1 ? mul(x, 2) : x;
      },
    }));
    expect(layers).toEqual([0, 1]);
    const plain = model.tensors.last_hidden_state!.data as Float32Array;
    expect(
      worst(
        model,
        found,
        plain.map((x) => 2 * x),
      ),
    ).toBeLessThan(2e-5);
  });
});

test.each([
  ['bert', 'p'],
  ['bert', 'table'],
  ['mpnet', 'p'],
  ['mpnet', 'table'],
] as const)('gradients agree with differences, %s, %s', async (type, name) => {
  const { config, traced, ids, padId } = await tiny(type);
  const { attentionMask, inputIds } = packBatch(ids, padId);
  const weights = hostTensor(
    'float32',
    [3, 9, hidden],
    Array.from({ length: 27 * hidden }, (_, i) => (attentionMask.data[Math.floor(i / hidden)] ? Math.sin(i) : 0)),
  );
  const hooks = (x: Tensor) => (name === 'p' ? { prompt: x } : prefixHooks(x));
  const loss = (x: Tensor, inputs: Readonly<Record<string, Tensor>>) =>
    sum(mul(encode(config, traced(), inputs as never, { hooks: hooks(x) }), inputs.weights!));
  const start = name === 'p' ? prompt : prefix;
  const program = await compile(
    ({ x, ...inputs }: Readonly<Record<string, Tensor>>): Record<string, Tensor> => {
      const { value, gradient } = valueAndGrad(loss)(x!, inputs);
      return { value, gradient };
    },
    {
      x: { dtype: 'float32', shape: start.shape },
      inputIds: packedSpecs.inputIds,
      attentionMask: packedSpecs.attentionMask,
      weights: { dtype: 'float32', shape: ['batch', 'seq', hidden] },
    },
    { threads: 1 },
  );
  const run = (x: HostTensor) =>
    program.run({ x, inputIds, attentionMask, weights }) as Promise<Record<string, HostTensor>>;
  const gradient = (await run(start)).gradient!.data as Float32Array;
  const size = Math.hypot(...gradient);
  const value = async (step: number) => {
    const moved = (start.data as Float32Array).map((x, i) => x + (step * gradient[i]!) / size);
    return (await run(hostTensor('float32', start.shape, moved))).value!.data[0] as number;
  };
  const step = 5e-3;
  const slope = ((await value(step)) - (await value(-step))) / (2 * step);
  expect(Math.abs(slope / size - 1)).toBeLessThan(5e-3);
  await program.dispose();
});
