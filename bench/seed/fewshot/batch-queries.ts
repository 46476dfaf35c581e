import {
  type BatchAnswer,
  type CachedFeatures,
  headLogits,
  informationMaximisation,
  laplacianShot,
  prototypeHead,
  softKMeans,
} from 'fewtune';
import { say } from '../../lib/bench.js';
import { type Row, row } from '../../lib/report.js';
import { mean, studentInterval } from '../../lib/statistics.js';
import { type FeatureTask, type HeadSource, SHOTS, share, tasks } from './feature-tasks.js';

type Batch = (task: FeatureTask) => BatchAnswer | Promise<BatchAnswer>;

const methods: Readonly<Record<string, Batch>> = {
  'soft k-means': (task) => softKMeans(task, task.queries),
  LaplacianShot: (task) => laplacianShot(task, task.queries),
  'information maximisation': (task) => informationMaximisation(task, task.queries),
  'information maximisation, estimated prior': (task) =>
    informationMaximisation(task, task.queries, { prior: 'estimated' }),
};

/** Queries kept of the 15 of each way, way by way: what the classes of an unbalanced batch look like. */
const KEPT = [15, 9, 5, 2, 1];
const QUERIES = 15;

function unbalanced(task: FeatureTask): FeatureTask {
  const rows = [...task.answers.keys()].filter((i) => i % QUERIES < KEPT[task.answers[i]! % KEPT.length]!);
  const { hidden, queries, answers } = task;
  const kept = new Float32Array(rows.length * hidden);
  rows.forEach((row, i) => {
    kept.set(queries.subarray(row * hidden, (row + 1) * hidden), i * hidden);
  });
  return { ...task, queries: kept, answers: Int32Array.from(rows, (row) => answers[row]!) };
}

interface Found {
  readonly plain: number;
  /** Less that of the plain prototype. */
  readonly gains: Readonly<Record<string, number>>;
  readonly warned: boolean;
}

async function found(task: FeatureTask): Promise<Found> {
  const { names: _, ...support } = task;
  const plain = share(headLogits(prototypeHead(support, 1), task.queries), task);
  const gains: Record<string, number> = {};
  let warned = false;
  for (const [name, answer] of Object.entries(methods)) {
    const { probabilities, warnings } = await answer(task);
    gains[name] = share(probabilities, task) - plain;
    warned ||= warnings.length > 0;
  }
  return { plain, gains, warned };
}

/**
 * Methods that answer a batch of queries together against the plain prototype, which answers them one by one: with as many
 * queries of each class, which is what they expect, and with unequal ones.
 */
export async function batchRows(source: HeadSource, features: CachedFeatures, quick: boolean): Promise<Row[]> {
  const rows: Row[] = [];
  for (const ways of source.ways.filter((of) => of !== 20)) {
    const episodes = quick ? 2 : ways === 5 ? 100 : ways === 50 ? 3 : 8;
    const even: Found[] = [];
    const uneven: Found[] = [];
    for (const [index, fold] of source.folds.entries()) {
      for await (const task of tasks(fold.test, ways, episodes, QUERIES, index + 1, features)) {
        even.push(await found(task));
        uneven.push(await found(unbalanced(task)));
      }
      say(`${source.name} ${ways}-way, fold ${index + 1}: ${episodes} batches of queries`);
    }
    const title = `${source.name} ${ways}-way ${SHOTS}-shot, batches of queries`;
    rows.push(...gained(`${title}, balanced`, even), ...gained(`${title}, unbalanced`, uneven));
  }
  return rows;
}

function gained(title: string, batches: readonly Found[]): Row[] {
  const warned = (100 * mean(batches.map((entry) => Number(entry.warned)))).toFixed(0);
  const plain = mean(batches.map((entry) => entry.plain)).toFixed(2);
  return Object.keys(methods).map((name) => {
    const { mean: centre, low, high } = studentInterval(batches.map(({ gains }) => gains[name]!));
    const interval = `95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}, ${batches.length} episodes`;
    const note = `${interval}; plain prototype ${plain} %; ${warned} % of the batches warned of`;
    return row({ what: `${title}: ${name} − plain, paired`, ours: centre, unit: 'points', target: null, note });
  });
}
