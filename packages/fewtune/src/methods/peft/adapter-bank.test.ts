import { type HostTensor, hostTensor } from '@fewtune/engine';
import { SentenceEmbedder } from '@fewtune/models';
import { afterAll, expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { adaptEncoder, type LoraAdapter } from './adapter.js';
import { AdapterBank } from './adapter-bank.js';
import { startLora } from './lora-start.js';
import { readAdapter } from './peft-files.js';
import { adapterFolder, tinyEncoder, tinyWeights } from './tiny-bert.fixture.js';

/** All of an adapter random, so that adapters differ and none is its base. */
function randomAdapter(seed: number, rank = 4, targets: string | string[] = 'all-linear'): LoraAdapter {
  const random = createRandom(seed);
  const { adapter } = startLora(tinyWeights, { rank, alpha: 6, targets }, random);
  const filled = ({ shape, data }: HostTensor) =>
    hostTensor(
      'float32',
      shape,
      Array.from({ length: data.length }, () => 0.3 * random.gaussian()),
    );
  return {
    ...adapter,
    weights: Object.fromEntries(Object.entries(adapter.weights).map(([name, value]) => [name, filled(value)])),
  };
}

async function merged(adapter: LoraAdapter | null, texts: readonly string[]): Promise<Float32Array> {
  await using embedder = await SentenceEmbedder.create(adapter ? adaptEncoder(tinyEncoder, adapter) : tinyEncoder);
  return embedder.embed(texts);
}

const texts = ['2 5 3', '2 9 8 7 3', '2 4 3', '2 11 12 3', '2 5 3', '2 20 21 22 23 3'];
const row = (vectors: Float32Array, i: number) => [...vectors.subarray(i * 16, (i + 1) * 16)];
const worst = (a: readonly number[], b: readonly number[]) => Math.max(...a.map((value, i) => Math.abs(value - b[i]!)));

const bank = await AdapterBank.create(tinyEncoder);
afterAll(() => bank.dispose());

test('each sentence of a batch has its own adapter, equal to the one merged', async () => {
  const adapters: Record<string, LoraAdapter> = {
    a: randomAdapter(1),
    b: randomAdapter(2, 2, 'value'),
    c: randomAdapter(3, 7),
  };
  for (const [name, adapter] of Object.entries(adapters)) bank.add(name, adapter);
  expect(bank.names).toEqual(['a', 'b', 'c']);
  const asked = ['a', 'b', null, 'c', 'c', 'a'];
  const mixed = await bank.embed(texts, asked);
  for (const name of ['a', 'b', 'c', null]) {
    const alone = await merged(name === null ? null : adapters[name]!, texts);
    const single = await bank.embed(texts, name);
    for (const [i, wanted] of asked.entries()) {
      expect(worst(row(single, i), row(alone, i)), `${name} alone, sentence ${i}`).toBeLessThan(1e-5);
      if (wanted === name) expect(worst(row(mixed, i), row(alone, i)), `${name}, sentence ${i}`).toBeLessThan(1e-5);
      else expect(worst(row(mixed, i), row(alone, i))).toBeGreaterThan(1e-3);
    }
  }
});

test('adding, replacing and removing do not disturb calls under way', async () => {
  const [first, second] = [randomAdapter(11), randomAdapter(12, 9)];
  bank.add('x', first);
  const before = await bank.embed(texts, 'x');
  const running = bank.embed(texts, 'x');
  bank.remove('x');
  bank.add('y', second); // a larger rank: the blocks are made anew
  bank.add('x', second);
  expect(await running).toEqual(before);
  const after = await bank.embed(texts, 'x');
  expect(worst([...after], [...(await merged(second, texts))])).toBeLessThan(1e-5);
  expect(await bank.embed(texts, 'y')).toEqual(after);
  bank.remove('y');
  bank.remove('x');
  const { bytes } = bank;
  for (let i = 0; i < 50; i++) {
    bank.add('again', first);
    bank.remove('again');
  }
  expect(bank.bytes).toBe(bytes); // freed places are filled again
});

test('an unknown name is an error that lists near ones, never the tinyEncoder as it is', async () => {
  bank.add('english', randomAdapter(1));
  const unknown = { code: 'ADAPTER_UNKNOWN', message: expect.stringMatching(/"englich"; near are english/) };
  await expect(bank.embed(texts, 'englich')).rejects.toMatchObject(unknown);
  await expect(bank.embed(['2 5 3', '2 3'], [null, 'englich'])).rejects.toMatchObject(unknown);
  expect(() => bank.remove('englich')).toThrow(/no adapter "englich"/);
  await expect(bank.embed(texts, ['english'])).rejects.toMatchObject({ code: 'OPTION_INVALID' });
});

test('what a bank cannot hold is refused', async () => {
  const dora = await readAdapter(adapterFolder('dora'));
  expect(() => bank.add('dora', dora)).toThrow(/lora_magnitude_vector.*adaptEncoder/);
  await using narrow = await AdapterBank.create(tinyEncoder, { targets: 'query' });
  expect(() => narrow.add('wide', randomAdapter(1))).toThrow(/not made for/);
  narrow.add('fits', randomAdapter(4, 2, 'query'));
  const alone = await merged(randomAdapter(4, 2, 'query'), texts);
  expect(worst([...(await narrow.embed(texts, 'fits'))], [...alone])).toBeLessThan(1e-5);
  const weights = Object.fromEntries(
    Object.entries(randomAdapter(5, 2, 'query').weights).flatMap(([name, value]) => [
      [name, value],
      [name.replace(/^tinyEncoder.*query/, 'pooler.dense'), value], // PEFT's all-linear adapts the pooler too
    ]),
  );
  const pooled: LoraAdapter = { ...randomAdapter(5, 2, 'query'), weights };
  bank.add('pooled', pooled);
  expect(worst([...(await bank.embed(texts, 'pooled'))], [...(await merged(pooled, texts))])).toBeLessThan(1e-5);
  const foreign: LoraAdapter = { ...randomAdapter(1), base: { fingerprint: 'another' } };
  expect(() => bank.add('foreign', foreign)).toThrow(expect.objectContaining({ code: 'ADAPTER_MISMATCH' }));
});
