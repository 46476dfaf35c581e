import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type Classifier, load, type TextDataset, train } from 'fewtune';
import type { Benchmark } from '../lib/bench.js';
import { say } from '../lib/bench.js';
import { dataFile } from '../lib/paths.js';
import { type Row, row } from '../lib/report.js';
import { generator, mean, median, shuffled } from '../lib/statistics.js';
import { type Labelled, readLabelled } from '../lib/table-file.js';

const LATER = 7;
const SHOTS = 5;

interface Shares {
  readonly later: number;
  readonly first: number;
  readonly all: number;
}

/**
 * Banking77 with five examples a class: trained on 70 classes and taught the other seven one after the other, against
 * trained on all 77. The model is loaded from its folder, as in use.
 */
export const fewshotProduct: Benchmark = {
  name: 'fewshot-product',
  about: 'model.learn: seconds a class, and accuracy against training again',
  async run({ quick, methods, draws }) {
    const wanted = (['prototype', 'linear', 'lora'] as const).filter((name) =>
      methods === undefined ? name !== 'lora' : methods.includes(name),
    );
    const seeds = Array.from({ length: draws ?? (quick ? 1 : 5) }, (_, i) => i + 1);
    const shown = readLabelled(dataFile('banking77/train_5.csv'), 'text', 'category');
    const test = everyNth(readLabelled(dataFile('banking77/test.csv'), 'text', 'category'), quick ? 40 : 4);
    const rows: Row[] = [];
    for (const method of quick ? wanted.slice(0, 1) : wanted) {
      rows.push(...(await measured(method, shown, test, seeds)));
    }
    return { rows, seeds };
  },
};

async function measured(
  method: 'prototype' | 'linear' | 'lora',
  shown: Labelled,
  test: Labelled,
  seeds: readonly number[],
): Promise<Row[]> {
  const taught: Shares[] = [];
  const again: Shares[] = [];
  const seconds: number[] = [];
  const folder = await mkdtemp(path.join(tmpdir(), 'fewshot-product-'));
  for (const seed of seeds) {
    const names = shuffled([...new Set(shown.labels)].sort(), generator(seed));
    const later = names.slice(0, LATER);
    const trained = await train(tableOf(shown, names.slice(LATER)), { method }).result;
    await trained.save(path.join(folder, 'model'));
    await trained.dispose();
    const model = await load(path.join(folder, 'model'));
    for (const label of later) {
      const examples = shown.texts.filter((_, i) => shown.labels[i] === label);
      const began = performance.now();
      await model.learn(label, examples);
      seconds.push((performance.now() - began) / 1000);
    }
    taught.push(await shares(model, test, later));
    await model.dispose();
    const whole = await train(tableOf(shown, names), { method }).result;
    again.push(await shares(whole, test, later));
    await whole.dispose();
    say(`${method}, draw ${seed}: learned ${describe(taught.at(-1)!)}, trained again ${describe(again.at(-1)!)}`);
  }
  await rm(folder, { recursive: true });
  const note = `mean of ${seeds.length} draws of the ${LATER} classes, ${test.texts.length} test rows`;
  const line = (what: string, part: keyof Shares, target: string | null = null): Row =>
    row({
      what: `${method}: accuracy on ${what}`,
      ours: 100 * mean(taught.map((entry) => entry[part])),
      unit: '%',
      peer: 100 * mean(again.map((entry) => entry[part])),
      peerName: 'trained again on all',
      target,
      note,
    });
  return [
    row({
      what: `${method}: model.learn of a new class from ${SHOTS} sentences`,
      ours: median(seconds),
      unit: 's',
      target: '< 1',
      note: `median of ${seconds.length}, longest ${Math.max(...seconds).toFixed(2)} s; held-out check included`,
    }),
    line(`77 classes, ${LATER} of them learned later`, 'all', '>= 0.99x peer'),
    line(`the ${LATER} learned later`, 'later'),
    line(`the other ${77 - LATER}`, 'first'),
  ];
}

const everyNth = ({ texts, labels }: Labelled, n: number): Labelled => ({
  texts: texts.filter((_, i) => i % n === 0),
  labels: labels.filter((_, i) => i % n === 0),
});

function tableOf({ texts, labels }: Labelled, classes: readonly string[]): TextDataset {
  const rows = [...labels.keys()].filter((i) => classes.includes(labels[i]!));
  return {
    source: 'banking77',
    texts: rows.map((i) => texts[i]!),
    labels: rows.map((i) => labels[i]!),
    lines: rows.map((i) => i + 2),
    classes: [...classes].sort(),
    repairs: [],
  };
}

async function shares(model: Classifier, test: Labelled, later: readonly string[]): Promise<Shares> {
  const predictions = await model.predict(test.texts);
  const right = predictions.map(({ label }, i) => label === test.labels[i]);
  const share = (rows: readonly boolean[]) => rows.filter(Boolean).length / rows.length;
  return {
    all: share(right),
    later: share(right.filter((_, i) => later.includes(test.labels[i]!))),
    first: share(right.filter((_, i) => !later.includes(test.labels[i]!))),
  };
}

const describe = ({ all, later, first }: Shares) =>
  `${(100 * all).toFixed(1)} % (later ${(100 * later).toFixed(1)}, first ${(100 * first).toFixed(1)})`;
