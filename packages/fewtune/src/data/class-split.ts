import { FewtuneError } from '../errors.js';
import { quoteSome } from './dataset.js';
import { createRandom } from './random.js';

export const splitNames = ['train', 'validation', 'test'] as const;
export type SplitName = (typeof splitNames)[number];

/** Names of the classes of each part; no class lies in two. */
export type ClassSplit = Readonly<Record<SplitName, readonly string[]>>;

/** Class lists as files have them; `valid` is another word for `validation`. */
export interface ClassFold {
  readonly train: readonly string[];
  readonly validation?: readonly string[];
  readonly valid?: readonly string[];
  readonly test?: readonly string[];
}

/** The form in which class names are compared: Unicode NFC without white space at the ends. */
export function classKey(name: string): string {
  return name.normalize('NFC').trim();
}

/**
 * Throws when two names look the same and differ only in their bytes, such as "café" written with one code point and
 * with two: as two classes, one of them could be trained on and the other tested on.
 * @throws FewtuneError LABELS_CONFLICT
 */
export function requireDistinctNames(names: Iterable<string>, where: string): void {
  const seen = new Map<string, string>();
  for (const name of names) {
    const before = seen.get(classKey(name));
    if (before !== undefined && before !== name) {
      throw new FewtuneError(
        'LABELS_CONFLICT',
        `${where}: the labels ${escaped(before)} and ${escaped(name)} are one label written in two ways (they differ only in ` +
          'Unicode normalisation or in white space at their ends). Write both the same way.',
      );
    }
    seen.set(classKey(name), name);
  }
}

/** Quoted, everything but printable ASCII escaped: otherwise the two spellings would look alike. */
function escaped(name: string): string {
  const hex = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
  return JSON.stringify(name).replace(/[^ -~]/g, hex);
}

/**
 * Shuffles the classes and deals them to the parts. Sizes that are all whole numbers are counts, others fractions of all
 * classes; parts left out are empty. The order of `classes` does not matter.
 *
 * @throws FewtuneError OPTION_INVALID (sizes that do not fit), LABELS_CONFLICT (see {@link requireDistinctNames})
 * @example const { train, test } = splitClasses(data.classes, { train: 50, validation: 50, test: 50 }, 7);
 */
export function splitClasses(
  classes: readonly string[],
  sizes: Partial<Readonly<Record<SplitName, number>>>,
  seed: number,
): ClassSplit {
  requireDistinctNames(classes, 'classes');
  const names = [...new Set(classes)].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  const counts = partSizes(sizes, names.length);
  createRandom(seed).shuffle(names);
  let taken = 0;
  const [train, validation, test] = counts.map((count) => {
    taken += count;
    return names.slice(taken - count, taken).sort();
  });
  return { train: train!, validation: validation!, test: test! };
}

function partSizes(sizes: Partial<Readonly<Record<SplitName, number>>>, total: number): number[] {
  const given = splitNames.map((name) => sizes[name] ?? 0);
  const sum = given.reduce((a, b) => a + b, 0);
  const described = `${given.join(' + ')} classes for ${splitNames.join(' + ')}`;
  const refuse = (why: string): never => {
    throw new FewtuneError(
      'OPTION_INVALID',
      `${described}: ${why}. Give whole numbers that sum to at most ${total}, or fractions that sum to at most 1.`,
    );
  };
  if (given.some((size) => !(size >= 0 && Number.isFinite(size)))) refuse('sizes are numbers from 0');
  if (given.every(Number.isInteger)) {
    if (sum > total) refuse(`there are only ${total} classes`);
    if (sum === 0) refuse('no part gets a class');
    return given;
  }
  if (sum > 1 + 1e-9) refuse('fractions sum to more than 1');
  // Rounding running sums keeps every part within one class of its fraction, and 1 in all means every class.
  let before = 0;
  let running = 0;
  const counts = given.map((size) => {
    running += size;
    const upTo = Math.min(total, Math.round(running * total));
    const count = upTo - before;
    before = upTo;
    return count;
  });
  const empty = splitNames.find((_, i) => given[i]! > 0 && counts[i] === 0);
  if (empty !== undefined) refuse(`${empty} would get none of ${total} classes`);
  return counts;
}

