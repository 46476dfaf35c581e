import { FewtuneError } from '../errors.js';
import { createRandom, type Random } from './random.js';

export interface EpisodeShape {
  readonly ways: number;
  readonly shots: number;
  readonly queries: number;
}

/** Rows of a labelled source, way by way; `support.length === ways * shots`, row i of support belongs to way floor(i / shots). */
export interface Episode {
  /** [ways], the class of each way. */
  readonly classes: Int32Array;
  /** [ways * shots] */
  readonly support: Int32Array;
  /** [ways * queries], way by way as well. */
  readonly query: Int32Array;
}

/** A whole number, or the bounds (both included) it is drawn between for every episode. */
export type CountRange = number | { readonly min: number; readonly max: number };

/** The shape of the episodes to draw; each part may vary from episode to episode. */
export interface VaryingShape {
  readonly ways: CountRange;
  readonly shots: CountRange;
  readonly queries: CountRange;
}

export interface EpisodeOptions {
  /** Class of each row; negative marks a row that is left out. */
  readonly labels: Int32Array;
  readonly shape: VaryingShape;
  readonly seed: number;
  /** Classes to draw from; default: every class that has a row. */
  readonly classes?: readonly number[] | Int32Array;
  /** Names of the classes, for messages. */
  readonly classNames?: readonly string[];
}

export interface EpisodeSampler {
  /** Episode `index` (0, 1, …): depends on the options and `index` alone, never on what was drawn before. */
  episode(index: number): Episode;
  /** Episodes `from` to `from + count - 1`; without `count` they never end. */
  episodes(count?: number, from?: number): IterableIterator<Episode>;
  /** Task batches: batch b holds episodes b * size to (b + 1) * size - 1. Without `count` they never end. */
  batches(size: number, count?: number, from?: number): IterableIterator<Episode[]>;
}

/**
 * N-way K-shot episodes: classes are drawn without replacement, then shots and queries of each class without
 * replacement, so an episode is balanced and holds no row twice. Vinyals et al. 2016, section 4, arXiv:1606.04080.
 *
 * @throws FewtuneError OPTION_INVALID (a count that is none, fewer classes than ways), CLASS_TOO_SMALL (fewer examples
 *   than shots + queries), both before anything is drawn
 * @example
 * const sampler = episodeSampler({ labels, shape: { ways: 5, shots: 1, queries: 15 }, seed: 7 });
 * for (const { support, query } of sampler.episodes(600)) …
 */
export function episodeSampler(options: EpisodeOptions): EpisodeSampler {
  const { labels, seed } = options;
  const ways = bounds('ways', options.shape.ways, 1);
  const shots = bounds('shots', options.shape.shots, 1);
  const queries = bounds('queries', options.shape.queries, 0);
  requireSeed(seed);
  const rows: number[][] = [];
  labels.forEach((label, row) => {
    if (label < 0) return;
    while (rows.length <= label) rows.push([]);
    rows[label]!.push(row);
  });
  const classes = eligibleClasses(options, rows);
  if (classes.length < ways.max) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `episodes of ${ways.max} ways need ${ways.max} classes, but there are ${classes.length}. ` +
        `Ask for ${classes.length === 0 ? 'another source with examples' : `at most ${classes.length} ways`}, or add classes.`,
    );
  }
  requireExamples(classes, rows, shots.max, queries.max, options.classNames);

  const episode = (index: number): Episode => {
    requireCount('the index of an episode', index, 0);
    const random = episodeRandom(seed, index);
    const shape = { ways: draw(ways, random), shots: draw(shots, random), queries: draw(queries, random) };
    const chosen = pickSome(classes, shape.ways, random);
    const support: number[] = [];
    const query: number[] = [];
    for (const label of chosen) {
      const picked = pickSome(rows[label]!, shape.shots + shape.queries, random);
      support.push(...picked.slice(0, shape.shots));
      query.push(...picked.slice(shape.shots));
    }
    return { classes: Int32Array.from(chosen), support: Int32Array.from(support), query: Int32Array.from(query) };
  };
  function* episodes(count = Number.POSITIVE_INFINITY, from = 0): IterableIterator<Episode> {
    for (let i = 0; i < count; i++) yield episode(from + i);
  }
  function* batches(size: number, count = Number.POSITIVE_INFINITY, from = 0): IterableIterator<Episode[]> {
    requireCount('the size of a task batch', size, 1);
    for (let b = from; b < from + count; b++) yield [...episodes(size, b * size)];
  }
  return { episode, episodes, batches };
}

