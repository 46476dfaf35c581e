import { classCounts, type Repair, type TextDataset } from './dataset.js';

/** Smallest, median and largest of some numbers. */
export interface Spread {
  readonly min: number;
  readonly median: number;
  readonly max: number;
}

/** What there is to know about a dataset before training. */
export interface DataProfile {
  readonly rows: number;
  readonly classes: number;
  readonly perClass: Spread;
  /** Largest class over smallest class, 1 when balanced. */
  readonly imbalance: number;
  /** Words (runs of non-space) of a text. */
  readonly words: Spread;
  readonly characters: Spread;
  /** Rows of each class, in the order of the dataset's `classes`. */
  readonly counts: readonly { readonly label: string; readonly count: number }[];
  readonly repairs: readonly Repair[];
}

function spread(values: ArrayLike<number>): Spread {
  const sorted = Float64Array.from(values).sort();
  const n = sorted.length;
  if (n === 0) return { min: 0, median: 0, max: 0 };
  return { min: sorted[0]!, median: (sorted[(n - 1) >> 1]! + sorted[n >> 1]!) / 2, max: sorted[n - 1]! };
}

/** Counts, lengths and imbalance of a dataset. */
export function profile(dataset: TextDataset): DataProfile {
  const counts = classCounts(dataset);
  const perClass = spread(counts);
  return {
    rows: dataset.texts.length,
    classes: dataset.classes.length,
    perClass,
    imbalance: perClass.min > 0 ? perClass.max / perClass.min : 1,
    words: spread(dataset.texts.map((text) => text.match(/\S+/gu)?.length ?? 0)),
    characters: spread(dataset.texts.map((text) => text.length)),
    counts: dataset.classes.map((label, i) => ({ label, count: counts[i]! })),
    repairs: dataset.repairs,
  };
}
