import type { Encoder } from '@fewtune/models';
import {
  attentionPrototypeHead,
  CachedFeatures,
  type ClassDistances,
  classDistances,
  type Episode,
  type EpisodeSource,
  episodeSampler,
  headLogits,
  intoSubspace,
  type LinearHead,
  labelText,
  type MetaDataset,
  prototypeHead,
  subspacePrototypeHead,
  supportSubspace,
  wayLabels,
} from 'fewtune';
import { say } from '../../lib/bench.js';
import { type Row, row } from '../../lib/report.js';
import { mean, studentInterval } from '../../lib/statistics.js';
import { SHOTS, share } from './feature-tasks.js';
import { metaTrained, prototypical } from './meta-trained.js';

/** The class folds of a data set, the shapes measured on them, and what is asked of the meta-trained encoder. */
export interface MetaSource {
  readonly name: string;
  readonly folds: readonly MetaDataset[];
  readonly shapes: readonly EpisodeFigures[];
}

export interface EpisodeFigures {
  readonly ways: number;
  /** Of each fold. */
  readonly episodes: number;
  /** For the accuracy, and for what it gains on the frozen encoder. */
  readonly target?: string;
  readonly gain?: string;
  /** What papers report on these episodes, for the note. */
  readonly published?: string;
}

const QUERIES = 5;
const frozenPlain = 'frozen encoder, plain prototype';
const metaPlain = 'meta-trained, plain prototype';
const metaSubspace = 'meta-trained, prototype in the support’s subspace';
const metaImproved = 'meta-trained, improved prototype';
/** For labels that are known to be right, as these are: attention asks of each whether it is. */
const metaTrusting = 'meta-trained, improved prototype without attention';
const wrongLabels = ', one label in five wrong';
const episodicPlain = 'plain prototypical meta-training, plain prototype';
/** Folds that are also meta-trained without the recipe: it costs as much again. */
const EPISODIC_FOLDS = 1;

/** Rows of a fold's unseen classes under one encoder, and the names of its classes. */
interface Embedded {
  readonly hidden: number;
  readonly features: Float32Array;
  readonly names: Float32Array;
}

interface FoldFeatures {
  readonly source: EpisodeSource;
  readonly frozen: Embedded;
  readonly tuned: Embedded;
  readonly episodic?: Embedded;
}

/**
 * What meta-training on a fold's training classes does to its unseen classes: the encoder of `metaTrainText`, on the
 * episodes that the frozen encoder is measured on.
 */
export async function textMetaRows(sources: readonly MetaSource[], encoder: Encoder, quick: boolean): Promise<Row[]> {
  const rows: Row[] = [];
  for (const source of sources) {
    const folds: FoldFeatures[] = [];
    for (const [index, { train, validation, test }] of source.folds.entries()) {
      const name = `${source.name}, fold ${index + 1}`;
      const options = quick ? { steps: 2, validation: undefined } : {};
      const tuned = await metaTrained(encoder, train, quick ? undefined : validation, options, name, !quick);
      const episodic = !quick && index < EPISODIC_FOLDS && (await prototypical(encoder, train, name, true));
      const unseen = quick ? someOf(test) : test;
      folds.push({
        source: unseen,
        frozen: await embedded(encoder, unseen, quick),
        tuned: await embedded(tuned, unseen, quick),
        ...(episodic && { episodic: await embedded(episodic, unseen, quick) }),
      });
      say(`${name}: features of ${unseen.texts.length} sentences of unseen classes`);
    }
    for (const shape of source.shapes) rows.push(...accuracyRows(source.name, folds, shape));
    if (!quick) rows.push(...distanceRows(source.name, folds));
  }
  return rows;
}

/** Eight classes of twelve rows: enough for a look whether all of it runs. */
function someOf({ texts, labels, classes }: EpisodeSource): EpisodeSource {
  const taken = new Int32Array(classes.length);
  const rows = [...labels.keys()].filter((row) => labels[row]! < 8 && taken[labels[row]!]!++ < 12);
  return {
    texts: rows.map((row) => texts[row]!),
    labels: Int32Array.from(rows, (row) => labels[row]!),
    classes: classes.slice(0, 8),
  };
}

