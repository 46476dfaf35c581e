import { readFileSync } from 'node:fs';
import { type Encoder, loadEncoder } from '@fewtune/models';
import {
  CachedFeatures,
  type ClassDistances,
  classDistances,
  classFolds,
  type Episode,
  type EpisodeSource,
  episodeSampler,
  type FitContext,
  headLogits,
  type MetaDataset,
  metaDataset,
  methods,
  prototypeHead,
  wayLabels,
} from 'fewtune';
import type { Benchmark } from '../lib/bench.js';
import { say } from '../lib/bench.js';
import { dataFile, Unavailable } from '../lib/paths.js';
import { type Row, row } from '../lib/report.js';
import { mean, studentInterval } from '../lib/statistics.js';
import { type Labelled, readLabelled } from '../lib/table-file.js';
import { batchRows } from './fewshot/batch-queries.js';
import { SHOTS, share } from './fewshot/feature-tasks.js';
import { headRows } from './fewshot/heads.js';
import { type LatentSemantic, latentSemantic, latentSemanticScore, type TextTask } from './fewshot/latent-semantic.js';
import { textMamlRows } from './fewshot/text-maml.js';
import { type MetaSource, textMetaRows } from './fewshot/text-meta.js';

/** The class folds of a data set, and the episode shapes measured on their unseen classes. */
interface Source {
  readonly name: string;
  readonly datasets: readonly MetaDataset[];
  /** Every sentence of the data set. */
  readonly pool: readonly string[];
  readonly ways: readonly number[];
}

const QUERIES = 5;
const plain = 'frozen encoder, plain prototype';
const lsaTrained = 'LSA of the training classes’ sentences, plain prototype';
const lsaPool = 'LSA of all sentences, plain prototype';
const logistic = 'frozen encoder, logistic regression';

/** What the papers report or the project's notes recall for these folds, with its reliability. */
const published: Readonly<Record<string, string>> = {
  'CLINC150 5': 'published on these folds: ProtAugment 98–99, recalled',
  'Banking77 5': 'published on these folds: ProtAugment 93–95, recalled',
  'CLINC150 50': 'no published figure for all ways is known',
  'Banking77 27': 'no published figure for all ways is known',
};

export const fewshotParts: readonly string[] = ['floors', 'heads', 'batches', 'meta', 'maml'];

/**
 * Few-shot episodes of classes unseen in training, on the frozen encoder: the floors that meta-learning has to beat
 * (word counts, logistic regression, the plain prototype), other heads on the same features, and the meta-trained
 * encoder. Class folds of Dopierre et al. 2021 (ProtAugment).
 */
export const fewshot: Benchmark = {
  name: 'fewshot',
  about: 'few-shot episodes on unseen classes: frozen-encoder floors, heads, and a meta-trained encoder',
  async run({ quick, only }) {
    const encoder = await loadEncoder();
    await using features = new CachedFeatures(encoder, quick ? { cache: false } : {});
    const unknown = only?.find((name) => !fewshotParts.includes(name));
    if (unknown !== undefined) {
      throw new Unavailable(`fewshot has no part "${unknown}"; it has ${fewshotParts.join(', ')}`);
    }
    const wants = (part: string) => only?.includes(part) ?? true;
    const rows: Row[] = [];
    for (const source of sources(quick)) {
      const { name, datasets: folds } = source;
      const shapes = { name, folds, ways: quick ? [5] : headWays[name]! };
      if (wants('floors')) {
        const words: Words = {
          pool: latentSemantic(source.pool),
          trained: source.datasets.map(({ train }) => latentSemantic(train.texts)),
        };
        for (const ways of source.ways) rows.push(...(await measured(source, ways, quick, encoder, features, words)));
        if (!quick) rows.push(...(await distances(source, features)));
      }
      if (wants('heads')) rows.push(...(await headRows(shapes, features, quick)));
      if (wants('batches')) rows.push(...(await batchRows(shapes, features, quick)));
    }
    if (wants('meta')) rows.push(...(await textMetaRows(sources(quick).map(metaSource), encoder, quick)));
    if (wants('maml')) {
      const [{ name, datasets }] = sources(quick) as [Source];
      rows.push(...(await textMamlRows(`${name}, fold 1`, datasets[0]!, encoder, quick)));
    }
    return { rows, seeds: [1, 2, 3, 4, 5] };
  },
};

