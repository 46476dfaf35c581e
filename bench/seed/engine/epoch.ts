import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { hostTensor } from '@fewtune/engine';
import { type Encoder, loadEncoder, packBatch, writeSafetensors } from '@fewtune/models';
import { say } from '../../lib/bench.js';
import { threads } from '../../lib/machine.js';
import { dataFile } from '../../lib/paths.js';
import { noPeers, PeerServer } from '../../lib/peers.js';
import { type Row, row } from '../../lib/report.js';
import { generator, median, shuffled, sum } from '../../lib/statistics.js';
import { readLabelled } from '../../lib/table-file.js';
import {
  classifierStep,
  classifierWeights,
  clipNorm,
  type Kind,
  lr,
  packedBatch,
  rank,
  withRows,
} from './classifier.js';
import { transformerProducts } from './minilm.js';
import type { Part, PartContext } from './part.js';

const batchSize = 32;
/** Batches of a kind whose losses are compared before anything is timed. */
const compared = 10;

/**
 * An epoch of Banking77 with the encoder, 10 003 sentences in batches of 32. Ours runs packed: only attention sees padding.
 * PyTorch pads to the longest sentence of a batch. Both take the very same batches, once drawn at random and once grouped
 * by length, from the same weights.
 */
export const epoch: Part = {
  name: 'epoch',
  async run(context) {
    const encoder = await loadEncoder();
    const data = readSentences(encoder);
    const folder = mkdtempSync(path.join(tmpdir(), 'fewtune-bench-'));
    try {
      await writeEncoder(path.join(folder, 'encoder'), encoder);
      const kinds = ['full', 'lora'] as const;
      const rows: Row[] = [];
      for (const kind of kinds) rows.push(...(await epochOf(kind, encoder, data, folder, context)));
      return rows;
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};

interface Sentences {
  readonly ids: readonly (readonly number[])[];
  readonly labels: readonly number[];
}

function readSentences({ tokenizer }: Encoder): Sentences {
  const { texts, labels } = readLabelled(dataFile('banking77/train.csv'), 'text', 'category');
  const names = [...new Set(labels)].sort();
  return { ids: texts.map((text) => tokenizer.encode(text)), labels: labels.map((label) => names.indexOf(label)) };
}

type Layout = 'random' | 'grouped';

interface Sample {
  readonly layout: Layout;
  readonly batches: readonly Sentences[];
  /** Batches of a whole epoch for one of the sample. */
  readonly scale: number;
}

/** The epoch's batches in one layout: every `stride`-th of those in order of length, or as many drawn at random. */
function sampleOf(layout: Layout, data: Sentences, wanted: number): Sample {
  const indices = data.ids.map((_, index) => index);
  const mixed = shuffled(indices, generator(1));
  const order = layout === 'random' ? mixed : mixed.sort((a, b) => data.ids[a]!.length - data.ids[b]!.length);
  const all: Sentences[] = [];
  for (let start = 0; start < order.length; start += batchSize) {
    const rows = order.slice(start, start + batchSize);
    all.push({ ids: rows.map((row) => data.ids[row]!), labels: rows.map((row) => data.labels[row]!) });
  }
  const count = Math.min(wanted, all.length);
  // In the middle of each of `count` equal stretches; of a random order that is as good as any.
  const batches = Array.from({ length: count }, (_, i) => all[Math.floor(((i + 0.5) * all.length) / count)]!);
  return { layout, batches: shuffled(batches, generator(2)), scale: all.length / count };
}

interface Timed {
  readonly ms: number;
  readonly loss: number;
}

/** One side: takes a batch by its number in the list that both have. */
interface Trainer {
  step(batch: number): Promise<Timed>;
  close(): Promise<void>;
}

async function epochOf(
  kind: Kind,
  encoder: Encoder,
  data: Sentences,
  folder: string,
  { quick, python, torch, fullPeers }: PartContext,
): Promise<Row[]> {
  const wanted = quick ? 3 : fullPeers ? Number.POSITIVE_INFINITY : 24;
  const rounds = quick || fullPeers ? 1 : 3;
  const samples = (['random', 'grouped'] as const).map((layout) => sampleOf(layout, data, wanted));
  const batches = samples.flatMap((sample) => sample.batches);
  const ours = await ourTrainer(kind, encoder, batches);
  const theirs = python ? await torchTrainer(kind, encoder, python, folder, batches) : undefined;
  const products = await transformerProducts(kind, encoder, { batch: batchSize, tokens: 16 });
  const times = { ours: batches.map((): number[] => []), theirs: batches.map((): number[] => []) };
  const limits: number[] = [];
  let apart = 0;
  try {
    for (let batch = 0; batch < Math.min(compared, batches.length); batch++) {
      const [own, other] = [await ours.step(batch), await theirs?.step(batch)];
      if (other) apart = Math.max(apart, Math.abs(own.loss - other.loss));
    }
    await products.time(2);
    for (let round = 0; round < rounds; round++) {
      for (const [batch] of batches.entries()) {
        times.ours[batch]!.push((await ours.step(batch)).ms);
        if (theirs) times.theirs[batch]!.push((await theirs.step(batch)).ms);
        if (batch % 4 === 0) limits.push(...(await products.time(1)));
      }
      const total = (side: number[][]) => (sum(side.map((of) => of.at(-1) ?? 0)) / 1000).toFixed(1);
      say(
        `${kind} epoch, round ${round + 1} of ${rounds}: ${batches.length} batches, Fewtune ${total(times.ours)} s, ${torch} ${total(times.theirs)} s`,
      );
    }
  } finally {
    for (const side of [ours, theirs, products]) await side?.close();
  }

  const what = `Banking77 epoch, ${kind === 'lora' ? `LoRA r=${rank}` : 'full'}`;
  let first = 0;
  const rows = samples.flatMap(({ layout, batches, scale }) => {
    const from = first;
    first += batches.length;
    const realTokens = sum(batches.map(({ ids }) => sum(ids.map((row) => row.length))));
    const sampled =
      scale === 1
        ? `all ${batches.length} batches`
        : `${batches.length} of ${Math.round(scale * batches.length)} batches, scaled to all`;
    return figures.map(([figure, of]) => {
      const seconds = (side: number[][]) =>
        (scale * sum(side.slice(from, from + batches.length).map((runs) => of(runs)))) / 1000;
      const limit = (scale * of(limits) * realTokens) / (batchSize * 16) / 1000;
      const epochTime = seconds(times.ours);
      return row({
        what: `${what}, ${layout === 'random' ? 'random batches' : 'batches grouped by length'}, ${figure}`,
        ours: epochTime,
        unit: 's',
        peer: theirs ? seconds(times.theirs) : null,
        peerName: `${torch} padded to the longest`,
        target: layout === 'random' ? '<= 0.5x peer' : '<= 0.85x peer',
        note: [
          `${(epochTime / limit).toFixed(2)}x the matrix products of its tokens`,
          `packed, batch ${batchSize}`,
          sampled,
          `${rounds} runs of each batch, alternating`,
          theirs ? '' : noPeers,
        ]
          .filter(Boolean)
          .join('; '),
      });
    });
  });
  const note = theirs
    ? `largest difference in the first ${Math.min(compared, batches.length)} steps, same weights and batches`
    : noPeers;
  rows.push(row({ what: `${what}: loss apart`, ours: theirs ? apart : null, unit: '', target: '<= 0.0001', note }));
  return rows;
}

const figures = [
  ['median', median],
  ['lowest', (values: readonly number[]) => Math.min(...values)],
] as const;

async function ourTrainer(kind: Kind, whole: Encoder, batches: readonly Sentences[]): Promise<Trainer> {
  // As the method `full` does: the rows of the word table that the sentences use, and the padding's.
  const used = [...new Set([whole.tokenizer.padId, ...batches.flatMap(({ ids }) => ids.flat())])].sort((a, b) => a - b);
  const place = new Map(used.map((id, index) => [id, index]));
  const cut = kind === 'full';
  const step = await classifierStep(kind, cut ? withRows(whole, used) : whole, packedBatch);
  const padId = cut ? place.get(whole.tokenizer.padId)! : whole.tokenizer.padId;
  const tokens = batches.map(({ ids }) => (cut ? ids.map((row) => row.map((id) => place.get(id)!)) : ids));
  return {
    step: async (batch) => {
      const began = performance.now();
      const { labels } = batches[batch]!;
      const given = { ...packBatch(tokens[batch]!, padId), labels: hostTensor('int64', [labels.length], labels) };
      const { loss } = await step.run(given);
      return { ms: performance.now() - began, loss };
    },
    close: () => step.dispose(),
  };
}

async function torchTrainer(
  kind: Kind,
  encoder: Encoder,
  python: string,
  folder: string,
  batches: readonly Sentences[],
): Promise<Trainer> {
  writeFileSync(path.join(folder, 'batches.json'), JSON.stringify(batches));
  const added = Object.entries(classifierWeights(kind, encoder).params).filter(([name]) => !encoder.weights[name]);
  await writeSafetensors(path.join(folder, 'start.safetensors'), Object.fromEntries(added));
  const args = { folder, kind, rank, lr, clip: clipNorm, threads };
  const flags = Object.entries(args).flatMap(([flag, value]) => [`--${flag}`, String(value)]);
  const server = new PeerServer(python, 'torch_epoch.py', flags);
  return { step: (batch) => server.ask<Timed>(String(batch)), close: async () => server.close() };
}

/** The encoder's folder as transformers reads it. */
async function writeEncoder(folder: string, { config, weights }: Encoder): Promise<void> {
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, 'config.json'), JSON.stringify(config));
  await writeSafetensors(path.join(folder, 'model.safetensors'), weights, { format: 'pt' });
}
