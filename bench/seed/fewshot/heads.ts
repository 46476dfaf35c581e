import {
  type AttentionPrototypeOptions,
  attentionPrototypeHead,
  type CachedFeatures,
  type EpisodeSource,
  episodeSampler,
  headLogits,
  labelText,
  type MetaDataset,
  prototypeHead,
  wayLabels,
} from 'fewtune';
import { say } from '../../lib/bench.js';
import { type Row, row } from '../../lib/report.js';
import { mean, studentInterval } from '../../lib/statistics.js';

/** The class folds of a data set and the numbers of ways measured on them. */
export interface HeadSource {
  readonly name: string;
  readonly folds: readonly MetaDataset[];
  readonly ways: readonly number[];
}

/** An episode as features; `labels` are those shown, right or not. */
interface FeatureTask {
  readonly hidden: number;
  readonly classes: number;
  readonly features: Float32Array;
  readonly labels: Int32Array;
  readonly names: Float32Array;
  readonly queries: Float32Array;
  readonly answers: Int32Array;
}

/** Logits [queries, classes]. */
type Answer = (task: FeatureTask) => Float32Array;

const [SHOTS, QUERIES] = [5, 5];
const plainName = 'plain prototype';
const improvedName = 'improved prototype';
const tunedName = 'improved prototype, settings chosen on the training classes';

const nothing: AttentionPrototypeOptions = { attention: 'none', centre: false, shrinkage: 1, nameWeight: 0 };
const attentive =
  (options: AttentionPrototypeOptions = {}): Answer =>
  (task) =>
    headLogits(attentionPrototypeHead(task, options), task.queries);
const plain: Answer = ({ names: _, ...support }) => headLogits(prototypeHead(support, 1), support.queries);

/** Each part alone, then everything without that part. */
const ablation: Readonly<Record<string, Answer>> = {
  'label names alone': attentive({ ...nothing, nameWeight: 1 }),
  'attention by margin alone': attentive({ ...nothing, attention: 'margin' }),
  'attention by reassignment alone': attentive({ ...nothing, attention: 'reassign' }),
  'centring alone': attentive({ ...nothing, centre: true }),
  'covariance metric alone': attentive({ ...nothing, shrinkage: 0.85 }),
  'diagonal metric alone': attentive({ ...nothing, dimensionShrinkage: 0.5 }),
  'improved without label names': attentive({ nameWeight: 0 }),
  'improved without attention': attentive({ attention: 'none' }),
  'improved with attention by margin': attentive({ attention: 'margin' }),
  'improved without centring': attentive({ centre: false }),
  'improved without covariance metric': attentive({ shrinkage: 1 }),
};

/** Settings of the improved prototype that the training classes of a fold choose from. */
const grid: readonly AttentionPrototypeOptions[] = [7, 10, 14, 20].flatMap((sharpness) =>
  [0.7, 0.85, 1].map((shrinkage) => ({ sharpness, shrinkage })),
);

/** The first example of each way carries the next way's label: one label in five is wrong. */
const mislabelled = (task: FeatureTask): FeatureTask => ({
  ...task,
  labels: task.labels.map((label, i) => (i % SHOTS === 0 ? (label + 1) % task.classes : label)),
});

async function* tasks(
  { texts, labels, classes }: EpisodeSource,
  ways: number,
  episodes: number,
  seed: number,
  features: CachedFeatures,
): AsyncGenerator<FeatureTask> {
  const shape = { ways, shots: SHOTS, queries: QUERIES };
  const shown = (rows: Int32Array) => features.features(Array.from(rows, (row) => texts[row]!));
  for (const episode of episodeSampler({ labels, classNames: classes, shape, seed }).episodes(episodes)) {
    yield {
      hidden: features.hidden,
      classes: ways,
      features: await shown(episode.support),
      labels: wayLabels(ways, SHOTS),
      names: await features.features(Array.from(episode.classes, (c) => labelText(classes[c]!))),
      queries: await shown(episode.query),
      answers: wayLabels(ways, QUERIES),
    };
  }
}

/** Share of queries answered rightly, in per cent. */
function share(logits: ArrayLike<number>, { classes, answers }: FeatureTask): number {
  const hits = answers.filter((answer, i) => {
    let best = 0;
    for (let c = 1; c < classes; c++) if (logits[i * classes + c]! > logits[i * classes + best]!) best = c;
    return best === answer;
  });
  return (100 * hits.length) / answers.length;
}