async function embedded(encoder: Encoder, { texts, classes }: EpisodeSource, quick: boolean): Promise<Embedded> {
  await using source = new CachedFeatures(encoder, quick ? { cache: false } : {});
  const [features, names] = [await source.features(texts), await source.features(classes.map(labelText))];
  return { hidden: source.hidden, features, names };
}

const pick = ({ hidden, features }: Pick<Embedded, 'hidden' | 'features'>, rows: Int32Array): Float32Array => {
  const out = new Float32Array(rows.length * hidden);
  rows.forEach((at, i) => {
    out.set(features.subarray(at * hidden, (at + 1) * hidden), i * hidden);
  });
  return out;
};

type Scores = Readonly<Record<string, number>>;

function scoresOf({ frozen, tuned, episodic }: FoldFeatures, { classes, support, query }: Episode): Scores {
  const ways = classes.length;
  const labels = wayLabels(ways, SHOTS);
  const answers = wayLabels(ways, QUERIES);
  const shown = (of: Embedded) => ({ hidden: of.hidden, classes: ways, labels, features: pick(of, support) });
  const accuracy = (of: Embedded, headOf: (support: ReturnType<typeof shown>) => LinearHead): number =>
    share(headLogits(headOf(shown(of)), pick(of, query)), { classes: ways, answers });
  const names = pick({ ...tuned, features: tuned.names }, classes);
  /** One label in five wrong. */
  const shifted = (data: ReturnType<typeof shown>) => ({
    ...data,
    labels: data.labels.map((label, i) => (i % SHOTS === 0 ? (label + 1) % ways : label)),
  });
  return {
    [frozenPlain]: accuracy(frozen, (data) => prototypeHead(data, 1)),
    [metaPlain]: accuracy(tuned, (data) => prototypeHead(data, 1)),
    [metaSubspace]: accuracy(tuned, (data) => subspacePrototypeHead(data)),
    [metaImproved]: accuracy(tuned, (data) => attentionPrototypeHead({ ...data, names })),
    [metaTrusting]: accuracy(tuned, (data) => attentionPrototypeHead({ ...data, names }, { attention: 'none' })),
    [`${metaPlain}${wrongLabels}`]: accuracy(tuned, (data) => prototypeHead(shifted(data), 1)),
    [`${metaImproved}${wrongLabels}`]: accuracy(tuned, (data) => attentionPrototypeHead({ ...shifted(data), names })),
    ...(episodic && { [episodicPlain]: accuracy(episodic, (data) => prototypeHead(data, 1)) }),
  };
}

