import { copyFile, mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** A word-level tokenizer over a vocabulary of 30, like that of the tiny fixtures. */
export const tinyTokenizer = JSON.stringify({
  version: '1.0',
  added_tokens: [],
  normalizer: { type: 'Lowercase' },
  pre_tokenizer: { type: 'Whitespace' },
  post_processor: null,
  decoder: null,
  model: {
    type: 'WordLevel',
    unk_token: '[UNK]',
    vocab: Object.fromEntries(['[PAD]', '[UNK]', ...'abcdefghijklmnopqrstuvwxyz12'].map((word, id) => [word, id])),
  },
});

/** The folder of a tiny fixture, copied into a temporary one with a tokenizer and whatever `files` holds. */
export async function tinyCheckpoint(type: string, files: Record<string, string> = {}): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'checkpoint-'));
  for (const file of ['config.json', 'model.safetensors']) {
    await copyFile(
      fileURLToPath(new URL(`../test/fixtures/${type}-tiny/${file}`, import.meta.url)),
      join(folder, file),
    );
  }
  for (const [file, text] of Object.entries({ 'tokenizer.json': tinyTokenizer, ...files })) {
    await mkdir(dirname(join(folder, file)), { recursive: true });
    await writeFile(join(folder, file), text);
  }
  return folder;
}