/** Best mean accuracy over right and noisy labels on the training classes; the test classes are not looked at. */
async function settingsOf(
  { train }: MetaDataset,
  ways: number,
  episodes: number,
  seed: number,
  features: CachedFeatures,
): Promise<AttentionPrototypeOptions> {
  const totals = grid.map(() => 0);
  for await (const task of tasks(train, Math.min(ways, train.classes.length), episodes, 1000 + seed, features)) {
    for (const shown of [task, mislabelled(task)]) {
      grid.forEach((settings, g) => {
        totals[g]! += share(attentive(settings)(shown), shown);
      });
    }
  }
  return grid[totals.indexOf(Math.max(...totals))]!;
}

type Scores = Record<string, { readonly clean: number; readonly noisy: number }>;

/**
 * Heads on the frozen encoder's features, on episodes of unseen classes: the improved prototype and each of its parts against
 * the plain prototype, with every label right and with one in five wrong.
 */
export async function headRows(source: HeadSource, features: CachedFeatures, quick: boolean): Promise<Row[]> {
  const rows: Row[] = [];
  for (const ways of source.ways) {
    const scores: Scores[] = [];
    const chosen: string[] = [];
    for (const [index, fold] of source.folds.entries()) {
      const seed = index + 1;
      const [episodes, parts, looked] = quick
        ? [10, 2, 2]
        : ways === 5
          ? [600, 200, 60]
          : ways === 20
            ? [80, 40, 12]
            : [40, 20, 6];
      const settings = await settingsOf(fold, ways, looked, seed, features);
      chosen.push(`${settings.sharpness}/${settings.shrinkage}`);
      let number = 0;
      for await (const task of tasks(fold.test, ways, episodes, seed, features)) {
        const noisy = mislabelled(task);
        const answers = { [plainName]: plain, [improvedName]: attentive(), [tunedName]: attentive(settings) };
        const all = Object.entries(number++ < parts ? { ...answers, ...ablation } : answers);
        const found = all.map(([name, answer]) => [
          name,
          { clean: share(answer(task), task), noisy: share(answer(noisy), noisy) },
        ]);
        scores.push(Object.fromEntries(found));
      }
      say(`${source.name} ${ways}-way, fold ${seed}: ${episodes} episodes of every head`);
    }
    rows.push(...comparison(`${source.name} ${ways}-way ${SHOTS}-shot`, scores, chosen.join(', ')));
  }
  return rows;
}

function comparison(title: string, scores: readonly Scores[], chosen: string): Row[] {
  const line = (method: string): Row => {
    const { mean: centre, low, high } = studentInterval(scores.map((entry) => entry[method]!.clean));
    const note = `95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}, ${scores.length} episodes`;
    return row({ what: `${title}: ${method}`, ours: centre, unit: '%', target: null, note });
  };
  const paired = (method: string, labels: 'clean' | 'noisy', target: string | null): Row => {
    const both = scores.filter((entry) => method in entry);
    const { mean: centre, low, high } = studentInterval(both.map((e) => e[method]![labels] - e[plainName]![labels]));
    const note = `mean ${centre.toFixed(2)}, 95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}, ${both.length} episodes`;
    const what = `${title}: ${method} − plain, ${labels === 'clean' ? 'labels right' : 'one label in five wrong'}`;
    return target === null
      ? row({ what: `${what}, paired`, ours: centre, unit: 'points', target, note })
      : row({ what: `${what}, paired, lower end`, ours: low, unit: 'points', target, note });
  };
  const drop = (method: string) => mean(scores.map((entry) => entry[method]!.clean - entry[method]!.noisy));
  const judged = (method: string, note?: string): Row[] => [
    line(method),
    paired(method, 'clean', '> 0'),
    paired(method, 'noisy', '> 0'),
    row({
      what: `${title}: accuracy lost to one wrong label in five, ${method}`,
      ours: drop(method),
      unit: 'points',
      peer: drop(plainName),
      peerName: plainName,
      target: '<= 0.5x peer',
      ...(note === undefined ? {} : { note }),
    }),
  ];
  return [
    ...judged(improvedName),
    ...judged(tunedName, `sharpness/shrinkage of each fold ${chosen}`),
    ...Object.keys(ablation).flatMap((part) => [paired(part, 'clean', null), paired(part, 'noisy', null)]),
  ];
}
