import {
  type AttentionPrototypeOptions,
  attentionPrototypeHead,
  type CachedFeatures,
  headLogits,
  ldaHead,
  type MetaDataset,
  mahalanobisHead,
  prototypeHead,
  ridgeHead,
} from 'fewtune';
import { say } from '../../lib/bench.js';
import { type Row, row } from '../../lib/report.js';
import { mean, studentInterval } from '../../lib/statistics.js';
import { type FeatureTask, type HeadSource, SHOTS, share, tasks } from './feature-tasks.js';

/** Logits [queries, classes]. */
type Answer = (task: FeatureTask) => Float32Array;

const QUERIES = 5;
const plainName = 'plain prototype';
const improvedName = 'improved prototype';
const tunedName = 'improved prototype, settings chosen on the training classes';

const nothing: AttentionPrototypeOptions = {
  attention: 'none',
  centre: false,
  shrinkage: 1,
  nameWeight: 0,
  refinement: 0,
};
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
  'refinement alone': attentive({ ...nothing, refinement: 3 }),
  'improved without label names': attentive({ nameWeight: 0 }),
  'improved without attention': attentive({ attention: 'none' }),
  'improved, one label in ten taken for wrong': attentive({ mislabelled: 0.1 }),
  'improved with attention by margin': attentive({ attention: 'margin' }),
  'improved without centring': attentive({ centre: false }),
  'improved without covariance metric': attentive({ shrinkage: 1 }),
  'improved without refinement': attentive({ refinement: 0 }),
};

/** Heads in closed form, without label names and with every label believed. */
const closedForm: Readonly<Record<string, Answer>> = {
  'ridge regression': (task) => headLogits(ridgeHead(task).head, task.queries),
  LDA: (task) => headLogits(ldaHead(task, 0.85), task.queries),
  'Mahalanobis of each class': (task) => mahalanobisHead(task, 3)(task.queries),
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

/**
 * The settings that are best over right and noisy labels on the training classes, among those that lose at most half of what
 * the plain prototype loses to the noise there; the test classes are not looked at.
 */
async function settingsOf(
  { train }: MetaDataset,
  ways: number,
  episodes: number,
  seed: number,
  features: CachedFeatures,
): Promise<AttentionPrototypeOptions> {
  const answers = [plain, ...grid.map((settings) => attentive(settings))];
  const totals = answers.map(() => ({ clean: 0, noisy: 0 }));
  const shown = Math.min(ways, train.classes.length);
  for await (const task of tasks(train, shown, episodes, QUERIES, 1000 + seed, features)) {
    const noisy = mislabelled(task);
    answers.forEach((answer, k) => {
      totals[k]!.clean += share(answer(task), task);
      totals[k]!.noisy += share(answer(noisy), noisy);
    });
  }
  const lost = totals.map(({ clean, noisy }) => clean - noisy);
  const ranked = grid.map((settings, g) => {
    const { clean, noisy } = totals[g + 1]!;
    return { settings, robust: lost[g + 1]! <= lost[0]! / 2, right: clean + noisy };
  });
  return ranked.reduce((a, b) => ((Number(b.robust) - Number(a.robust) || b.right - a.right) > 0 ? b : a)).settings;
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
          ? [600, 120, 40]
          : ways === 20
            ? [80, 20, 6]
            : ways === 50
              ? [20, 4, 2]
              : [40, 10, 4];
      const settings = await settingsOf(fold, ways, looked, seed, features);
      chosen.push(`${settings.sharpness}/${settings.shrinkage}`);
      let number = 0;
      for await (const task of tasks(fold.test, ways, episodes, QUERIES, seed, features)) {
        const noisy = mislabelled(task);
        const answers = { [plainName]: plain, [improvedName]: attentive(), [tunedName]: attentive(settings) };
        const all = Object.entries(number++ < parts ? { ...answers, ...ablation, ...closedForm } : answers);
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
    ...Object.keys({ ...ablation, ...closedForm }).flatMap((part) => [
      paired(part, 'clean', null),
      paired(part, 'noisy', null),
    ]),
  ];
}
