import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import type { HostTensor } from '@fewtune/engine';
import { readSafetensors, writeSafetensors } from '@fewtune/models';
import { type ImageSet, readImages } from 'fewtune';
import { say, timed } from '../../lib/bench.js';
import { dataFile, resultsFolder } from '../../lib/paths.js';
import { type Row, row } from '../../lib/report.js';
import { mean, studentInterval } from '../../lib/statistics.js';
import type { Part, PartContext } from '../engine/part.js';
import { backgroundSets, ofAlphabets } from './data.js';
import {
  type LakeNet,
  type LakeOptions,
  lakeNetOf,
  nearest,
  testViews,
  trainLakeNet,
  viewedEmbeddings,
} from './lake-net.js';
import { seen, sourceSize } from './warp.js';

/** One of Lake's 20 runs: one drawing each of 20 characters, 20 to be recognised. */
interface OneShotRun {
  /** Rows of the images. */
  readonly support: readonly number[];
  readonly queries: readonly number[];
  /** For each query, the index of its character among the support. */
  readonly answers: readonly number[];
}

/** Chosen by trial on the alphabets of the other background set; the runs' own were not looked at for it. */
export const lakeOptions: LakeOptions = {
  steps: 600,
  lr: 2e-3,
  alphabets: 2,
  queries: 4,
  elastic: 0.03,
  filters: 64,
  seed: 7,
  threads: 1,
};

/**
 * Lake et al. 2015 (Science 350, p. 1332): 20-way one-shot classification within an alphabet, 20 runs on ten alphabets,
 * after training on a minimal background set of five others.
 */
export const lake: Part = {
  name: 'lake',
  async run(context) {
    const characters = await readImages(dataFile('omniglot/images105.zip'), { size: sourceSize, invert: true });
    const { images, runs } = await oneShotRuns();
    const rows: Row[] = [errorRow('pixels, nearest by Euclidean distance', pixelErrors(images, runs), null)];
    for (const number of [1, 2] as const) {
      const train = ofAlphabets(characters, backgroundSets[number]);
      const { result: net, seconds } = await timed(() => netOf(number, train, context));
      const all = Array.from({ length: images.shape[0]! }, (_, i) => i);
      for (const [what, views, target] of [
        ['one view', testViews.slice(0, 1), null],
        [`${testViews.length} views`, testViews, '<= 20'],
      ] as const) {
        const z = await viewedEmbeddings(net, images, all, views);
        const at = (of: readonly number[]) => of.map((index) => z[index]!);
        const errors = runs.map(({ support, queries, answers }) => {
          const found = nearest(at(support), at(queries));
          return mean(answers.map((answer, i) => (found[i] === answer ? 0 : 1)));
        });
        const title = `ProtoNet trained on minimal set ${number}, ${what}`;
        rows.push(errorRow(title, errors, target, `${seconds.toFixed(0)} s of training`));
        say(`${title}: ${(100 * mean(errors)).toFixed(2)} % error`);
      }
      await net.learner.dispose();
    }
    return rows;
  },
};

function errorRow(what: string, errors: readonly number[], target: string | null, note?: string): Row {
  const { mean: centre, low, high } = studentInterval(errors.map((error) => 100 * error));
  const interval = `20 runs of 20, 95 % interval over runs ${low.toFixed(1)} to ${high.toFixed(1)}`;
  const published = 'published on the minimal sets: ProtoNet about 30 (recalled), BPL 4';
  return row({
    what: `Lake’s one-shot runs, error of ${what}`,
    ours: centre,
    unit: '%',
    target,
    note: [interval, note, target && published].filter(Boolean).join('; '),
  });
}

/** Trained now and kept, or with `--resume` as an earlier run with the same options left it. */
async function netOf(number: 1 | 2, train: ImageSet, { quick, resume }: PartContext): Promise<LakeNet> {
  const options = quick ? { ...lakeOptions, steps: 5 } : lakeOptions;
  const folder = path.join(resultsFolder, 'omniglot');
  const file = path.join(folder, `lake-${number}${quick ? '-quick' : ''}.safetensors`);
  const key = JSON.stringify(options);
  if (resume && existsSync(file)) {
    const { tensors, metadata } = await readSafetensors(file);
    if (metadata.options === key) return lakeNetOf(train, options, tensors);
  }
  mkdirSync(folder, { recursive: true });
  const checkpoint = { path: path.join(folder, `lake-${number}-run.safetensors`), every: 50 };
  const begun = resume && !quick && existsSync(checkpoint.path);
  const net = await trainLakeNet(
    train,
    options,
    quick ? {} : { checkpoint, ...(begun && { resume: checkpoint.path }) },
  );
  rmSync(checkpoint.path, { force: true });
  await writeSafetensors(file, net.learner.params, { options: key });
  return net;
}

async function oneShotRuns(): Promise<{ images: HostTensor; runs: OneShotRun[] }> {
  const { images, files } = await readImages(dataFile('omniglot/one_shot_runs'), { size: sourceSize, invert: true });
  const rowOf = new Map(files.map((file, index) => [file, index]));
  const lines = readFileSync(dataFile('omniglot/one_shot_runs/labels.csv'), 'utf8').trim().split('\n').slice(1);
  const byRun = new Map<string, (readonly [string, string])[]>();
  for (const line of lines) {
    const [run, , test, same] = line.trim().split(',') as [string, string, string, string];
    byRun.set(run, [...(byRun.get(run) ?? []), [test, same]]);
  }
  const runs = [...byRun].map(([run, pairs]) => {
    const shown = files.filter((file) => file.startsWith(`${run}/training/`));
    return {
      support: shown.map((file) => rowOf.get(file)!),
      queries: pairs.map(([test]) => rowOf.get(test)!),
      answers: pairs.map(([, same]) => shown.indexOf(same)),
    };
  });
  return { images, runs };
}

/** What no learning reaches: the nearest image, shrunk to what the network sees. */
function pixelErrors(images: HostTensor, runs: readonly OneShotRun[]): number[] {
  const rows = Array.from({ length: images.shape[0]! }, (_, i) => i);
  const { data } = seen(
    images,
    rows,
    rows.map(() => ({ mirrored: false, turns: 0 })),
  );
  const each = data.length / rows.length;
  const vectors = rows.map((i) => (data as Float32Array).subarray(i * each, (i + 1) * each));
  return runs.map(({ support, queries, answers }) => {
    const found = nearest(
      support.map((i) => vectors[i]!),
      queries.map((i) => vectors[i]!),
    );
    return mean(answers.map((answer, i) => (found[i] === answer ? 0 : 1)));
  });
}