function accuracyRows(name: string, folds: readonly FoldFeatures[], shape: EpisodeFigures): Row[] {
  const { ways, episodes, target = null, gain = null } = shape;
  const scores = folds.map((fold, index) => {
    const { labels, classes: classNames } = fold.source;
    const sizes = { ways, shots: SHOTS, queries: QUERIES };
    const sampler = episodeSampler({ labels, classNames, shape: sizes, seed: index + 1 });
    return [...sampler.episodes(episodes)].map((episode) => scoresOf(fold, episode));
  });
  const all = scores.flat();
  const title = `${name} ${ways}-way ${SHOTS}-shot`;
  const line = (method: string, wanted: string | null): Row => {
    const found = scores.filter((fold) => method in fold[0]!);
    const values = found.flat().map((entry) => entry[method]!);
    const { mean: centre, low, high } = studentInterval(values);
    const each = found.map((fold) => mean(fold.map((entry) => entry[method]!)).toFixed(1)).join(', ');
    const counted = `95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}, ${values.length} episodes; folds ${each}`;
    const note = shape.published === undefined ? counted : `${counted}; ${shape.published}`;
    return row({ what: `${title}: ${method}`, ours: centre, unit: '%', target: wanted, note });
  };
  const lost = (method: string) => mean(all.map((entry) => entry[method]! - entry[`${method}${wrongLabels}`]!));
  const paired = (method: string, base: string, targets: { gain?: string | null; low?: string } = {}): Row[] => {
    const both = all.filter((entry) => base in entry);
    if (both.length === 0) return [];
    const differences = both.map((entry) => entry[method]! - entry[base]!);
    const { mean: centre, low, high } = studentInterval(differences);
    const note = `mean ${centre.toFixed(2)}, 95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}, ${both.length} episodes`;
    const what = `${title}: ${method} − ${base}, paired`;
    return [
      row({ what, ours: centre, unit: 'points', target: targets.gain ?? null, note }),
      row({ what: `${what}, lower end`, ours: low, unit: 'points', target: targets.low ?? null, note }),
    ];
  };
  const above = { low: '> 0' };
  return [
    line(frozenPlain, null),
    ...(episodicPlain in all[0]! ? [line(episodicPlain, null)] : []),
    line(metaPlain, target),
    line(metaSubspace, target),
    line(metaImproved, target),
    line(metaTrusting, target),
    ...paired(metaPlain, frozenPlain, { gain }),
    ...paired(metaSubspace, frozenPlain, { gain }),
    ...paired(metaImproved, frozenPlain, { gain, ...above }),
    ...paired(metaTrusting, frozenPlain, { gain, ...above }),
    ...paired(metaImproved, episodicPlain, above),
    ...paired(metaImproved, metaPlain, above),
    ...paired(metaTrusting, metaPlain, above),
    ...paired(`${metaImproved}${wrongLabels}`, `${metaPlain}${wrongLabels}`, above),
    row({
      what: `${title}: accuracy lost to one wrong label in five, ${metaImproved}`,
      ours: lost(metaImproved),
      unit: 'points',
      peer: lost(metaPlain),
      peerName: metaPlain,
      target: '<= 0.5x peer',
    }),
  ];
}

/** Rows of a class that distances are taken of; none of them is in the support that makes the subspace. */
const DISTANCE_ROWS = 30;

function distanceRows(name: string, folds: readonly FoldFeatures[]): Row[] {
  const found = folds.map(({ source, frozen, tuned }, index) => {
    const { labels, classes: classNames } = source;
    const classes = classNames.length;
    const shape = { ways: classes, shots: SHOTS, queries: DISTANCE_ROWS };
    const { support, query } = episodeSampler({ labels, classNames, shape, seed: index + 1 }).episode(0);
    const ways = wayLabels(classes, DISTANCE_ROWS);
    const whole = (of: Embedded) =>
      classDistances({ hidden: of.hidden, classes, features: pick(of, query), labels: ways });
    const inside = (of: Embedded) => {
      const space = supportSubspace({ ...of, classes, features: pick(of, support), labels: wayLabels(classes, SHOTS) });
      return classDistances({
        hidden: space.rank,
        classes,
        features: intoSubspace(space, pick(of, query)),
        labels: ways,
      });
    };
    return { frozen: whole(frozen), frozenInside: inside(frozen), tuned: whole(tuned), tunedInside: inside(tuned) };
  });
  const average = (which: keyof (typeof found)[number], figure: keyof ClassDistances) =>
    mean(found.map((entry) => entry[which][figure]));
  const spaces = [
    ['frozenInside', 'frozen encoder in the support’s subspace', null],
    ['tuned', 'meta-trained encoder', null],
    ['tunedInside', 'meta-trained encoder in the support’s subspace', '>= 1.5x peer'],
  ] as const;
  return spaces.flatMap(([which, what, target]) =>
    (['intra', 'inter', 'ratio', 'silhouette', 'daviesBouldin'] as const).map((figure) =>
      row({
        what: `${name}: ${figure}, ${what}`,
        ours: average(which, figure),
        unit: '',
        peer: average('frozen', figure),
        peerName: 'frozen encoder',
        target: figure === 'ratio' ? target : null,
        note: `${DISTANCE_ROWS} rows a class, none of them support; rows of unit length, mean of the folds`,
      }),
    ),
  );
}
