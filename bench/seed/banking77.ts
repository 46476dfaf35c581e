import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { type Encoder, loadEncoder } from '@fewtune/models';
import { type FitContext, type MethodName, methods } from 'fewtune';
import { type Benchmark, type Options, say, timed } from '../lib/bench.js';
import { MemoryFeatures } from '../lib/features.js';
import { describeMachine } from '../lib/machine.js';
import { dataFile } from '../lib/paths.js';
import { noPeers, peersPython, runPeer } from '../lib/peers.js';
import type { Row } from '../lib/report.js';
import { draw, type Labelled, readLabelled, writeCsv } from '../lib/table-file.js';
import { type Part, savedPart, savedParts, savePart } from './banking77/parts.js';
import { banking77Rows, setfit } from './banking77/rows.js';

const read = (name: string) => readLabelled(dataFile(`banking77/${name}`), 'text', 'category');

/**
 * Banking77, 77-way: the published few-shot files and further draws of the same size, the full published test set.
 * Casanueva et al. 2020, arXiv:2003.04807; few-shot files of Zhang et al. 2021, arXiv:2106.04564.
 */
export const banking77: Benchmark = {
  name: 'banking77',
  about: 'accuracy and seconds of every method on Banking77, and SetFit on the same files',
  async run(options) {
    const plan = planOf(options);
    const test = trimmed(read('test.csv'), plan.classes, plan.testRows);
    const encoder = await loadEncoder();
    const testFeatures = new Map<string, Float32Array>();
    const parts: Part[] = [];
    for (const shots of plan.shots) {
      for (let seed = 0; seed < plan.draws; seed++) {
        const train = trimmed(trainingDraw(shots, seed), plan.classes);
        for (const method of plan.methods) {
          const key = { shots, draw: seed, method };
          parts.push(await once(key, options, () => fitPart(key, train, test, encoder, testFeatures)));
        }
        const peered = seed === 0 && plan.peerShots.includes(shots);
        if (peered)
          parts.push(await once({ shots, draw: seed, method: setfit }, options, () => setfitPart(shots, train, test)));
      }
    }
    const merged = options.resume && !options.quick ? union(parts, savedParts()) : parts;
    const peerNote = peersPython() ? 'peer left out of this run (--full-peers runs it)' : noPeers;
    const rows = plan.shots.flatMap((shots) => banking77Rows(merged, shots, peerNote));
    const part = (row: Row) => ({
      ...row,
      note: [`${plan.classes} of 77 intents`, row.note].filter(Boolean).join(' · '),
    });
    return {
      rows: plan.classes ? rows.map(part) : rows,
      seeds: Array.from({ length: plan.draws }, (_, seed) => seed),
    };
  },
};

function planOf({ quick, peers, fullPeers, ...asked }: Options) {
  const all: MethodName[] = ['tfidf', 'prototype', 'linear', 'lora', 'full'];
  for (const name of asked.methods ?? []) {
    if (!all.includes(name as MethodName) && name !== setfit)
      throw new Error(`--methods: ${name} is none of ${all.join(', ')}, ${setfit}`);
  }
  const shots = asked.shots ?? (quick ? [5] : [5, 10]);
  const withPeers = peers && !quick && peersPython() !== undefined && (asked.methods?.includes(setfit) ?? true);
  return {
    shots,
    methods: all.filter((name) => asked.methods?.includes(name) ?? !(quick && name === 'full')),
    draws: asked.draws ?? (quick ? 1 : 5),
    classes: quick ? 12 : undefined,
    testRows: quick ? 240 : undefined,
    peerShots: withPeers ? shots.filter((count) => fullPeers || count === 5) : [],
  };
}

/** Draw 0 is the published file; draw n takes as many of each class from the training set, with seed n. */
function trainingDraw(shots: number, seed: number): Labelled {
  return seed === 0 ? read(`train_${shots}.csv`) : draw(read('train.csv'), shots, seed);
}

/** The first classes by name, the first rows: for a smoke run. */
function trimmed(
  { texts, labels }: Labelled,
  classes = Number.POSITIVE_INFINITY,
  rows = Number.POSITIVE_INFINITY,
): Labelled {
  const kept = new Set([...new Set(labels)].sort().slice(0, classes));
  const chosen = labels.flatMap((label, index) => (kept.has(label) ? [index] : [])).slice(0, rows);
  return { texts: chosen.map((index) => texts[index]!), labels: chosen.map((index) => labels[index]!) };
}

