import { FewtuneError } from '../errors.js';

/** Something that was wrong with the input and was put right without asking; counted, never silent. */
export interface Repair {
  readonly kind:
    | 'encoding'
    | 'trailing-fields'
    | 'blank-text'
    | 'missing-label'
    | 'duplicate-row'
    | 'contradicting-labels'
    | 'begun-inside';
  /** Rows concerned. */
  readonly count: number;
  /** A few of them, as `line 12: …`. */
  readonly examples: readonly string[];
  /** What was done, as a sentence. */
  readonly remedy: string;
}

/** Labelled sentences as they came from a file, cleaned. */
export interface TextDataset {
  /** File the rows came from. */
  readonly source: string;
  readonly texts: readonly string[];
  readonly labels: readonly string[];
  /** Where each row starts: line of a text file (1 is the first), or row number for JSON arrays and Parquet. */
  readonly lines: readonly number[];
  /** Distinct labels, sorted by code units. */
  readonly classes: readonly string[];
  readonly repairs: readonly Repair[];
}

/** Sentences without labels. */
export interface TextList {
  readonly source: string;
  readonly texts: readonly string[];
  readonly lines: readonly number[];
  readonly repairs: readonly Repair[];
}

/** Distinct values sorted by code units: the same order everywhere, whatever the locale. */
export function sortedClasses(labels: Iterable<string>): string[] {
  return [...new Set(labels)].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
}

/** Index into `classes` of each label; -1 for a label that is not among them. */
export function labelIndices(labels: readonly string[], classes: readonly string[]): Int32Array {
  const index = new Map(classes.map((name, i) => [name, i]));
  return Int32Array.from(labels, (label) => index.get(label) ?? -1);
}

/** The dataset as methods want it: labels as indices. */
export function toLabelled(dataset: TextDataset): {
  texts: readonly string[];
  labels: Int32Array;
  classes: readonly string[];
} {
  return { texts: dataset.texts, labels: labelIndices(dataset.labels, dataset.classes), classes: dataset.classes };
}

/** Rows of each class, in the order of `classes`. */
export function classCounts(dataset: TextDataset): Int32Array {
  const counts = new Int32Array(dataset.classes.length);
  for (const label of labelIndices(dataset.labels, dataset.classes)) counts[label]!++;
  return counts;
}

/** At most `limit` items, quoted and counted: `"a", "b" and 3 more`. */
export function quoteSome(items: readonly string[], limit = 5): string {
  const shown = items.slice(0, limit).map((item) => JSON.stringify(item.length > 60 ? `${item.slice(0, 57)}…` : item));
  const rest = items.length - shown.length;
  return rest > 0 ? `${shown.join(', ')} and ${rest} more` : shown.join(', ');
}

/**
 * Throws unless a classifier can be trained and checked on these rows.
 * @throws FewtuneError CLASS_SINGLE, CLASS_TOO_SMALL (a class with fewer than `minimum` rows)
 */
export function requireTrainable(dataset: TextDataset, minimum = 2): void {
  const { source, classes } = dataset;
  if (classes.length < 2) {
    throw new FewtuneError(
      'CLASS_SINGLE',
      `${source}: every row has the same label, ${quoteSome(classes)}; a classifier needs at least two. ` +
        'Add rows of another class, or choose another label column with --label.',
    );
  }
  const counts = classCounts(dataset);
  const small = classes.map((name, i) => ({ name, count: counts[i]! })).filter(({ count }) => count < minimum);
  if (small.length > 0) {
    const list = small.slice(0, 5).map(({ name, count }) => `${JSON.stringify(name)} (${count})`);
    const more = small.length > 5 ? ` and ${small.length - 5} more` : '';
    throw new FewtuneError(
      'CLASS_TOO_SMALL',
      `${source}: ${small.length} of ${classes.length} classes have fewer than ${minimum} examples: ` +
        `${list.join(', ')}${more}. Add examples for them, merge them with another class, or remove their rows.`,
    );
  }
}
