import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import * as e from '../src/index.js';
import { fixtureBytes, fixturePath, reference, worst } from './onnx-fixtures.js';

const f32 = (shape: readonly e.Dim[]) => ({ dtype: 'float32', shape }) as const;
const run = async (bytes: Uint8Array | string, inputs: Record<string, e.HostTensor>) => {
  const session = await e.openOnnx(bytes);
  const outputs = await session.run(inputs);
  await session.dispose();
  return outputs;
};

describe('an ONNX file as a function', () => {
  test('lists inputs, outputs and weights by name', async () => {
    const model = await e.readOnnxModel(fixturePath('bert-script17'));
    expect(Object.keys(model.inputs)).toEqual(['input_ids', 'attention_mask', 'token_type_ids']);
    expect(model.inputs.input_ids).toEqual({ dtype: 'int64', shape: ['batch', 'seq'] });
    expect(model.weights['model.embeddings.word_embeddings.weight']).toEqual({
      dtype: 'float32',
      shape: [50, 16],
      role: 'weight',
    });
    const resnet = await e.readOnnxModel(fixturePath('resnet-script12'));
    const statistics = Object.values(resnet.weights).filter(({ role }) => role === 'statistic');
    expect(statistics.length).toBeGreaterThanOrEqual(8);
    expect(Object.keys(resnet.split().params).some((name) => name.includes('running_mean'))).toBe(false);
  });

  test('symbolic batch and sequence survive: one program serves every size', async () => {
    const model = await e.readOnnxModel(fixturePath('bert-dynamo18'));
    await using program = await e.compile((inputs) => model.apply({ inputs }), model.inputs);
    for (const shape of [
      [1, 3],
      [3, 9],
    ]) {
      const ids = (value: (i: number) => number) =>
        e.hostTensor(
          'int64',
          shape,
          Array.from({ length: shape[0]! * shape[1]! }, (_, i) => value(i)),
        );
      const inputs = {
        input_ids: ids((i) => (7 * i) % 50),
        attention_mask: ids(() => 1),
        token_type_ids: ids((i) => i % 2),
      };
      const [found, expected] = [await program.run(inputs), await run(fixtureBytes('bert-dynamo18'), inputs)];
      expect(worst(found.output!, expected.output!)).toBeLessThan(1e-5);
    }
  });

  test.each(['bert-script11', 'bert-dynamo18', 'vit-script13'])(
    '%s: a GELU that is written out becomes one operator',
    async (name) => {
      const model = await e.readOnnxModel(fixturePath(name));
      const { graph } = e.traceToOnnx((inputs) => model.apply({ inputs }), model.inputs);
      const types = graph.node.map(({ opType }) => opType);
      expect(types.filter((type) => type === 'Gelu').length).toBe(2);
      expect(types).not.toContain('Erf');
    },
  );

  test('vmap maps it over a batch', async () => {
    const model = await e.readOnnxModel(fixturePath('mobilenet-script17'), { sizes: { batch: 1 } });
    const { inputs, outputs } = reference('mobilenet-script17');
    await using program = await e.compile(
      ({ image }) => e.vmap((one: e.Tensor) => model.apply({ inputs: { image: one } }).output!)(image),
      { image: f32([2, 1, 3, 16, 16]) },
    );
    const found = await program.run({ image: { ...inputs.image!, shape: [2, 1, 3, 16, 16] } } as never);
    expect(worst({ ...(found as e.HostTensor), shape: outputs.output!.shape }, outputs.output!)).toBeLessThan(1e-5);
  });

  test('trains: the loss falls, and only what was chosen changes', async () => {
    const model = await e.readOnnxModel(fixturePath('vit-script13'));
    const { params, frozen } = model.split({ trainable: ['*layernorm*', /embeddings\.\w+_token/] });
    expect(Object.keys(params).length).toBeGreaterThan(3);
    const { inputs, outputs } = reference('vit-script13');
    const step = await e.trainStep({
      params,
      frozen,
      batch: { ...model.inputs, target: f32(['batch', 5, 16]) },
      optimizer: e.adamW(),
      schedule: e.constantRate(0.01),
      loss: (weights, { frozen, batch: { target, ...given } }) => {
        const y = model.apply({ weights: { ...frozen, ...weights }, inputs: given as Record<string, e.Tensor> })
          .output!;
        const gap = e.sub(y, target!);
        return e.mean(e.mul(gap, gap));
      },
    });
    const batch = { ...inputs, target: e.zeros('float32', outputs.output!.shape) };
    const losses: number[] = [];
    for (let i = 0; i < 8; i++) losses.push((await step.run(batch as never)).loss);
    expect(losses.at(-1)).toBeLessThan(losses[0]! * 0.9);
    const trained = await step.params();
    await step.dispose();

    // Written back, the stock runtime gives what the trained function gives.
    const bytes = e.toOnnx(model, trained);
    await using program = await e.compile((given) => model.apply({ inputs: given, weights: trained }), model.inputs);
    const [found, expected] = [await run(bytes, inputs), await program.run(inputs)];
    expect(worst(found.output!, expected.output!)).toBeLessThan(1e-5);
    expect(worst(found.output!, outputs.output!)).toBeGreaterThan(1e-2);
  });

  test('dropout and batch statistics come with `training`', async () => {
    const model = await e.readOnnxModel(fixturePath('resnet-script12'));
    const { inputs, outputs } = reference('resnet-script12');
    await using program = await e.compile((given) => model.apply({ inputs: given, training: true }), model.inputs);
    expect(worst((await program.run(inputs)).output!, outputs.output!)).toBeGreaterThan(1e-2);
  });

  test('refuses weights and inputs that do not fit', async () => {
    const model = await e.readOnnxModel(fixturePath('resnet-script12'));
    const apply = (weights: Record<string, e.HostTensor>) => () =>
      e.traceToOnnx((inputs) => model.apply({ inputs, weights }), model.inputs);
    expect(apply({ 'head.weigth': e.zeros('float32', [5, 16]) })).toThrow(
      /no weight "head.weigth"; near are head\.weight/,
    );
    expect(apply({ 'head.weight': e.zeros('float32', [16, 5]) })).toThrow(
      'weight "head.weight" is float32 [5, 16] in the model, but float32 [16, 5] was given',
    );
    expect(apply({ 'head.weight': e.zeros('float64', [5, 16]) })).toThrow('but float64 [5, 16] was given');
    expect(() => model.checkWeights({}, { complete: true })).toThrow(/22 weights are missing: /);
    expect(() => model.split({ trainable: 'heads.*' })).toThrow(/no weight matches "heads\.\*"; near are head\./);
    expect(() => e.traceToOnnx(() => model.apply({ inputs: {} }), {})).toThrow('input "image"');
    expect(() => e.toOnnx(model, { 'head.bias': e.zeros('float32', [4]) })).toThrow('INPUT_MISMATCH');
    const other = { image: f32(['batch', 3, 16, 8]) };
    expect(() => e.traceToOnnx((inputs) => model.apply({ inputs }), other)).toThrow('but float32 [batch, 3, 16, 8]');
  });
});

