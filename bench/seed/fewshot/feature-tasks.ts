import {
  type CachedFeatures,
  type EpisodeSource,
  episodeSampler,
  labelText,
  type MetaDataset,
  wayLabels,
} from 'fewtune';

export const SHOTS = 5;

/** The class folds of a data set and the numbers of ways measured on them. */
export interface HeadSource {
  readonly name: string;
  readonly folds: readonly MetaDataset[];
  readonly ways: readonly number[];
}

/** An episode as features; `labels` are those shown, right or not. */
export interface FeatureTask {
  readonly hidden: number;
  readonly classes: number;
  readonly features: Float32Array;
  readonly labels: Int32Array;
  readonly names: Float32Array;
  readonly queries: Float32Array;
  readonly answers: Int32Array;
}

/** Episodes of 5 shots as features of the frozen encoder. */
export async function* tasks(
  { texts, labels, classes }: EpisodeSource,
  ways: number,
  episodes: number,
  queries: number,
  seed: number,
  features: CachedFeatures,
): AsyncGenerator<FeatureTask> {
  const shape = { ways, shots: SHOTS, queries };
  const shown = (rows: Int32Array) => features.features(Array.from(rows, (row) => texts[row]!));
  for (const episode of episodeSampler({ labels, classNames: classes, shape, seed }).episodes(episodes)) {
    yield {
      hidden: features.hidden,
      classes: ways,
      features: await shown(episode.support),
      labels: wayLabels(ways, SHOTS),
      names: await features.features(Array.from(episode.classes, (c) => labelText(classes[c]!))),
      queries: await shown(episode.query),
      answers: wayLabels(ways, queries),
    };
  }
}

/** Share of queries answered rightly, in per cent. */
export function share(
  logits: ArrayLike<number>,
  { classes, answers }: Pick<FeatureTask, 'classes' | 'answers'>,
): number {
  const hits = answers.filter((answer, i) => {
    let best = 0;
    for (let c = 1; c < classes; c++) if (logits[i * classes + c]! > logits[i * classes + best]!) best = c;
    return best === answer;
  });
  return (100 * hits.length) / answers.length;
}
