import {
  type ClassFold,
  classKey,
  classSplit,
  requireDistinctNames,
  type SplitName,
  splitNames,
} from './class-split.js';
import { labelIndices, type TextDataset } from './dataset.js';

/** The labelled rows of one part; `labels` index `classes`, so they go straight into an episode sampler. */
export interface EpisodeSource {
  readonly texts: readonly string[];
  /** [texts] */
  readonly labels: Int32Array;
  /** In the order of the split. */
  readonly classes: readonly string[];
}

export type MetaDataset = Readonly<Record<SplitName, EpisodeSource>>;

/**
 * One labelled table as sources of episodes whose classes are disjoint. Rows of classes in no part are left out; a label
 * with white space at its ends or in another Unicode form counts as the class it reads as.
 *
 * @throws FewtuneError OPTION_INVALID (a class in two parts), LABEL_UNKNOWN (a class without rows), LABELS_CONFLICT
 * @example
 * const { train, test } = metaDataset(data, splitClasses(data.classes, { train: 0.6, test: 0.4 }, 7));
 * const sampler = episodeSampler({ labels: train.labels, shape: { ways: 5, shots: 5, queries: 5 }, seed: 1 });
 */
export function metaDataset(dataset: Pick<TextDataset, 'texts' | 'labels' | 'classes'>, fold: ClassFold): MetaDataset {
  requireDistinctNames(dataset.classes, 'labels');
  const split = classSplit(fold, dataset.classes);
  const keys = dataset.labels.map(classKey);
  const source = (part: SplitName): EpisodeSource => {
    const classes = split[part];
    const labels = labelIndices(keys, classes.map(classKey));
    return {
      texts: dataset.texts.filter((_, row) => labels[row]! >= 0),
      labels: labels.filter((c) => c >= 0),
      classes,
    };
  };
  return Object.fromEntries(splitNames.map((part) => [part, source(part)])) as unknown as MetaDataset;
}