function sources(quick: boolean): Source[] {
  const folded = (name: string, { texts, labels }: Labelled): Pick<Source, 'datasets' | 'pool'> => {
    const classes = [...new Set(labels)];
    const folds = classFolds(JSON.parse(readFileSync(dataFile(`${name}/class_folds.json`), 'utf8')), classes);
    const all = [...folds.values()].slice(0, quick ? 1 : undefined);
    const datasets = all.map((fold) => metaDataset({ texts, labels, classes }, fold));
    return { datasets, pool: texts };
  };
  const clinc = readLabelled(dataFile('clinc150/clinc150.csv'), 'text', 'intent');
  if (quick) return [{ name: 'CLINC150', ...folded('clinc150', clinc), ways: [5] }];
  const parts = ['train', 'test'].map((part) => readLabelled(dataFile(`banking77/${part}.csv`), 'text', 'category'));
  const banking = { texts: parts.flatMap(({ texts }) => texts), labels: parts.flatMap(({ labels }) => labels) };
  return [
    { name: 'CLINC150', ...folded('clinc150', clinc), ways: [50, 5] },
    { name: 'Banking77', ...folded('banking77', banking), ways: [27, 5] },
  ];
}

const headWays: Readonly<Record<string, readonly number[]>> = { CLINC150: [5, 20, 50], Banking77: [5, 27] };

/** Shapes as above, with what meta-training is to reach. */
function metaSource({ name, datasets, ways }: Source, _: number, { length }: readonly Source[]): MetaSource {
  const quick = length === 1;
  const targets: Readonly<Record<string, { target?: string; gain?: string }>> = {
    'CLINC150 50': { target: '>= 92' },
    'CLINC150 5': { target: '>= 97' },
    'Banking77 27': { gain: '>= 3' },
    'Banking77 5': { target: '>= 95' },
  };
  const episodes = (of: number) => (quick ? 20 : of === 5 ? 600 : 40);
  return {
    name,
    folds: datasets,
    shapes: ways.map((of) => ({
      ways: of,
      episodes: episodes(of),
      ...targets[`${name} ${of}`],
      ...(published[`${name} ${of}`] !== undefined && { published: published[`${name} ${of}`]! }),
    })),
  };
}

function taskOf({ texts }: EpisodeSource, { classes, support, query }: Episode): TextTask {
  const ways = classes.length;
  const shown = (rows: Int32Array) => Array.from(rows, (row) => texts[row]!);
  return {
    classes: ways,
    support: shown(support),
    labels: wayLabels(ways, SHOTS),
    query: shown(query),
    answers: wayLabels(ways, QUERIES),
  };
}

interface Scores {
  readonly [method: string]: number;
}

/** Latent semantic analyses: of every sentence, and of each fold's training classes. */
interface Words {
  readonly pool: LatentSemantic;
  readonly trained: readonly LatentSemantic[];
}

