import { readFileSync } from 'node:fs';
import { dataFile } from '../../lib/paths.js';
import { generator, shuffled } from '../../lib/statistics.js';
import { type Labelled, parseCsv, readLabelled } from '../../lib/table-file.js';

/** A data set cut in three: rows that draws are taken from, rows that choose a learning rate, rows that judge. */
export interface TuneSet {
  readonly name: string;
  readonly classes: readonly string[];
  readonly pool: Labelled;
  readonly validation: Labelled;
  readonly test: Labelled;
}

/** Examples as `tune` and the peer take them: `labels[i]` is an index into the classes. */
export interface Indexed {
  readonly texts: readonly string[];
  readonly labels: Int32Array;
}

/** Rows that choose the learning rate, in all; of a class at least as many as the second. */
const VALIDATION = [300, 8] as const;
const SEED = 1234;

/** Sentences of financial news (sentiment), AG News (topics), Banking77 (intents). */
export function tuneSets(): TuneSet[] {
  return [financial(), agNews(), banking77()];
}

function banking77(): TuneSet {
  const read = (name: string) => readLabelled(dataFile(`banking77/${name}.csv`), 'text', 'category');
  return cut('Banking77', read('train'), read('test'));
}

function agNews(): TuneSet {
  const read = (name: string): Labelled => {
    const [header, ...rows] = parseCsv(readFileSync(dataFile(`ag_news/${name}.csv`), 'utf8'));
    const column = (wanted: string) => header!.indexOf(wanted);
    const [title, description, label] = ['title', 'description', 'label_text'].map(column) as [number, number, number];
    return {
      texts: rows.map((row) => `${row[title]}. ${row[description]}`),
      labels: rows.map((row) => row[label]!),
    };
  };
  return cut('AG News', read('train'), read('test'));
}

/** Sentences whose annotators agreed by half or more; no published split: 2000 rows, drawn once, are the test set. */
function financial(): TuneSet {
  const all = readLabelled(dataFile('financial_phrasebank/sentences_50agree.csv'), 'sentence', 'label');
  const distinct = [...new Map(all.texts.map((text, row) => [text, row])).values()];
  const order = shuffled(distinct, generator(SEED));
  return cut('Financial sentiment', take(all, order.slice(2000)), take(all, order.slice(0, 2000)));
}

function cut(name: string, train: Labelled, test: Labelled): TuneSet {
  const classes = [...new Set(train.labels)].sort();
  const random = generator(SEED);
  const held = Math.max(VALIDATION[1], VALIDATION[0] / classes.length);
  const order = classes.map((label) => shuffled(rowsOf(train, label), random));
  return {
    name,
    classes,
    validation: take(
      train,
      order.flatMap((rows) => rows.slice(0, held)),
    ),
    pool: take(
      train,
      order.flatMap((rows) => rows.slice(held)),
    ),
    test,
  };
}

/** As many rows of every class, or all where it has fewer. */
export function drawUpTo(pool: Labelled, classes: readonly string[], perClass: number, seed: number): Labelled {
  const random = generator(seed);
  return take(
    pool,
    classes.flatMap((label) => shuffled(rowsOf(pool, label), random).slice(0, perClass)),
  );
}

export function indexed({ texts, labels }: Labelled, classes: readonly string[]): Indexed {
  return { texts, labels: Int32Array.from(labels, (label) => classes.indexOf(label)) };
}

const rowsOf = ({ labels }: Labelled, wanted: string): number[] =>
  labels.flatMap((label, row) => (label === wanted ? [row] : []));

const take = ({ texts, labels }: Labelled, rows: readonly number[]): Labelled => ({
  texts: rows.map((row) => texts[row]!),
  labels: rows.map((row) => labels[row]!),
});
