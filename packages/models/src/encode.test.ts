import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { add, compile, constant, type HostTensor, matMul, type Tensor, transpose } from '@fewtune/engine';
import { describe, expect, test } from 'vitest';
import { padTypes } from './batching.js';
import { encode } from './encode.js';
import { relativeBucket } from './mpnet.js';
import { readSafetensors } from './safetensors.js';
import type { EncoderInputs, LinearFn } from './transformer-layer.js';

// Two-layer encoders with random weights and their hidden states by PyTorch: test/fixtures/make-references.py.
const fixture = (path: string): string => fileURLToPath(new URL(`../test/fixtures/${path}`, import.meta.url));

interface Tiny {
  readonly config: Record<string, unknown>;
  readonly weights: Record<string, HostTensor>;
  readonly inputs: { inputIds: HostTensor; attentionMask: HostTensor };
  readonly expected: Float32Array;
}

async function tiny(type: string): Promise<Tiny> {
  const { tensors } = await readSafetensors(fixture(`${type}-tiny/reference.safetensors`));
  return {
    config: JSON.parse(await readFile(fixture(`${type}-tiny/config.json`), 'utf8')),
    weights: (await readSafetensors(fixture(`${type}-tiny/model.safetensors`))).tensors,
    inputs: { inputIds: tensors.input_ids!, attentionMask: tensors.attention_mask! },
    expected: tensors.last_hidden_state!.data as Float32Array,
  };
}

async function run({ config, weights, inputs }: Tiny, dims: [string | number, string | number], linear?: LinearFn) {
  const forward = ({ inputIds, attentionMask }: EncoderInputs): Tensor => {
    const traced = Object.fromEntries(Object.entries(weights).map(([name, w]) => [name, constant(w, name)]));
    return encode(config, traced, { inputIds, attentionMask }, linear ? { linear } : {});
  };
  const spec = { dtype: 'int64', shape: dims } as const;
  const program = await compile(forward, { inputIds: spec, attentionMask: spec }, { threads: 1 });
  const result = (await program.run(inputs)) as HostTensor;
  await program.dispose();
  return result.data as Float32Array;
}

const largestDifference = (a: Float32Array, b: Float32Array): number =>
  a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - b[i]!)), 0);

describe.each(['bert', 'roberta', 'mpnet', 'distilbert'])('%s', (type) => {
  test.each([['symbolic', ['batch', 'seq']] as const, ['fixed', [3, 9]] as const])(
    'hidden states are those of PyTorch, %s dimensions',
    async (_, dims) => {
      const model = await tiny(type);
      const actual = await run(model, [...dims]);
      expect(actual).toHaveLength(model.expected.length);
      expect(largestDifference(actual, model.expected)).toBeLessThan(1e-5); // values reach about 3
    },
  );

  test('padding has no influence on real tokens', async () => {
    const model = await tiny(type);
    const last = 2; // the row with 2 of 9 tokens
    const cut = (t: HostTensor): HostTensor => ({
      ...t,
      shape: [1, 2],
      data: (t.data as BigInt64Array).slice(last * 9, last * 9 + 2),
    });
    const { inputIds, attentionMask } = model.inputs;
    const alone = await run({ ...model, inputs: { inputIds: cut(inputIds), attentionMask: cut(attentionMask) } }, [
      'batch',
      'seq',
    ]);
    const width = model.expected.length / 27;
    const padded = model.expected.slice(last * 9 * width, (last * 9 + 2) * width);
    expect(largestDifference(alone, padded)).toBeLessThan(1e-5);
  });
});

test('the linear hook sees every linear layer by its name in the checkpoint, and its answer is used', async () => {
  const model = await tiny('bert');
  const seen: string[] = [];
  const byHand: LinearFn = (x, name, weight, bias) => {
    seen.push(name);
    return add(matMul(x, transpose(weight)), bias!);
  };
  expect(largestDifference(await run(model, ['batch', 'seq'], byHand), model.expected)).toBeLessThan(1e-5);
  const linears = Object.keys(model.weights).filter((name) => /(query|key|value|dense)\.weight$/.test(name));
  expect(seen.sort()).toEqual(linears.map((name) => name.replace(/\.weight$/, '')).sort());
});

test('token types of a pair: hidden states are those of PyTorch, and types of 0 change nothing', async () => {
  // test/fixtures/token-types.py
  const { config, weights } = await tiny('bert');
  const { tensors } = await readSafetensors(fixture('bert-tiny/token-types.safetensors'));
  const spec = { dtype: 'int64', shape: ['batch', 'seq'] } as const;
  const program = await compile(
    (inputs: EncoderInputs) => {
      const traced = Object.fromEntries(Object.entries(weights).map(([name, w]) => [name, constant(w, name)]));
      return encode(config, traced, inputs);
    },
    { inputIds: spec, attentionMask: spec, tokenTypeIds: spec },
    { threads: 1 },
  );
  const inputs = { inputIds: tensors.input_ids!, attentionMask: tensors.attention_mask! };
  const of = async (tokenTypeIds: HostTensor): Promise<Float32Array> =>
    ((await program.run({ ...inputs, tokenTypeIds })) as HostTensor).data as Float32Array;
  const expected = tensors.last_hidden_state!.data as Float32Array;
  expect(largestDifference(await of(tensors.token_type_ids!), expected)).toBeLessThan(1e-5);
  const zero = padTypes([[0, 0, 0, 0, 0, 0, 0, 0, 0], [0], [0]]);
  expect(largestDifference(await of(zero), await run({ config, weights, inputs, expected }, ['batch', 'seq']))).toBe(0);
  await program.dispose();
});

test('a missing weight is named', async () => {
  const model = await tiny('bert');
  const { 'encoder.layer.1.output.dense.weight': _, ...weights } = model.weights;
  await expect(run({ ...model, weights }, ['batch', 'seq'])).rejects.toMatchObject({
    code: 'ENCODER_INCOMPLETE',
    message: expect.stringContaining('"encoder.layer.1.output.dense.weight"'),
  });
});

test('relative buckets: near ones exact, far ones shared, each direction its own', () => {
  // transformers 4.57, MPNetEncoder.relative_position_bucket(torch.tensor([...]), 32, 128)
  const distances = [0, 1, 7, 8, 12, 16, 32, 64, 127, 128, -1, -8, -16, -128];
  const buckets = [0, 17, 23, 24, 25, 26, 28, 30, 31, 31, 1, 8, 10, 15];
  expect(distances.map((distance) => relativeBucket(distance, 32))).toEqual(buckets);
});
