import { type HostTensor, hostTensor } from '@fewtune/engine';
import { SentenceEmbedder } from '@fewtune/models';
import { afterAll, expect, test } from 'vitest';
import { createRandom } from '../../data/random.js';
import { adaptEncoder, type LoraAdapter } from './adapter.js';
import { AdapterBank } from './adapter-bank.js';
import { AdapterServer } from './adapter-server.js';
import { chooseWeights, type TriedWeights } from './choose-weights.js';
import { combineAdapters } from './combine-adapters.js';
import { headScore, prototypeScore } from './held-out-score.js';
import { startLora } from './lora-start.js';
import { tinyEncoder, tinyWeights } from './tiny-bert.fixture.js';

function randomAdapter(seed: number, rank = 4): LoraAdapter {
  const random = createRandom(seed);
  const { adapter } = startLora(tinyWeights, { rank, alpha: 6, targets: 'all-linear' }, random);
  const filled = ({ shape, data }: HostTensor) =>
    hostTensor(
      'float32',
      shape,
      Float32Array.from(data as Float32Array, () => 0.3 * random.gaussian()),
    );
  return {
    ...adapter,
    weights: Object.fromEntries(Object.entries(adapter.weights).map(([name, value]) => [name, filled(value)])),
  };
}

function randomHead(seed: number, labels: readonly string[]) {
  const random = createRandom(seed);
  const drawn = (count: number) => Float32Array.from({ length: count }, () => random.gaussian());
  return { weight: drawn(labels.length * 16), bias: drawn(labels.length), labels };
}

const random = createRandom(5);
const texts = Array.from({ length: 24 }, () =>
  [2, ...Array.from({ length: 2 + random.int(8) }, () => 4 + random.int(20)), 3].join(' '),
);
const server = await AdapterServer.create(tinyEncoder);
const bank = await AdapterBank.create(tinyEncoder);
afterAll(async () => {
  await server.dispose();
  await bank.dispose();
});

/** Labels by the merged encoder's pooled states and the head, as numbers worked out apart. */
async function expected(adapter: LoraAdapter, { weight, bias, labels }: ReturnType<typeof randomHead>) {
  await using plain = await AdapterBank.create(adaptEncoder(tinyEncoder, adapter), { normalise: false });
  const states = await plain.embed(texts, null);
  return texts.map((_, row) => {
    const scores = labels.map(
      (_, c) =>
        bias[c]! +
        Array.from({ length: 16 }, (_, j) => weight[c * 16 + j]! * states[row * 16 + j]!).reduce((a, b) => a + b),
    );
    return labels[scores.indexOf(Math.max(...scores))]!;
  });
}

test('each text is answered by its adapter with its own head', async () => {
  const [a, b] = [randomAdapter(1), randomAdapter(2)];
  const [headA, headB] = [randomHead(3, ['x', 'y', 'z']), randomHead(4, ['p', 'q'])];
  server.add('a', a, headA);
  server.add('b', b, headB);
  const asked = texts.map((_, i) => (i % 3 === 0 ? 'b' : 'a'));
  const found = await server.predict(texts, asked);
  const [byA, byB] = [await expected(a, headA), await expected(b, headB)];
  expect(found.map(({ label }) => label)).toEqual(asked.map((name, i) => (name === 'a' ? byA[i] : byB[i])));
  expect(found.map(({ adapter }) => adapter)).toEqual(asked);
  expect(Object.keys(found[0]!.scores)).toEqual(['p', 'q']);
  const unknown = { code: 'ADAPTER_UNKNOWN', message: expect.stringMatching(/"c"; near are/) };
  await expect(server.predict(texts, 'c')).rejects.toMatchObject(unknown);
  await expect(server.predict(['2 3', '2 3'], ['a', 'c'])).rejects.toMatchObject(unknown);
  expect(() => server.add('c', a, randomHead(1, ['x']))).not.toThrow();
  server.remove('c');
  const narrow = { ...randomHead(1, ['x', 'y']), weight: new Float32Array(8) };
  expect(() => server.add('c', a, narrow)).toThrow(/ADAPTER_MISMATCH|8 weights and 2 biases for 2 labels/);
  expect(server.names).toEqual(['a', 'b']);
});