async function measured(
  source: Source,
  ways: number,
  quick: boolean,
  encoder: Encoder,
  features: CachedFeatures,
  words: Words,
): Promise<Row[]> {
  const perFold = quick ? 20 : ways === 5 ? 600 : 40;
  // The floors that are fitted by iteration run on fewer episodes of the same draw.
  const floorEpisodes = quick ? 3 : ways === 5 ? 40 : 4;
  const scores: Scores[] = [];
  for (const [index, { test }] of source.datasets.entries()) {
    const { labels, classes: classNames } = test;
    const shape = { ways, shots: SHOTS, queries: QUERIES };
    const sampler = episodeSampler({ labels, classNames, shape, seed: index + 1 });
    const trained = words.trained[index]!;
    for (const [number, episode] of [...sampler.episodes(perFold)].entries()) {
      const task = taskOf(test, episode);
      const floors = number < floorEpisodes ? await floorScores(task, encoder, features) : {};
      const counted = {
        [lsaTrained]: latentSemanticScore(trained, task),
        [lsaPool]: latentSemanticScore(words.pool, task),
      };
      scores.push({ ...(await prototypeScores(task, features)), ...counted, ...floors });
    }
    say(`${source.name} ${ways}-way, fold ${index + 1}: ${perFold} episodes`);
  }
  const title = `${source.name} ${ways}-way ${SHOTS}-shot`;
  const folds = source.datasets.length;
  const line = (method: string): Row => {
    const found = scores.filter((entry) => method in entry);
    const { mean: centre, low, high } = studentInterval(found.map((entry) => entry[method]!));
    const counted = `95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}, ${found.length} episodes of ${folds} folds`;
    const gain = studentInterval(found.map((entry) => entry[method]! - entry[plain]!));
    const paired = `paired with the frozen plain prototype ${gain.mean.toFixed(2)} (${gain.low.toFixed(2)} to ${gain.high.toFixed(2)})`;
    const note = [counted, ...(method === plain ? [] : [paired]), published[`${source.name} ${ways}`]].join('; ');
    return row({ what: `${title}: ${method}`, ours: centre, unit: '%', target: null, note });
  };
  return ['TF-IDF', lsaTrained, lsaPool, logistic, plain].map(line);
}

async function prototypeScores(task: TextTask, features: CachedFeatures): Promise<Scores> {
  const shown = await features.features(task.support);
  const support = { hidden: features.hidden, classes: task.classes, features: shown, labels: task.labels };
  return { [plain]: share(headLogits(prototypeHead(support, 1), await features.features(task.query)), task) };
}

/** TF-IDF, and logistic regression on the frozen encoder with C = 10; label names are not looked at. */
async function floorScores(task: TextTask, encoder: Encoder, features: CachedFeatures): Promise<Scores> {
  const context: FitContext = { encoder: async () => encoder, features: async () => features, seed: 7, threads: 1 };
  const classes = Array.from({ length: task.classes }, (_, way) => String(way));
  const data = { texts: task.support, labels: task.labels, classes };
  const words = await methods.tfidf.fit(data, methods.tfidf.defaults, context);
  const frozen = await methods.linear.fit(data, { C: 10, labelNames: false }, context);
  try {
    return {
      'TF-IDF': share(await words.logits(task.query), task),
      [logistic]: share(await frozen.logits(task.query), task),
    };
  } finally {
    await words.dispose?.();
    await frozen.dispose?.();
  }
}

/** Distances of the frozen encoder's unseen classes, 30 rows a class: what meta-training will be compared with. */
async function distances(source: Source, features: CachedFeatures): Promise<Row[]> {
  const found: ClassDistances[] = [];
  for (const [index, { test }] of source.datasets.entries()) {
    const { texts, labels, classes } = test;
    const shape = { ways: classes.length, shots: 30, queries: 0 };
    const { support } = episodeSampler({ labels, classNames: classes, shape, seed: index + 1 }).episode(0);
    const shown = await features.features(Array.from(support, (row) => texts[row]!));
    const ways = wayLabels(classes.length, shape.shots);
    found.push(classDistances({ hidden: features.hidden, classes: classes.length, features: shown, labels: ways }));
  }
  return (['intra', 'inter', 'ratio', 'silhouette', 'daviesBouldin'] as const).map((name) =>
    row({
      what: `${source.name}: ${name}, frozen encoder`,
      ours: mean(found.map((entry) => entry[name])),
      unit: '',
      target: null,
      note: 'unseen classes, rows of unit length, mean of the folds',
    }),
  );
}
