import { basename } from 'node:path';
import { pick } from '../advisor/cross-validate.js';
import { classCounts, labelIndices, quoteSome, type TextDataset, toLabelled } from '../data/dataset.js';
import { stratifiedSplit } from '../data/split.js';
import { FewtuneError } from '../errors.js';
import type { Labelled } from '../methods/method.js';

/** Rows that no fit sees. */
export interface HeldOut {
  readonly texts: readonly string[];
  readonly labels: Int32Array;
  /** One sentence: where they come from and what the model was fitted on. */
  readonly how: string;
}

/**
 * The rows to learn from and, when asked for, those to measure on.
 *
 * @throws FewtuneError CLASS_TOO_SMALL when a fraction would leave a class with one row; LABEL_UNKNOWN
 */
export function divide(
  data: TextDataset,
  test: TextDataset | number | undefined,
  seed: number,
): { learned: Labelled; test?: HeldOut } {
  const all = toLabelled(data);
  if (test === undefined) {
    return { learned: all };
  }
  if (typeof test === 'number') {
    return divideByFraction(data, all, test, seed);
  }
  const labels = knownLabels(test, data.classes, `the training file ${data.source}`);
  const seen = new Set(data.texts);
  const repeated = test.texts.filter((text) => seen.has(text)).length;
  const overlap = repeated === 0 ? '' : ` ${repeated} of them also stand among the training texts.`;
  return {
    learned: all,
    test: {
      texts: test.texts,
      labels,
      how: `${test.texts.length} rows of ${basename(test.source)}, which no fit saw.${overlap}`,
    },
  };
}

function divideByFraction(data: TextDataset, all: Labelled, fraction: number, seed: number) {
  const split = stratifiedSplit(all.labels, fraction, seed);
  const learned = pick(all, [...split.train]);
  const counts = new Int32Array(data.classes.length);
  for (const label of learned.labels) {
    counts[label]!++;
  }
  const small = data.classes.filter((_, i) => counts[i]! < 2);
  if (small.length > 0 || split.test.length === 0) {
    const whole = classCounts(data);
    const named = small.map((label) => `${label} (${whole[data.classes.indexOf(label)]} rows)`);
    throw new FewtuneError(
      'CLASS_TOO_SMALL',
      `${data.source}: setting ${fraction} of the rows aside for testing would leave too little: ` +
        `${small.length > 0 ? `fewer than 2 rows to learn from for ${quoteSome(named)}` : 'no row to test on'}. ` +
        'Add examples, or leave --test out: then every row is tested by cross-validation.',
    );
  }
  const held = pick(all, [...split.test]);
  return {
    learned,
    test: {
      texts: held.texts,
      labels: held.labels,
      how: `${held.texts.length} rows put aside before training (${fraction} of every class, seed ${seed}).`,
    },
  };
}

/**
 * Labels of `data` as indices into `classes`.
 *
 * @throws FewtuneError LABEL_UNKNOWN, listing them; `known` says who knows the others
 */
export function knownLabels(data: TextDataset, classes: readonly string[], known: string): Int32Array {
  const labels = labelIndices(data.labels, classes);
  const row = labels.indexOf(-1);
  if (row !== -1) {
    const unknown = [...new Set(data.labels.filter((_, i) => labels[i] === -1))];
    throw new FewtuneError(
      'LABEL_UNKNOWN',
      `${data.source}, line ${data.lines[row]}: ${unknown.length} label${unknown.length === 1 ? '' : 's'} that ${known} does not know: ` +
        `${quoteSome(unknown)}. Known are ${quoteSome(classes)}. Correct the labels, choose another column with --label, ` +
        'or remove these rows.',
    );
  }
  return labels;
}
