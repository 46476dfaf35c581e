import { chmod, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { FeatureStore, textKey } from './feature-store.js';
import { labelText } from './label-names.js';

let root: string;
let folder: string;
let next = 0;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'fewtune-features-'));
});
beforeEach(() => {
  folder = join(root, String(next++));
});
afterAll(() => rm(root, { recursive: true, force: true }));

const vectors = (...texts: string[]) =>
  new Map(texts.map((text) => [textKey(text), Float32Array.of(text.length, -0.5, text.charCodeAt(0))]));

describe('FeatureStore', () => {
  test('gives back what was saved, from several files', async () => {
    const store = new FeatureStore(folder, 3);
    expect((await store.load()).size).toBe(0);
    await store.save(vectors('a', 'bcd'));
    await store.save(vectors('ü\0x', '__proto__'));
    expect(await new FeatureStore(folder, 3).load()).toEqual(vectors('a', 'bcd', 'ü\0x', '__proto__'));
  });

  test('a damaged, cut or foreign file is left aside', async () => {
    const store = new FeatureStore(folder, 3);
    await store.save(vectors('good'));
    const [name] = await readdir(folder);
    const bytes = await readFile(join(folder, name!));
    const changed = Buffer.from(bytes);
    changed[changed.length - 1]! ^= 1;
    await writeFile(join(folder, 'changed.features'), changed);
    await writeFile(join(folder, 'cut.features'), bytes.subarray(0, bytes.length - 5));
    await writeFile(join(folder, 'foreign.features'), 'hello');
    await writeFile(join(folder, 'unfinished.partial'), bytes);
    expect(await store.load()).toEqual(vectors('good'));
  });

  test('many small files become one', async () => {
    const store = new FeatureStore(folder, 3);
    const texts = Array.from({ length: 30 }, (_, i) => `text ${i}`);
    for (const text of texts) await store.save(vectors(text));
    expect(await store.load()).toEqual(vectors(...texts));
    expect(await readdir(folder)).toHaveLength(1);
    expect(await store.load()).toEqual(vectors(...texts));
  });

  test('a folder that cannot be made is an error of save and no vectors of load', async () => {
    await writeFile(folder, 'a file in the way');
    const store = new FeatureStore(join(folder, 'below'), 3);
    expect((await store.load()).size).toBe(0);
    await expect(store.save(vectors('a'))).rejects.toThrow();
    await chmod(folder, 0o600);
  });
});

test('labels as sentences', () => {
  expect(labelText('Refund_not_showing_up')).toBe('refund not showing up');
  expect(labelText('cardArrival')).toBe('card arrival');
  expect(labelText('a/b-c: d')).toBe('a b c d');
  expect(labelText('naïveÉtat')).toBe('naïve état');
});
