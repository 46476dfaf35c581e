import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { loadEncoder } from './load-encoder.js';
import { readSafetensors, writeSafetensors } from './safetensors.js';
import { tinyCheckpoint } from './tiny-checkpoint.fixture.js';

test('a folder becomes an encoder; prefix, old norm names, half precision, shards and heads make no difference', async () => {
  const folder = await tinyCheckpoint('bert');
  const plain = await loadEncoder(folder);
  expect(plain).toMatchObject({ id: folder, hidden: 16, layers: 2, pooling: 'mean' });
  expect(plain.tokenizer.maxLength).toBe(16); // the position table's, as nothing else is said
  expect(plain.weights['encoder.layer.0.attention.self.query.weight']!.shape).toEqual([16, 16]);

  const path = join(folder, 'model.safetensors');
  const { tensors } = await readSafetensors(path);
  const head = { dtype: 'float32', shape: [1], data: Float32Array.of(1) } as const;
  const old = Object.entries(tensors).map(([name, tensor]) => [
    `bert.${name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta')}`,
    tensor,
  ]);
  const half = Math.ceil(old.length / 2);
  await writeSafetensors(join(folder, 'a.safetensors'), Object.fromEntries(old.slice(0, half)));
  await writeSafetensors(join(folder, 'b.safetensors'), {
    ...Object.fromEntries(old.slice(half)),
    'cls.predictions.bias': head,
    'bert.pooler.dense.bias': head,
    'bert.embeddings.position_ids': { dtype: 'int64', shape: [1], data: BigInt64Array.of(0n) },
  });
  const weightMap = Object.fromEntries(old.map(([name], i) => [name, i < half ? 'a.safetensors' : 'b.safetensors']));
  await writeFile(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map: weightMap }));
  await rm(path);
  const sharded = await loadEncoder(folder);
  expect(sharded.fingerprint).toBe(plain.fingerprint);
});

test('float16 weights widen exactly', async () => {
  const folder = await tinyCheckpoint('bert');
  const path = join(folder, 'model.safetensors');
  const { tensors } = await readSafetensors(path);
  // 1, -2, the smallest subnormal, the largest finite value
  const data = new Uint16Array(16).fill(0x3c00);
  data.set([0x3c00, 0xc000, 0x0001, 0x7bff]);
  const bias = 'embeddings.LayerNorm.bias';
  await writeSafetensors(path, { ...tensors, [bias]: { dtype: 'float16', shape: [16], data } });
  const read = (await loadEncoder(folder)).weights[bias]!;
  expect(read.dtype).toBe('float32');
  expect([...read.data.slice(0, 4)]).toEqual([1, -2, 2 ** -24, 65504]);
});

test('what sentence-transformers wrote down is followed', async () => {
  const folder = await tinyCheckpoint('bert', {
    'sentence_bert_config.json': '{"max_seq_length": 7}',
    '1_Pooling/config.json': '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}',
    'modules.json': '[{"type": "sentence_transformers.models.Transformer"}, {"type": "st.base.modules.Pooling"}]',
  });
  const encoder = await loadEncoder(folder);
  expect([encoder.pooling, encoder.tokenizer.maxLength]).toEqual(['cls', 7]);
  const plain = await loadEncoder(await tinyCheckpoint('bert'));
  expect(encoder.fingerprint).not.toBe(plain.fingerprint);
});

test.each([
  [{ 'modules.json': '[{"type": "sentence_transformers.models.Dense"}]' }, 'ENCODER_UNSUPPORTED', 'Dense'],
  [{ '1_Pooling/config.json': '{"pooling_mode_max_tokens": true}' }, 'ENCODER_UNSUPPORTED', 'max_tokens'],
  [{ 'config.json': '{' }, 'ENCODER_INCOMPLETE', 'config.json is not JSON'],
  [{ 'config.json': '{"model_type": "t5"}' }, 'ENCODER_UNSUPPORTED', 't5'],
  [{ 'tokenizer.json': '{' }, 'TOKENIZER_INVALID', 'tokenizer.json is not JSON'],
  [{ 'model.safetensors': 'nonsense' }, 'SAFETENSORS_INVALID', 'model.safetensors'],
])('%j is refused', async (files, code, message) => {
  const folder = await tinyCheckpoint('bert', files as Record<string, string>);
  await expect(loadEncoder(folder)).rejects.toMatchObject({ code, message: expect.stringContaining(message) });
});

test('missing files are named, with what to do', async () => {
  const refused = async (folder: string, code: string, message: string): Promise<void> =>
    expect(loadEncoder(folder)).rejects.toMatchObject({ code, message: expect.stringContaining(message) });
  const folder = await tinyCheckpoint('bert');
  await rm(join(folder, 'tokenizer.json'));
  await refused(folder, 'ENCODER_INCOMPLETE', 'no tokenizer.json');
  await rm(join(folder, 'config.json'));
  await refused(folder, 'ENCODER_INCOMPLETE', 'no config.json');
  await refused('./no-such-folder', 'ENCODER_NOT_FOUND', './no-such-folder');
  await refused('', 'ENCODER_NOT_FOUND', 'Hub id');
});

test('a pickle is never opened, nor a shard outside the folder', async () => {
  const folder = await tinyCheckpoint('bert');
  await rename(join(folder, 'model.safetensors'), join(folder, 'pytorch_model.bin'));
  await expect(loadEncoder(folder)).rejects.toMatchObject({
    code: 'ENCODER_UNSAFE',
    message: expect.stringContaining('pickle'),
  });
  const index = join(folder, 'model.safetensors.index.json');
  await writeFile(index, JSON.stringify({ weight_map: { x: '../other.safetensors' } }));
  await expect(loadEncoder(folder)).rejects.toMatchObject({
    code: 'ENCODER_UNSAFE',
    message: expect.stringContaining('../other'),
  });
  expect(await readFile(index, 'utf8')).toContain('other');
});
