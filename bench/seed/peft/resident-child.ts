import { type HostTensor, hostTensor } from '@fewtune/engine';
import { loadEncoder, SentenceEmbedder } from '@fewtune/models';
import { AdapterBank, adaptEncoder, createRandom, type LoraAdapter, startLora } from 'fewtune';
import { threads } from '../../lib/machine.js';
import { median } from '../../lib/statistics.js';

/** A process of its own: a bank over MiniLM, and so many adapters of rank 8 on every linear layer. */
const [adapters, rounds] = process.argv.slice(2).map(Number) as [number, number];
const rank = 8;
const texts = Array.from({ length: 32 }, (_, i) => sentence(i));

const collect = (globalThis as { gc?: () => void }).gc;
if (!collect) throw new Error('run with --expose-gc');

const encoder = await loadEncoder();
const bank = await AdapterBank.create(encoder, { threads });
await warm(null);
const emptyBytes = resident();
const own: LoraAdapter[] = Array.from({ length: adapters }, (_, i) => randomAdapter(i + 1));
const names = own.map((_, i) => `adapter ${i}`);
const oneBytes = Object.values(own[0]!.weights).reduce((sum, { data }) => sum + data.byteLength, 0);
const added: number[] = [];
for (const [i, adapter] of own.entries()) {
  const began = performance.now();
  bank.add(names[i]!, adapter);
  added.push(performance.now() - began);
  if (i > 1) own[i] = undefined as unknown as LoraAdapter; // the bank has its own copy
}
await warm(names[0]!);
const fullBytes = resident();

const largest = await differenceToMerged();
const [same, other] = await oneText();
const batches = await batchTimes();
await bank.dispose();
process.stdout.write(
  `${JSON.stringify({
    adapterBytes: adapters * oneBytes,
    bankBytes: bank.bytes,
    grownBytes: fullBytes - emptyBytes,
    emptyBytes,
    largest,
    addMs: median(added.slice(2)),
    sameMs: median(same),
    otherMs: median(other),
    ...batches,
  })}\n`,
);

function resident(): number {
  for (let i = 0; i < 4; i++) collect!();
  return process.memoryUsage().rss;
}

async function warm(name: string | null): Promise<void> {
  for (let i = 0; i < 3; i++) await bank.embed(texts, name);
}

/** Every entry drawn, B too, so that adapters move the vectors and none is another's. */
function randomAdapter(seed: number): LoraAdapter {
  const random = createRandom(seed);
  const { adapter } = startLora(encoder.weights, { rank, alpha: 16, targets: 'all-linear' }, random);
  const drawn = ({ shape, data }: HostTensor) =>
    hostTensor(
      'float32',
      shape,
      Float32Array.from(data as Float32Array, () => 0.02 * random.gaussian()),
    );
  const weights = Object.entries(adapter.weights).map(([name, value]) => [name, drawn(value)] as const);
  return { ...adapter, weights: Object.fromEntries(weights) };
}

/** Largest difference of a number in a sentence vector to the encoder with the adapter merged, and to the bare one. */
async function differenceToMerged(): Promise<{ toMerged: number; toBase: number }> {
  const between = (a: Float32Array, b: Float32Array) =>
    a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0);
  const bare = await bank.embed(texts, null);
  let [toMerged, toBase] = [0, Number.POSITIVE_INFINITY];
  for (const i of [0, 1]) {
    const ours = await bank.embed(texts, names[i]!);
    const embedder = await SentenceEmbedder.create(adaptEncoder(encoder, own[i]!), { threads });
    toMerged = Math.max(toMerged, between(ours, await embedder.embed(texts)));
    toBase = Math.min(toBase, between(ours, bare));
    await embedder.dispose();
  }
  return { toMerged, toBase };
}

/** Milliseconds of one sentence with the adapter of the call before, and with another one than before; alternating. */
async function oneText(): Promise<[number[], number[]]> {
  const [same, other]: [number[], number[]] = [[], []];
  const call = async (name: string) => {
    const began = performance.now();
    await bank.embed([texts[0]!], name);
    return performance.now() - began;
  };
  await call(names[0]!);
  for (let i = 0; i < 10 * rounds; i++) {
    const [now, next] = [names[i % adapters]!, names[(i + 1) % adapters]!];
    await call(now);
    same.push(await call(now));
    other.push(await call(next));
  }
  return [same, other];
}

/** Milliseconds of 32 sentences: all with one adapter, each with its own, and by an encoder with one merged; alternating. */
async function batchTimes() {
  const embedder = await SentenceEmbedder.create(adaptEncoder(encoder, own[0]!), { threads });
  const each = texts.map((_, i) => names[i % adapters]!);
  const runs = {
    single: () => bank.embed(texts, names[0]!),
    mixed: () => bank.embed(texts, each),
    merged: () => embedder.embed(texts),
  };
  const times = { single: [] as number[], mixed: [] as number[], merged: [] as number[] };
  const cpu = { single: [] as number[], mixed: [] as number[], merged: [] as number[] };
  const order = Object.keys(runs) as (keyof typeof runs)[];
  for (let i = 0; i < rounds + 2; i++) {
    for (const name of i % 2 === 0 ? order : [...order].reverse()) {
      const [began, used] = [performance.now(), process.cpuUsage()];
      await runs[name]();
      const { user, system } = process.cpuUsage(used);
      if (i < 2) continue;
      times[name].push(performance.now() - began);
      cpu[name].push((user + system) / 1000);
    }
  }
  await embedder.dispose();
  const medians = (of: typeof times) => ({
    single: median(of.single),
    mixed: median(of.mixed),
    merged: median(of.merged),
  });
  return { batchMs: medians(times), batchCpuMs: medians(cpu) };
}

/** About as long as the sentences of Banking77: some words of a small vocabulary. */
function sentence(seed: number): string {
  const words =
    'my card was not accepted at the machine and I would like to know when a new one will arrive please'.split(' ');
  const random = createRandom(seed + 100);
  return Array.from({ length: 8 + random.int(8) }, () => words[random.int(words.length)]).join(' ');
}
