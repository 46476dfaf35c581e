import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { SentenceEmbedder } from './embedder.js';
import { loadEncoder } from './load-encoder.js';
import { readSafetensors } from './safetensors.js';

const fixture = (name: string): string => fileURLToPath(new URL(`../test/fixtures/${name}`, import.meta.url));

describe('the embedded encoder', () => {
  let embedder: SentenceEmbedder;
  let sentences: string[];

  beforeAll(async () => {
    embedder = await SentenceEmbedder.create(await loadEncoder(), { threads: 1 });
    sentences = JSON.parse(await readFile(fixture('sentences.json'), 'utf8'));
  });
  afterAll(() => embedder.dispose());

  test('says what it is', () => {
    const { id, hidden, layers, pooling, fingerprint, revision } = embedder.encoder;
    expect({ id, hidden, layers, pooling, revision }).toEqual({
      id: 'all-MiniLM-L6-v2',
      hidden: 384,
      layers: 6,
      pooling: 'mean',
      revision: undefined,
    });
    expect(fingerprint).toMatch(/^[0-9a-f]{64}$/);
  });

  test('its vectors are those of the float32 model by sentence-transformers', async () => {
    // test/fixtures/make-references.py
    const reference = (await readSafetensors(fixture('minilm-sentences.safetensors'))).tensors.embeddings!;
    const progress: number[] = [];
    const vectors = await embedder.embed(sentences, { onProgress: ({ done }) => progress.push(done) });
    const cosines = sentences.map((_, row) => dot(vectors, reference.data as Float32Array, row));
    expect(Math.min(...cosines)).toBeGreaterThan(0.99);
    expect(progress.at(-1)).toBe(sentences.length);
  });

  test('a text has the same vector alone and in company, and length 1', async () => {
    const together = await embedder.embed(sentences);
    const alone = await embedder.embed([sentences[49]!, sentences[44]!]); // the longest and the shortest
    expect(dot(alone, together.subarray(49 * 384), 0)).toBeCloseTo(1, 5);
    expect(dot(alone.subarray(384), together.subarray(44 * 384), 0)).toBeCloseTo(1, 5);
    expect(dot(alone, alone, 0)).toBeCloseTo(1, 5);
    expect(await embedder.embed([])).toEqual(new Float32Array(0));
    expect((await embedder.embed([''])).every(Number.isFinite)).toBe(true);
  });

  test('an aborted signal stops it between batches', async () => {
    const abort = new AbortController();
    const onProgress = (): void => abort.abort('enough');
    const many = Array.from({ length: 400 }, (_, i) => `${'word '.repeat(i % 40)}${i}`);
    await expect(embedder.embed(many, { signal: abort.signal, onProgress })).rejects.toMatchObject({
      code: 'ABORTED',
      cause: 'enough',
    });
  });
});

/** Rows are of length 1, so this is the cosine. */
function dot(a: Float32Array, b: Float32Array, row: number): number {
  let sum = 0;
  for (let c = row * 384; c < (row + 1) * 384; c++) sum += a[c]! * b[c]!;
  return sum;
}