/**
 * As {@link splitClasses}, but what is dealt are groups of classes, and no group is divided: whole alphabets are held out,
 * not some characters of each. Sizes count groups, or are fractions of them.
 *
 * @param groupOf the group of a class; when left out, what stands before the first `/` of its name (`Greek/alpha`)
 * @throws FewtuneError as {@link splitClasses}
 * @example const { train, test } = splitClassGroups(images.classes, { train: 5, test: 3 }, 7);
 */
export function splitClassGroups(
  classes: readonly string[],
  sizes: Partial<Readonly<Record<SplitName, number>>>,
  seed: number,
  groupOf: (name: string) => string = (name) => name.split('/', 1)[0]!,
): ClassSplit {
  requireDistinctNames(classes, 'classes');
  const names = [...new Set(classes)].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  const groups = splitClasses(names.map(groupOf), sizes, seed);
  const part = (name: SplitName) => names.filter((member) => groups[name].includes(groupOf(member)));
  return { train: part('train'), validation: part('validation'), test: part('test') };
}

/**
 * Given class lists, checked: no class in two parts, none twice in one. Names are compared, and with `classes` also
 * returned in the spelling found there, after {@link classKey}.
 *
 * @param classes classes of the data; names that are not among them are refused
 * @throws FewtuneError OPTION_INVALID (a class in two parts), LABEL_UNKNOWN, LABELS_CONFLICT
 */
export function classSplit(fold: ClassFold, classes?: readonly string[], where = 'class split'): ClassSplit {
  if (classes !== undefined) requireDistinctNames(classes, where);
  const known = classes && new Map(classes.map((name) => [classKey(name), name]));
  const placed = new Map<string, SplitName>();
  const unknown: string[] = [];
  const part = (name: SplitName, members: readonly string[]) =>
    members.map((member) => {
      const key = classKey(member);
      const before = placed.get(key);
      if (before !== undefined) {
        throw new FewtuneError(
          'OPTION_INVALID',
          `${where}: class ${JSON.stringify(member)} is ${before === name ? `twice in ${name}` : `in both ${before} and ${name}`}` +
            '. A class belongs to one part only, or the figure measured on it is no figure for new classes; remove it from one.',
        );
      }
      placed.set(key, name);
      if (known !== undefined && !known.has(key)) unknown.push(member);
      return known?.get(key) ?? member;
    });
  const split = {
    train: part('train', fold.train),
    validation: part('validation', [...(fold.validation ?? []), ...(fold.valid ?? [])]),
    test: part('test', fold.test ?? []),
  };
  if (unknown.length > 0) {
    throw new FewtuneError(
      'LABEL_UNKNOWN',
      `${where}: ${unknown.length} classes have no example in the data: ${quoteSome(unknown)}. Correct or remove them.`,
    );
  }
  return split;
}

/**
 * Several folds by name, as in a JSON file `{ "01": { "train": […], "valid": […], "test": […] }, … }`, each checked.
 * @throws FewtuneError as {@link classSplit}, naming the fold; OPTION_INVALID when `folds` has another form
 */
export function classFolds(folds: unknown, classes?: readonly string[]): Map<string, ClassSplit> {
  const isRecord = (value: unknown): value is Record<string, unknown> =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  const isNames = (value: unknown) => Array.isArray(value) && value.every((name) => typeof name === 'string');
  const known = ['train', 'validation', 'valid', 'test'];
  if (!isRecord(folds))
    throw new FewtuneError('OPTION_INVALID', 'class folds: an object of folds by name is expected.');
  return new Map(
    Object.entries(folds).map(([name, fold]) => {
      const valid = isRecord(fold) && 'train' in fold;
      if (!valid || !Object.entries(fold).every(([part, names]) => known.includes(part) && isNames(names))) {
        throw new FewtuneError(
          'OPTION_INVALID',
          `fold ${JSON.stringify(name)}: expected { "train": [names], "valid": [names], "test": [names] }.`,
        );
      }
      return [name, classSplit(fold as unknown as ClassFold, classes, `fold ${JSON.stringify(name)}`)];
    }),
  );
}
