import { FewtuneError } from '../errors.js';
import { cleanRows, type RawRows, RepairLog } from './clean.js';
import { quoteSome, sortedClasses } from './dataset.js';
import { readEntities } from './read-entities.js';
import type { ReadOptions } from './read-job.js';
import { readRows } from './read-table.js';
import type { TargetKind, Targets, TaskDataset } from './task-dataset.js';

export interface ReadTaskOptions extends ReadOptions {
  readonly task: TargetKind;
  /** Column of second texts: each row is then a pair. */
  readonly pair?: string;
  /** What stands between the labels of one cell, unless it is a JSON array; `|`. */
  readonly separator?: string;
  /** Classes from the lowest to the highest, for an order; numbers are ordered by themselves. */
  readonly order?: readonly string[];
}

/**
 * Reads examples for any task. A row's target stands in its label column: a label, labels (a JSON array, or divided by
 * `separator`; a blank cell is none), a grade, a number. Entities come as JSONL `{"text", "entities": [{"start", "end",
 * "label"}]}`, or as CoNLL's columns, a token and its tag a line.
 *
 * @throws FewtuneError as `readTable`; TARGET_INVALID, SPAN_INVALID, LABEL_UNKNOWN with file, line and column;
 *   OPTION_INVALID
 * @example const data = await readTask('reviews.csv', { task: 'ordinal', text: 'review', label: 'stars' });
 */
export async function readTask(file: string, options: ReadTaskOptions): Promise<TaskDataset> {
  const { task, pair, separator = '|', order, purpose = 'train' } = options;
  if (separator === '') throw new FewtuneError('OPTION_INVALID', 'separator is empty; it stands between labels.');
  if (task === 'tokens') {
    if (pair !== undefined) {
      throw new FewtuneError('OPTION_INVALID', 'pair: entities are found in one text, not in two.');
    }
    return readEntities(file, options);
  }
  const raw = await readRows(file, options, true);
  const column = options.label === undefined ? 'the label column' : `column ${JSON.stringify(options.label)}`;
  const at = (line: number) => `${file}:${line}: ${column}`;
  if (task === 'classification' || task === 'ordinal') {
    const cleaned = pair === undefined ? plain(cleanRows(raw, purpose)) : clean(raw, purpose, (cell) => cell);
    return { ...cleaned.rows, targets: classesOf(cleaned, { file, task, order }) };
  }
  if (task === 'multi-label') {
    const { rows, targets } = clean(raw, purpose, (cell, line) => labelsIn(cell ?? '', separator, at(line)));
    const classes = sortedClasses(targets.flat());
    if (classes.length === 0) {
      throw new FewtuneError('ROWS_EMPTY', `${file}: no row has a label. Choose another label column with --label.`);
    }
    return { ...rows, targets: { kind: task, labels: targets, classes } };
  }
  const { rows, targets } = clean(raw, purpose, (cell, line) => (cell === null ? null : numberIn(cell, at(line))));
  return { ...rows, targets: { kind: 'regression', values: targets, name: options.label ?? 'value' } };
}

interface Cleaned<T> {
  readonly rows: Omit<TaskDataset, 'targets'>;
  readonly targets: readonly T[];
}

function plain({ labels, classes: _, ...rows }: ReturnType<typeof cleanRows>): Cleaned<string> {
  return { rows, targets: labels };
}

/**
 * Rows with texts and a target, trimmed; for training, equal rows once.
 *
 * @param target of a cell, trimmed and null where it is blank; null where there is none, and the row is left out
 */
function clean<T>(
  raw: RawRows,
  purpose: 'train' | 'test',
  target: (cell: string | null, line: number) => T | null,
): Cleaned<T> {
  const log = new RepairLog();
  const kept: { text: string; pair?: string; line: number; target: T }[] = [];
  const seen = new Set<string>();
  for (const [row, cell] of raw.texts.entries()) {
    const line = raw.lines[row]!;
    const text = (cell ?? '').trim();
    const pair = raw.pairs && (raw.pairs[row] ?? '').trim();
    if (text === '' || pair === '') {
      log.add('blank-text', 'rows without text were left out', `line ${line}`);
      continue;
    }
    const own = target((raw.labels[row] ?? '').trim() || null, line);
    if (own === null) {
      log.add('missing-label', 'rows without a label were left out', `line ${line}`);
      continue;
    }
    const key = JSON.stringify([text, pair, own]);
    if (purpose === 'train' && seen.has(key)) {
      log.add('duplicate-row', 'repeated rows were kept once', `line ${line}`);
      continue;
    }
    seen.add(key);
    kept.push({ text, ...(pair !== undefined && { pair }), line, target: own });
  }
  if (kept.length === 0) {
    throw new FewtuneError(
      'ROWS_EMPTY',
      `${raw.source}: none of its ${raw.texts.length} rows has both a text and a label. Choose other columns with ` +
        '--text and --label.',
    );
  }
  return {
    rows: {
      source: raw.source,
      texts: kept.map(({ text }) => text),
      ...(raw.pairs && { pairs: kept.map(({ pair }) => pair!) }),
      lines: kept.map(({ line }) => line),
      repairs: [...raw.repairs, ...log.list()],
    },
    targets: kept.map(({ target }) => target),
  };
}

/** The classes of labels, in an order where that is the task. */
function classesOf(
  { rows, targets }: Cleaned<string>,
  { file, task, order }: { file: string; task: 'classification' | 'ordinal'; order?: readonly string[] },
): Targets {
  const found = sortedClasses(targets);
  if (task === 'classification') return { kind: task, labels: targets, classes: found };
  if (order) {
    const row = targets.findIndex((label) => !order.includes(label));
    if (row >= 0) {
      throw new FewtuneError(
        'LABEL_UNKNOWN',
        `${file}:${rows.lines[row]}: the grade ${JSON.stringify(targets[row])} is not in the order given: ${quoteSome(order, 20)}.`,
      );
    }
    return { kind: task, labels: targets, classes: order };
  }
  const word = found.find((label) => !isNumber(label));
  if (word !== undefined) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `${file}: the grades are ${quoteSome(found, 20)}; ${JSON.stringify(word)} is no number, so their order cannot be ` +
        'seen. Give it, from the lowest to the highest, with --order.',
    );
  }
  return { kind: task, labels: targets, classes: found.sort((a, b) => Number(a) - Number(b)) };
}

const isNumber = (text: string): boolean => text !== '' && Number.isFinite(Number(text));

function numberIn(cell: string, place: string): number {
  if (isNumber(cell)) return Number(cell);
  const comma = /^[-+]?\d+,\d+$/.test(cell) ? ' Write a point for the comma.' : '';
  throw new FewtuneError('TARGET_INVALID', `${place}: ${JSON.stringify(cell.slice(0, 60))} is no number.${comma}`);
}

function labelsIn(cell: string, separator: string, place: string): string[] {
  const wrong = (what: string, cause?: unknown) =>
    new FewtuneError('TARGET_INVALID', `${place}: ${JSON.stringify(cell.slice(0, 60))} ${what}`, { cause });
  if (!cell.startsWith('[')) {
    return [...new Set(cell.split(separator).map((label) => label.trim()))].filter((label) => label !== '');
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(cell);
  } catch (cause) {
    throw wrong('begins like a JSON array and is none.', cause);
  }
  const labels = parsed as unknown[];
  const odd = labels.find((label) => typeof label !== 'string' || label.trim() === '');
  if (odd !== undefined) throw wrong(`holds ${JSON.stringify(odd)}; labels are texts that are not blank.`);
  return [...new Set(labels.map((label) => (label as string).trim()))];
}