describe('LoRA', () => {
  test('starts as the same function, trains, merges, and writes either way', async () => {
    const model = await e.readOnnxModel(fixturePath('llama-dynamo20'));
    const tuned = e.insertLora(model, { targets: '*layers.*', rank: 2, alpha: 4, seed: 3 });
    const { params, frozen } = tuned.split();
    expect(Object.keys(params).every((name) => /\.lora_[AB]$/.test(name))).toBe(true);
    expect(Object.keys(params).length).toBe(2 * 2 * 7); // A and B of seven products in two layers
    const { inputs, outputs } = reference('llama-dynamo20');
    const step = await e.trainStep({
      params,
      frozen,
      batch: { ...tuned.inputs },
      optimizer: e.adamW(),
      schedule: e.constantRate(0.02),
      loss: (weights, { frozen, batch }) => {
        const logits = tuned.apply({ weights: { ...frozen, ...weights }, inputs: batch }).output!;
        return e.crossEntropy(e.reshape(logits, [-1, 40]), e.reshape(batch.input_ids!, [-1]));
      },
    });
    const losses: number[] = [];
    for (let i = 0; i < 6; i++) losses.push((await step.run(inputs)).loss);
    expect(losses.at(-1)).toBeLessThan(losses[0]! * 0.97);
    const trained = await step.params();
    await step.dispose();

    const same = await run(e.toOnnx(tuned), inputs);
    expect(worst(same.output!, outputs.output!)).toBeLessThan(1e-5);
    const apart = await run(e.toOnnx(tuned, trained), inputs);
    const merged = await run(e.toOnnx(model, e.mergeLora(tuned, trained)), inputs);
    expect(worst(apart.output!, merged.output!)).toBeLessThan(1e-4);
    expect(worst(merged.output!, outputs.output!)).toBeGreaterThan(1e-2);
  });

  test('a Gemm with factor, and names that are not there', async () => {
    const model = await e.readOnnxModel(fixturePath('resnet-script12'));
    const tuned = e.insertLora(model, { targets: 'head.weight', rank: 1 });
    expect(tuned.weights['head.weight.lora_A']).toMatchObject({ shape: [1, 16] });
    expect(tuned.weights['head.weight.lora_B']).toMatchObject({ shape: [5, 1] });
    expect(() => e.insertLora(model, { targets: 'tail.*' })).toThrow(
      /no MatMul or Gemm node.* matches "tail\.\*"; near are/,
    );
    expect(() => e.insertLora(model, { rank: 0 })).toThrow('a rank of 0');
  });
});