/** One episode; drawing many, make the sampler once. @throws as {@link episodeSampler} */
export function sampleEpisode(options: EpisodeOptions, index = 0): Episode {
  return episodeSampler(options).episode(index);
}

/** Ways, shots and queries of an episode. */
export function shapeOf({ classes, support, query }: Episode): EpisodeShape {
  const ways = classes.length;
  return { ways, shots: support.length / ways, queries: query.length / ways };
}

/** The way (0..ways-1) of each support or query row: the labels inside the episode. */
export function wayLabels(ways: number, perWay: number): Int32Array {
  return Int32Array.from({ length: ways * perWay }, (_, i) => Math.floor(i / perWay));
}

/** A stream of its own for each pair: for one seed the map from index to 32-bit state is a bijection. */
function episodeRandom(seed: number, index: number): Random {
  const folded = createRandom(seed).int(2 ** 32);
  return createRandom((folded + Math.imul(index, 0x9e3779b1)) >>> 0);
}

/** Fisher and Yates, stopped after `count`. */
function pickSome(values: readonly number[], count: number, random: Random): number[] {
  const pool = [...values];
  for (let i = 0; i < count; i++) {
    const j = i + random.int(pool.length - i);
    [pool[i], pool[j]] = [pool[j]!, pool[i]!];
  }
  return pool.slice(0, count);
}

interface Bounds {
  readonly min: number;
  readonly max: number;
}

function draw({ min, max }: Bounds, random: Random): number {
  return min === max ? min : min + random.int(max - min + 1);
}

function bounds(name: string, range: CountRange, least: number): Bounds {
  const { min, max } = typeof range === 'number' ? { min: range, max: range } : range;
  requireCount(name, min, least);
  requireCount(name, max, least);
  if (min > max) {
    throw new FewtuneError('OPTION_INVALID', `${name}: min ${min} is larger than max ${max}; swap them.`);
  }
  return { min, max };
}

function requireCount(name: string, value: number, least: number): void {
  if (!Number.isSafeInteger(value) || value < least) {
    throw new FewtuneError('OPTION_INVALID', `${name}: ${value} is not a whole number of at least ${least}.`);
  }
}

function requireSeed(seed: number): void {
  if (!Number.isSafeInteger(seed)) {
    throw new FewtuneError('OPTION_INVALID', `seed: ${seed} is not a whole number.`);
  }
}

function eligibleClasses({ classes }: EpisodeOptions, rows: readonly number[][]): number[] {
  if (classes === undefined) return rows.flatMap((of, label) => (of.length > 0 ? [label] : []));
  const seen = new Set<number>();
  for (const label of classes) {
    requireCount('classes', label, 0);
    if (seen.has(label)) throw new FewtuneError('OPTION_INVALID', `classes: class ${label} stands there twice.`);
    seen.add(label);
  }
  return [...seen];
}

function requireExamples(
  classes: readonly number[],
  rows: readonly number[][],
  shots: number,
  queries: number,
  names: readonly string[] = [],
): void {
  const needed = shots + queries;
  const sizes = classes.map((label) => ({ label, count: rows[label]?.length ?? 0 }));
  const small = sizes.filter(({ count }) => count < needed).sort((a, b) => a.count - b.count);
  if (small.length === 0) return;
  const list = small.slice(0, 5).map(({ label, count }) => `${JSON.stringify(names[label] ?? label)} (${count})`);
  const more = small.length > 5 ? ` and ${small.length - 5} more` : '';
  const least = small[0]!.count;
  const fits =
    least < 2
      ? 'Add examples'
      : `Every class has at least ${least}: ask for shots + queries <= ${least} ` +
        `(say ${Math.min(shots, least - 1)} and ${least - Math.min(shots, least - 1)}), add examples`;
  throw new FewtuneError(
    'CLASS_TOO_SMALL',
    `${shots} shots + ${queries} queries need ${needed} examples of each class, but ${small.length} of ` +
      `${classes.length} classes have fewer: ${list.join(', ')}${more}. ${fits}, or leave these classes out.`,
  );
}
