import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { type HostTensor, hostTensor, type Named } from '@fewtune/engine';
import { conv4, writeSafetensors } from '@fewtune/models';
import { type Episode, episodeSampler, type ImageSet, rotationClasses } from 'fewtune';
import { resultsFolder } from '../../lib/paths.js';
import { backgroundSets, characters28, ofAlphabets } from './data.js';

export const ways = 5;
export const shots = 1;
export const trainQueries = 5;
export const testQueries = 5;
export const tasksPerStep = 4;

/** What every arm of the comparison is given: the same images, the same episodes in the same order, the same start. */
export interface Setting {
  readonly steps: number;
  readonly train: ImageSet;
  readonly test: ImageSet;
  /** steps × tasksPerStep */
  readonly trainEpisodes: readonly Episode[];
  readonly testEpisodes: readonly Episode[];
  /** Weights of Conv4 with a head of five ways. */
  readonly start: Named<HostTensor>;
  /** All of it as a file for the peers. */
  readonly file: string;
}

export const network = (head: boolean) => conv4({ variant: 'stride-2', ...(head && { ways }), seed: 7 });

/**
 * Trained on the alphabets of "small 1", each turned character a class (544 classes); tested upright on the alphabets
 * that are in "small 2" alone (106 classes).
 */
export async function omniglotImages(): Promise<Pick<Setting, 'train' | 'test'>> {
  const all = await characters28();
  const unseen = backgroundSets[2].filter((name) => !(backgroundSets[1] as readonly string[]).includes(name));
  return { train: rotationClasses(ofAlphabets(all, backgroundSets[1])), test: ofAlphabets(all, unseen) };
}

/** The same with episodes and start weights, also as a file for the peers. */
export async function omniglotSetting(quick: boolean): Promise<Setting> {
  const steps = quick ? 10 : 600;
  const { train, test } = await omniglotImages();
  const draw = ({ labels, classes }: ImageSet, queries: number, seed: number, count: number) => [
    ...episodeSampler({ labels, classNames: classes, shape: { ways, shots, queries }, seed }).episodes(count),
  ];
  const trainEpisodes = draw(train, trainQueries, 1, steps * tasksPerStep);
  const testEpisodes = draw(test, testQueries, 2, quick ? 10 : 600);
  const folder = path.join(resultsFolder, 'omniglot');
  mkdirSync(folder, { recursive: true });
  const file = path.join(folder, `setting-${steps}.safetensors`);
  const start = network(true).weights;
  const rowsOf = (episodes: readonly Episode[], part: 'support' | 'query') => {
    const each = episodes[0]![part].length;
    const rows = episodes.flatMap((episode) => [...episode[part]]);
    return hostTensor('int64', [episodes.length, each], rows);
  };
  await writeSafetensors(file, {
    'train/images': train.images,
    'train/support': rowsOf(trainEpisodes, 'support'),
    'train/query': rowsOf(trainEpisodes, 'query'),
    'test/images': test.images,
    'test/support': rowsOf(testEpisodes, 'support'),
    'test/query': rowsOf(testEpisodes, 'query'),
    ...Object.fromEntries(Object.entries(start).map(([name, value]) => [`start/${name}`, value])),
  });
  return { steps, train, test, trainEpisodes, testEpisodes, start, file };
}