type Key = Pick<Part, 'shots' | 'draw' | 'method'>;

const nameOf = ({ shots, draw, method }: Key) =>
  `${shots} per class, ${draw === 0 ? 'published draw' : `seed ${draw}`}, ${method}`;

/** The part, from disk when --resume finds it there. */
async function once(key: Key, { resume, quick }: Options, measure: () => Promise<Part>): Promise<Part> {
  const known = resume && !quick ? savedPart(key) : undefined;
  if (known) {
    say(`${nameOf(key)}: kept from ${known.date}, commit ${known.commit}`);
    return known;
  }
  const part = await measure();
  if (!quick) savePart(part);
  say(`${nameOf(key)}: ${(100 * part.accuracy).toFixed(2)} % in ${part.seconds.toFixed(1)} s`);
  return part;
}

function union(parts: readonly Part[], saved: readonly Part[]): Part[] {
  return [...new Map([...saved, ...parts].map((part) => [nameOf(part), part])).values()];
}

async function fitPart(
  key: Key,
  train: Labelled,
  test: Labelled,
  encoder: Encoder,
  testFeatures: Map<string, Float32Array>,
): Promise<Part> {
  const classes = [...new Set(train.labels)].sort();
  const index = new Map(classes.map((name, position) => [name, position]));
  const labelled = { texts: train.texts, labels: Int32Array.from(train.labels, (name) => index.get(name)!), classes };
  let source: Promise<MemoryFeatures> | undefined;
  const context: FitContext = {
    encoder: async () => encoder,
    features: () => {
      source ??= MemoryFeatures.create(encoder);
      return source;
    },
    seed: 7 + key.draw,
    onProgress: (fraction, metrics) => progress(key, fraction, metrics),
  };
  const method = methods[key.method as MethodName];
  const { result: fitted, seconds } = await timed(() => method.fit(labelled, method.defaults as never, context));
  try {
    (await source)?.borrow(testFeatures);
    const logits = await fitted.logits(test.texts);
    const correct = test.labels.map((name, at) => argMax(logits, at, classes.length) === index.get(name));
    const known = await source;
    if (known) for (const [text, features] of known.rows) testFeatures.set(text, features);
    return part(key, correct, seconds, fitted.details);
  } finally {
    await fitted.dispose?.();
    await (await source)?.dispose();
  }
}

let lastShown = 0;
function progress(key: Key, fraction: number, metrics: Readonly<Record<string, number>>): void {
  if (performance.now() - lastShown < 10_000) return;
  lastShown = performance.now();
  const figures = Object.entries(metrics).map(([name, value]) => `${name} ${value.toPrecision(3)}`);
  say(`  ${key.method} ${(100 * fraction).toFixed(0)} % ${figures.join(' ')}`);
}

function argMax(logits: Float32Array, row: number, classes: number): number {
  let best = 0;
  for (let at = 1; at < classes; at++) if (logits[row * classes + at]! > logits[row * classes + best]!) best = at;
  return best;
}

function part(key: Key, correct: readonly boolean[], seconds: number, details: Part['details']): Part {
  return {
    ...key,
    accuracy: correct.filter(Boolean).length / correct.length,
    correct: correct.map(Number).join(''),
    seconds,
    details,
    commit: describeMachine().commit,
    date: new Date().toISOString(),
  };
}

interface SetFitResult {
  readonly seconds: number;
  readonly correct: string;
  readonly versions: { readonly setfit: string; readonly torch: string };
}

/** SetFit on the very rows of the published draw. */
async function setfitPart(shots: number, train: Labelled, test: Labelled): Promise<Part> {
  const folder = mkdtempSync(path.join(tmpdir(), 'fewtune-bench-'));
  const [trainFile, testFile] = ['train.csv', 'test.csv'].map((name) => path.join(folder, name)) as [string, string];
  writeFileSync(trainFile, writeCsv(train));
  writeFileSync(testFile, writeCsv(test));
  say(`SetFit on the published ${shots} per class: about ${shots === 5 ? '12 to 16' : '25 to 35'} minutes on 2 cores`);
  try {
    const args = [trainFile, testFile, '--threads', String(availableParallelism())];
    const result = await runPeer<SetFitResult>(peersPython()!, 'setfit_banking77.py', args);
    const correct = [...result.correct].map((digit) => digit === '1');
    return part({ shots, draw: 0, method: setfit }, correct, result.seconds, { versions: result.versions });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
