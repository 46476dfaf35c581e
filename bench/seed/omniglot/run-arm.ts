import type { HostTensor, Tensor } from '@fewtune/engine';
import { constant } from '@fewtune/engine';
import {
  type EmbeddingModel,
  type Episode,
  type ImageSet,
  imageEmbedding,
  imageTask,
  Maml,
  MetricLearner,
  takeRows,
  wayLabels,
} from 'fewtune';
import { say } from '../../lib/bench.js';
import type { Arm, MamlArm, MetricArm } from './arms.js';
import { network, type Setting, shots, tasksPerStep, testQueries, trainQueries, ways } from './setting.js';

/** Accuracies of the test episodes, 0 to 1, and what the training took. */
export interface ArmResult {
  /** Queries normalised by statistics of the queries, as papers and peers do for MAML. */
  readonly transductive: readonly number[];
  /** MAML: by those of the support; metric methods: by those of training images. */
  readonly inductive: readonly number[];
  readonly seconds: number;
}

export async function runArm(arm: Arm, setting: Setting, threads: number): Promise<ArmResult> {
  return arm.kind === 'maml' ? runMaml(arm, setting, threads) : runMetric(arm, setting, threads);
}

const progress = (name: string, steps: number) => {
  let sum = 0;
  return ({ step, loss }: { step: number; loss: number }) => {
    sum += loss;
    if (step % 100 !== 0) return;
    say(`${name}: step ${step} of ${steps}, loss ${(sum / 100).toFixed(3)}`);
    sum = 0;
  };
};

/** Batches of `epochs` equal passes over the episodes, in their order. */
function batchesOf<T>(setting: Setting, epochs: number, taskOf: (episode: Episode) => T) {
  const perEpoch = Math.floor(setting.steps / epochs);
  return function* (epoch: number): Iterable<T[]> {
    for (let batch = epoch * perEpoch; batch < (epoch + 1) * perEpoch; batch++) {
      yield setting.trainEpisodes.slice(batch * tasksPerStep, (batch + 1) * tasksPerStep).map(taskOf);
    }
  };
}

async function runMaml(arm: MamlArm, setting: Setting, threads: number): Promise<ArmResult> {
  const { variant, innerLr, innerSteps, metaLr, testSteps } = arm;
  const options = { model: network(true), variant, innerLr, innerSteps, metaLr, threads };
  const began = performance.now();
  await using learner = new Maml({ ...options, transductive: true });
  const epochs = variant === 'maml++' ? 10 : 1; // its phases are counted in epochs
  const taskOf = (episode: Episode) => {
    const { images } = setting.train;
    // Reptile learns from a support set of everything.
    return variant === 'reptile' ? allSupport(images, episode) : imageTask(images, episode);
  };
  const batches = batchesOf(setting, epochs, taskOf);
  const batchesPerEpoch = setting.steps / epochs;
  await learner.metaTrain(batches, { epochs, batchesPerEpoch, onProgress: progress(arm.name, setting.steps) }).result;
  const seconds = (performance.now() - began) / 1000;
  const scores = async (transductive: boolean) => {
    await using tested = new Maml({ ...options, transductive, start: learner.params });
    const found: number[] = [];
    for (const episode of judged(setting, transductive)) {
      const { support, query } = imageTask(setting.test.images, episode);
      const adapted = await tested.adapt({ support }, { steps: testSteps });
      found.push(share(await adapted.predict(query.x)));
    }
    return found;
  };
  return { transductive: await scores(true), inductive: await scores(false), seconds };
}

/** The figure that is compared is measured on every episode, the other one on a part of them. */
const judged = ({ testEpisodes }: Setting, compared: boolean) => testEpisodes.slice(0, compared ? undefined : 150);

function allSupport(images: HostTensor, episode: Episode) {
  const joined: number[] = [];
  for (let way = 0; way < ways; way++) {
    joined.push(...episode.support.slice(way * shots, (way + 1) * shots));
    joined.push(...episode.query.slice(way * trainQueries, (way + 1) * trainQueries));
  }
  const support = Int32Array.from(joined);
  return imageTask(images, { ...episode, support, query: episode.query });
}

async function runMetric(arm: MetricArm, setting: Setting, threads: number): Promise<ArmResult> {
  const model = imageEmbedding(network(false));
  const options = { head: arm.head, lr: arm.lr, ...arm.learner, threads };
  const began = performance.now();
  await using learner = new MetricLearner({ ...options, model });
  const batches = batchesOf(setting, 1, (episode) => metricTask(setting.train, episode, trainQueries));
  await learner.metaTrain(batches, { onProgress: progress(arm.name, setting.steps) }).result;
  const seconds = (performance.now() - began) / 1000;
  const scores = async (tested: MetricLearner, transductive: boolean) => {
    const found: number[] = [];
    for (const episode of judged(setting, !transductive)) {
      const { x, support, query } = metricTask(setting.test, episode, testQueries);
      found.push(share(await tested.classify({ x, support, queries: query.length }, { transductive })));
    }
    return found;
  };
  await using fixed = new MetricLearner({
    ...options,
    model: normalisedBy(model, setting.train),
    start: learner.params,
  });
  return { transductive: await scores(learner, true), inductive: await scores(fixed, false), seconds };
}

export function metricTask({ images }: ImageSet, { support, query }: Episode, queries: number) {
  return {
    x: { images: takeRows(images, [...support, ...query]) },
    support: wayLabels(ways, shots),
    query: wayLabels(ways, queries),
  };
}

/** The model with batch statistics of 128 training images in place of those of what it is given. */
export function normalisedBy(model: EmbeddingModel, { images }: ImageSet): EmbeddingModel {
  const rows = Array.from({ length: 128 }, (_, i) => Math.floor((i * images.shape[0]!) / 128));
  const reference = takeRows(images, rows);
  return {
    ...model,
    embed: (weights, x) => model.embed(weights, x, { images: constant(reference, 'reference') as Tensor }),
  };
}

/** Share of queries, way by way, whose best score is their own way's. */
export function share(scores: HostTensor): number {
  const [rows, columns] = scores.shape as [number, number];
  let hits = 0;
  for (let row = 0; row < rows; row++) {
    const own = (scores.data as Float32Array).subarray(row * columns, (row + 1) * columns);
    if (own.indexOf(Math.max(...own)) === Math.floor((row * columns) / rows)) hits++;
  }
  return hits / rows;
}
