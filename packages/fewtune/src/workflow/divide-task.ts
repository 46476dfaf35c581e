import { basename } from 'node:path';
import { labelIndices, quoteSome } from '../data/dataset.js';
import { stratifiedSplit } from '../data/split.js';
import { type TaskDataset, takeTaskRows } from '../data/task-dataset.js';
import { FewtuneError } from '../errors.js';
import { outputsOf } from './task-of.js';

/** Rows to learn from, to choose by, and to measure on. */
export function divideTask(data: TaskDataset, share: TaskDataset | number, validation: number, seed: number) {
  const strata = ({ targets }: TaskDataset): Int32Array =>
    targets.kind === 'classification' || targets.kind === 'ordinal'
      ? labelIndices(targets.labels, targets.classes)
      : new Int32Array(data.texts.length);
  const cut = (rows: TaskDataset, part: number, purpose: string) => {
    const split = stratifiedSplit(strata(rows).subarray(0, rows.texts.length), part, seed);
    if (split.test.length === 0 || split.train.length < 2) {
      throw new FewtuneError(
        'ROWS_EMPTY',
        `${data.source}: ${rows.texts.length} rows are too few to put ${part} of them aside for ${purpose}. Add examples.`,
      );
    }
    return { kept: takeTaskRows(rows, [...split.train]), aside: takeTaskRows(rows, [...split.test]) };
  };
  if (typeof share !== 'number') {
    checkTest(share, data);
    const { kept, aside } = cut(data, validation, 'validation');
    const seen = new Set(data.texts);
    const repeated = share.pairs ? 0 : share.texts.filter((text) => seen.has(text)).length;
    const overlap = repeated === 0 ? '' : ` ${repeated} of them also stand among the training texts.`;
    return {
      train: kept,
      held: aside,
      test: share,
      how: `${share.texts.length} rows of ${basename(share.source)}, which no fit saw.${overlap}`,
    };
  }
  const { kept, aside } = cut(data, share, 'testing');
  const inner = cut(kept, validation, 'validation');
  return {
    train: inner.kept,
    held: inner.aside,
    test: aside,
    how:
      `${aside.texts.length} rows put aside before training (${share} of all, seed ${seed}); the model was fitted on ` +
      `${inner.kept.texts.length} and chosen by ${inner.aside.texts.length}.`,
  };
}

/** @throws FewtuneError OPTION_INVALID (another task), LABEL_UNKNOWN */
function checkTest(test: TaskDataset, data: TaskDataset): void {
  const { targets } = test;
  if (targets.kind !== data.targets.kind || (test.pairs === undefined) !== (data.pairs === undefined)) {
    throw new FewtuneError('OPTION_INVALID', `test: ${test.source} was read for another task than ${data.source}.`);
  }
  checkLabels(test, outputsOf(data.targets), data.source);
}

/**
 * Whether every label of some rows is known.
 *
 * @param where what knows them: a file, or the model
 * @throws FewtuneError LABEL_UNKNOWN
 */
export function checkLabels({ source, lines, targets }: TaskDataset, names: readonly string[], where: string): void {
  if (targets.kind === 'regression') return;
  const known = new Set(names);
  const labels =
    targets.kind === 'tokens'
      ? targets.entities.map((some) => some.map(({ label }) => label))
      : targets.labels.map((one) => [one].flat());
  const row = labels.findIndex((some) => some.some((label) => !known.has(label)));
  if (row < 0) return;
  const unknown = labels[row]!.find((label) => !known.has(label));
  throw new FewtuneError(
    'LABEL_UNKNOWN',
    `${source}:${lines[row]}: the label ${JSON.stringify(unknown)} is not in ${where}. Known are ${quoteSome(names)}.`,
  );
}
