import type { HostTensor, Named } from '@fewtune/engine';
import { conv4 } from '@fewtune/models';
import {
  type EpochOptions,
  type ImageSet,
  imageEmbedding,
  MetricLearner,
  type MetricTrainEvent,
  wayLabels,
} from 'fewtune';
import { say } from '../../lib/bench.js';
import { generator, mean, shuffled } from '../../lib/statistics.js';
import { alphabetOf, drawerOf } from './data.js';
import { randomBend, seen, type View } from './warp.js';

export interface LakeOptions {
  readonly steps: number;
  readonly lr: number;
  /** Alphabets of an episode, 20 characters of each. */
  readonly alphabets: number;
  readonly queries: number;
  readonly elastic: number;
  readonly filters: number;
  readonly seed: number;
  readonly threads: number;
}

/** A prototypical network and the images whose statistics normalise what it is shown. */
export interface LakeNet {
  readonly learner: MetricLearner;
  readonly reference: HostTensor;
}

/**
 * A prototypical network for telling apart characters of one alphabet. An episode shows 20 characters each of some
 * alphabets as one person drew them; queries are the same characters by others, as in the one-shot runs. Every alphabet
 * of an episode is turned and mirrored as a whole, eight ways, and every drawing is bent a little.
 *
 * @param set images at 56 × 56
 */
export async function trainLakeNet(
  set: ImageSet,
  options: LakeOptions,
  run: Pick<EpochOptions<MetricTrainEvent>, 'checkpoint' | 'resume' | 'signal'> = {},
): Promise<LakeNet> {
  const { steps } = options;
  const learner = learnerOf(options);
  const losses: number[] = [];
  // Made anew from the seed, so that a resumed run passes over what it has seen.
  const batches = function* () {
    const draw = episodes(set, generator(options.seed), options);
    for (let step = 0; step < steps; step++) yield [draw()];
  };
  const onProgress = ({ step, loss }: { step: number; loss: number }) => {
    losses.push(loss);
    if (step % 50 === 0) say(`step ${step} of ${steps}: loss ${mean(losses.slice(-50)).toFixed(3)}`);
  };
  await learner.metaTrain(batches, { ...run, onProgress }).result;
  return { learner, reference: referenceOf(set) };
}

/** A net that was trained before. */
export function lakeNetOf(set: ImageSet, options: LakeOptions, params: Named<HostTensor>): LakeNet {
  return { learner: learnerOf(options, params), reference: referenceOf(set) };
}

function learnerOf({ filters, lr, steps, seed, threads }: LakeOptions, start?: Named<HostTensor>): MetricLearner {
  const model = imageEmbedding(conv4({ filters, seed }));
  return new MetricLearner({ model, lr, decaySteps: steps, threads, seed, start });
}

/** 160 training images, turned and mirrored in all eight ways. */
function referenceOf({ images, labels }: ImageSet): HostTensor {
  const rows = Array.from({ length: 160 }, (_, i) => Math.floor((i * labels.length) / 160));
  return seen(
    images,
    rows,
    rows.map((_, i) => ({ mirrored: i % 8 > 3, turns: i % 4 })),
  );
}

function episodes(set: ImageSet, random: () => number, { alphabets, queries, elastic }: LakeOptions) {
  const byAlphabet = new Map<string, Map<number, number>[]>();
  for (const [label, name] of set.classes.entries()) {
    const ofDrawer = new Map<number, number>();
    for (const [row, own] of set.labels.entries()) if (own === label) ofDrawer.set(drawerOf(set.files[row]!), row);
    byAlphabet.set(alphabetOf(name), [...(byAlphabet.get(alphabetOf(name)) ?? []), ofDrawer]);
  }
  const names = [...byAlphabet.keys()];
  const drawers = Array.from({ length: 20 }, (_, i) => i + 1);
  const gaussian = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  return () => {
    const rows: number[][] = Array.from({ length: 1 + queries }, () => []);
    const views: View[][] = rows.map(() => []);
    for (let group = 0; group < alphabets; group++) {
      const characters = shuffled(byAlphabet.get(names[Math.floor(random() * names.length)]!)!, random).slice(0, 20);
      const people = shuffled(drawers, random).slice(0, 1 + queries);
      const [mirrored, turns] = [random() < 0.5, Math.floor(random() * 4)];
      for (const [part, person] of people.entries()) {
        for (const character of characters) {
          rows[part]!.push(character.get(person)!);
          views[part]!.push({ mirrored, turns, bend: randomBend(random, gaussian, elastic) });
        }
      }
    }
    const ways = rows[0]!.length;
    const query = Int32Array.from({ length: ways * queries }, (_, i) => i % ways);
    return { x: { images: seen(set.images, rows.flat(), views.flat()) }, support: wayLabels(ways, 1), query };
  };
}

/** The views that are compared and their distances added: 8 turned and mirrored ones, each also tilted both ways. */
export const testViews: readonly View[] = [0, 0.14, -0.14].flatMap((angle) =>
  [false, true].flatMap((mirrored) =>
    [0, 1, 2, 3].map((turns) => ({
      mirrored,
      turns,
      ...(angle !== 0 && { bend: { angle, shear: 0, scale: [1, 1] as const, shift: [0, 0] as const } }),
    })),
  ),
);

/** Embeddings [rows, views × dim]: squared distances between them are the sums over the views. */
export async function viewedEmbeddings(
  { learner, reference }: LakeNet,
  source: HostTensor,
  rows: readonly number[],
  views: readonly View[],
): Promise<Float32Array[]> {
  const out = rows.map(() => [] as number[][]);
  for (const view of views) {
    const images = seen(
      source,
      rows,
      rows.map(() => view),
    );
    const { data, shape } = await learner.embed({ images }, { images: reference });
    const dim = shape[1]!;
    for (let i = 0; i < rows.length; i++) out[i]!.push([...(data as Float32Array).subarray(i * dim, (i + 1) * dim)]);
  }
  return out.map((parts) => Float32Array.from(parts.flat()));
}

/** Index of the nearest support of each query, by the sum over all views of all nets. */
export function nearest(support: readonly Float32Array[], queries: readonly Float32Array[]): number[] {
  return queries.map((query) => {
    const distances = support.map((shown) => shown.reduce((sum, value, i) => sum + (value - query[i]!) ** 2, 0));
    return distances.indexOf(Math.min(...distances));
  });
}
