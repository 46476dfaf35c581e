/**
 * Makes `model/` from the float32 checkpoint: every matrix becomes int8 with one scale a row, vectors stay float32.
 *
 *   npx tsc -b packages/models && node packages/encoder-minilm/scripts/build.mjs <folder with model.safetensors>
 *
 * The README says where the checkpoint comes from. Equal input gives equal bytes.
 */
import { createHash } from 'node:crypto';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { quantizeRows, readSafetensors, writeSafetensors } from '@fewtune/models';

const [source] = process.argv.slice(2);
if (!source) {
  console.error('usage: node build.mjs <folder that holds model.safetensors, config.json, tokenizer.json, …>');
  process.exit(2);
}
const target = join(dirname(fileURLToPath(import.meta.url)), '..', 'model');

await mkdir(join(target, '1_Pooling'), { recursive: true });
for (const file of ['config.json', 'sentence_bert_config.json', '1_Pooling/config.json']) {
  await copyFile(join(source, file), join(target, file));
}

// The checkpoint's tokenizer.json pads and cuts to 128, a leftover; sentence-transformers uses max_seq_length (256).
const { max_seq_length: maxLength } = JSON.parse(await readFile(join(source, 'sentence_bert_config.json'), 'utf8'));
const tokenizer = JSON.parse(await readFile(join(source, 'tokenizer.json'), 'utf8'));
await writeFile(join(target, 'tokenizer.json'), JSON.stringify({ ...tokenizer, truncation: null, padding: null }));
const tokenizerConfig = JSON.parse(await readFile(join(source, 'tokenizer_config.json'), 'utf8'));
await writeFile(
  join(target, 'tokenizer_config.json'),
  `${JSON.stringify({ ...tokenizerConfig, model_max_length: maxLength }, null, 2)}\n`,
);

const { tensors } = await readSafetensors(
  join(source, 'model.safetensors'),
  (name) => !/^pooler\.|position_ids$/.test(name), // never used for sentence vectors
);
const packed = {};
for (const [name, tensor] of Object.entries(tensors)) {
  if (tensor.shape.length === 2) {
    const { values, scales } = quantizeRows(tensor);
    packed[name] = values;
    packed[`${name}.scale`] = scales;
  } else packed[name] = tensor;
}
const weights = join(target, 'model.int8.safetensors');
await writeSafetensors(weights, packed, { format: 'pt', quantization: 'int8 symmetric per row' });

for (const [what, path] of [
  ['source', join(source, 'model.safetensors')],
  ['result', weights],
]) {
  const bytes = await readFile(path);
  console.log(`${what}  ${bytes.byteLength} bytes  sha256 ${createHash('sha256').update(bytes).digest('hex')}`);
}