describe('writing back', () => {
  test('only the bytes of the weights differ', async () => {
    const model = await e.readOnnxModel(fixturePath('bert-script11'));
    expect(Buffer.from(e.toOnnx(model)).equals(fixtureBytes('bert-script11'))).toBe(true);
    const name = 'model.embeddings.word_embeddings.weight';
    const value = model.values(name)[name]!;
    const other = { ...value, data: (value.data as Float32Array).map((x) => x + 1) };
    const bytes = e.toOnnx(model, { [name]: other });
    expect(bytes.length).toBe(fixtureBytes('bert-script11').length);
    const again = await e.readOnnxModel(bytes);
    expect(Buffer.from(again.values(name)[name]!.data.buffer as ArrayBuffer).length).toBeGreaterThan(0);
    expect(worst(again.values(name)[name]!, other)).toBe(0);
  });
});

describe('external data', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'onnx-external-'));
  });
  afterAll(() => rm(folder, { recursive: true }));

  test('is written beside the model, read back, and opens in the runtime', async () => {
    const { inputs, outputs } = reference('llama-dynamo20');
    const model = await e.readOnnxModel(fixturePath('llama-dynamo20'));
    const path = join(folder, 'model.onnx');
    await e.saveOnnx(path, model, {}, { external: 'beside' });
    expect((await readFile(path)).length).toBeLessThan(fixtureBytes('llama-dynamo20').length / 2);
    expect(worst((await run(path, inputs)).output!, outputs.output!)).toBeLessThan(1e-5);
    const again = await e.readOnnxModel(path);
    const name = Object.keys(again.split().params)[0]!;
    expect(worst(again.values(name)[name]!, model.values(name)[name]!)).toBe(0);
    // Kept beside under the new name, or taken inside.
    await e.saveOnnx(join(folder, 'kept.onnx'), again, again.values(name));
    expect(worst((await run(join(folder, 'kept.onnx'), inputs)).output!, outputs.output!)).toBeLessThan(1e-5);
    expect(worst((await run(e.toOnnx(again), inputs)).output!, outputs.output!)).toBeLessThan(1e-5);
  });

  const withLocation = async (change: Record<string, string | undefined>) => {
    const proto = e.readOnnx(new Uint8Array(await readFile(join(folder, 'model.onnx'))));
    const tensor = proto.graph.initializer!.find(({ dataLocation }) => dataLocation === 1)!;
    const entries = new Map(tensor.externalData!.map(({ key, value }) => [key, value]));
    for (const [key, value] of Object.entries(change)) {
      if (value === undefined) entries.delete(key);
      else entries.set(key, value);
    }
    tensor.externalData = [...entries].map(([key, value]) => ({ key, value }));
    await mkdir(join(folder, 'inner'), { recursive: true });
    const path = join(folder, 'inner', 'changed.onnx');
    await writeFile(path, e.writeOnnx(proto));
    await writeFile(join(folder, 'inner', 'model.onnx.data'), await readFile(join(folder, 'model.onnx.data')));
    return e.readOnnxModel(path);
  };

  test.each([
    ['an absolute path', { location: '/etc/passwd' }, 'leaves'],
    ['a drive', { location: 'C:\\data' }, 'leaves'],
    ['a parent', { location: '../model.onnx.data' }, 'leaves'],
    ['a parent in between', { location: 'a/../../model.onnx.data' }, 'leaves'],
    ['a backslash parent', { location: '..\\model.onnx.data' }, 'leaves'],
    ['a file that is not there', { location: 'nothing.data' }, "is not in the model's folder"],
    ['the folder itself', { location: '.' }, 'ONNX_INVALID'],
    ['an offset beyond the end', { offset: '99999999' }, 'is it cut short'],
    ['an offset that is no number', { offset: '-4' }, 'no number'],
    ['a length that differs', { length: '12' }, 'declares 12'],
    ['no location', { location: undefined }, 'has no location'],
  ])('%s is refused', async (_, change, message) => {
    await expect(withLocation(change)).rejects.toMatchObject({
      code: 'ONNX_INVALID',
      message: expect.stringContaining(message),
    });
  });

  test('a link out of the folder is refused, one inside it is read', async () => {
    await mkdir(join(folder, 'inner'), { recursive: true });
    await symlink(join(folder, 'model.onnx.data'), join(folder, 'inner', 'out.data'));
    await expect(withLocation({ location: 'out.data' })).rejects.toThrow('is a link that leaves');
    await symlink('model.onnx.data', join(folder, 'inner', 'in.data'));
    await expect(withLocation({ location: 'in.data' })).resolves.toBeDefined();
  });

  test('bytes without a folder need a reader', async () => {
    const bytes = new Uint8Array(await readFile(join(folder, 'model.onnx')));
    await expect(e.readOnnxModel(bytes)).rejects.toThrow('open the model by its path');
    await expect(e.readOnnxModel(bytes, { external: e.folderReader(folder) })).resolves.toBeDefined();
  });
});