test('adapters come and go while requests are in flight: each is answered by what was there when it came', async () => {
  const versions = [1, 2, 3, 4, 5, 6].map((seed) => ({
    adapter: randomAdapter(10 + seed, 1 + seed),
    head: randomHead(20 + seed, [`v${seed}`, `w${seed}`]),
  }));
  const answers = await Promise.all(versions.map(({ adapter, head }) => expected(adapter, head)));
  const running: Promise<void>[] = [];
  for (let turn = 0; turn < 24; turn++) {
    const version = turn % versions.length;
    const { adapter, head } = versions[version]!;
    server.add('hot', adapter, head);
    running.push(
      server.predict(texts, 'hot').then((found) => expect(found.map(({ label }) => label)).toEqual(answers[version])),
    );
    if (turn % 2 === 0) {
      server.remove('hot');
      running.push(expect(server.predict(texts, 'hot')).rejects.toMatchObject({ code: 'ADAPTER_UNKNOWN' }));
    }
    if (turn % 5 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  await Promise.all(running);
  server.remove('hot');
  expect(server.names).toEqual(['a', 'b']);
});

/** Classes as an adapter's own vectors have them, so that it is the one that is right. */
async function rowsOf(adapter: LoraAdapter) {
  await using embedder = await SentenceEmbedder.create(adaptEncoder(tinyEncoder, adapter));
  const vectors = await embedder.embed(texts);
  const dot = (row: number) =>
    vectors.subarray(row * 16, row * 16 + 16).reduce((sum, x, i) => sum + x * (i % 2 ? 1 : -1), 0);
  const order = [...texts.keys()].sort((a, b) => dot(a) - dot(b));
  const labels = new Int32Array(texts.length);
  for (const row of order.slice(texts.length / 2)) labels[row] = 1;
  const half = (parity: number) => {
    const rows = [...order.keys()].filter((place) => place % 2 === parity).map((place) => order[place]!);
    return {
      texts: rows.map((row) => texts[row]!),
      labels: Int32Array.from(rows, (row) => labels[row]!),
      classes: ['0', '1'],
    };
  };
  return { support: half(0), heldOut: half(1) };
}

test('weights are chosen on held-out rows: what was trained for them beats what was not', async () => {
  const adapters = [randomAdapter(1), randomAdapter(2), randomAdapter(3)];
  const rows = await rowsOf(adapters[1]!);
  const score = prototypeScore(bank, rows);
  const tried: TriedWeights[] = [];
  const chosen = await chooseWeights(adapters, score, { onTried: (one) => tried.push(one), seed: 1 });
  expect(tried).toEqual(chosen.tried);
  const equal = tried[0]!;
  expect(equal.weights).toEqual([1 / 3, 1 / 3, 1 / 3]);
  expect(chosen.score.accuracy).toBeGreaterThanOrEqual(Math.max(...tried.map((one) => one.score.accuracy)));
  expect(chosen.score.accuracy).toBeGreaterThan(equal.score.accuracy);
  const parts = adapters.flatMap((adapter, i) => (chosen.weights[i] ? [{ adapter, weight: chosen.weights[i] }] : []));
  expect(chosen.adapter).toEqual(combineAdapters(parts, { method: chosen.method, seed: 1 }));
  expect(await score(chosen.adapter)).toEqual(chosen.score); // measured, and again the same
  expect(bank.names).toEqual([]);
});

test('a head measures too, and what cannot be measured or combined is refused', async () => {
  await using plain = await AdapterBank.create(tinyEncoder, { normalise: false });
  const [adapter, head] = [randomAdapter(1), randomHead(3, ['x', 'y'])];
  const labels = Int32Array.from((await expected(adapter, head)).map((label) => (label === 'x' ? 0 : 1)));
  const score = headScore(plain, head, { texts, labels, classes: ['x', 'y'] });
  expect(await score(adapter)).toMatchObject({ accuracy: 1 });
  const chosen = await chooseWeights([randomAdapter(2), adapter], score, { methods: ['cat'], grid: [0, 1] });
  expect(chosen).toMatchObject({ method: 'cat', weights: [0, 1], score: { accuracy: 1 } });
  expect(() => headScore(plain, head, { texts, labels, classes: ['x', 'other'] })).toThrow(/does not know/);
  await expect(chooseWeights([], score)).rejects.toMatchObject({ code: 'OPTION_INVALID' });
  const controller = new AbortController();
  controller.abort();
  const work = chooseWeights([adapter], score, { signal: controller.signal });
  await expect(work).rejects.toMatchObject({ code: 'INTERRUPTED' });
});
