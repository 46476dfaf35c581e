import { FewtuneError } from '../errors.js';
import { quoteSome, type Repair, sortedClasses, type TextDataset, type TextList } from './dataset.js';

/** Cells as read: null where the file has none. */
export interface RawRows {
  readonly source: string;
  readonly texts: readonly (string | null)[];
  readonly labels: readonly (string | null)[];
  /** Second texts, where such a column was asked for. */
  readonly pairs?: readonly (string | null)[];
  readonly lines: readonly number[];
  readonly repairs: readonly Repair[];
}

/** More than this share of rows in contradiction is a sign of the wrong label column, not of a few slips. */
const CONFLICT_LIMIT = 0.2;

const shorten = (text: string): string => (text.length > 60 ? `${text.slice(0, 57)}…` : text);

/** What was put right, kind by kind, with a few examples. */
export class RepairLog {
  readonly #found = new Map<Repair['kind'], { count: number; examples: string[]; remedy: string }>();

  add(kind: Repair['kind'], remedy: string, example: string): void {
    const entry = this.#found.get(kind) ?? { count: 0, examples: [], remedy };
    entry.count++;
    if (entry.examples.length < 5) entry.examples.push(example);
    this.#found.set(kind, entry);
  }

  list(): Repair[] {
    return [...this.#found].map(([kind, entry]) => ({ kind, ...entry }));
  }
}

interface Row {
  readonly text: string;
  readonly label: string;
  readonly line: number;
}

/** Rows with a text, trimmed. */
function textRows(rows: RawRows, log: RepairLog): { text: string; index: number }[] {
  return rows.texts.flatMap((cell, index) => {
    const text = (cell ?? '').trim();
    if (text !== '') return [{ text, index }];
    log.add('blank-text', 'rows without text were left out', `line ${rows.lines[index]}`);
    return [];
  });
}

function requireRows(rows: RawRows, texts: readonly unknown[]): void {
  if (rows.texts.length === 0) {
    throw new FewtuneError('ROWS_EMPTY', `${rows.source}: there are no rows below the column names. Add examples.`);
  }
  if (texts.length === 0) {
    throw new FewtuneError(
      'TEXT_BLANK',
      `${rows.source}: the text of all ${rows.texts.length} rows is blank. Choose another text column with --text.`,
    );
  }
}

/** Texts alone, for prediction: blank rows left out, order and duplicates kept. */
export function cleanTexts(rows: RawRows): TextList {
  const log = new RepairLog();
  const kept = textRows(rows, log);
  requireRows(rows, kept);
  return {
    source: rows.source,
    texts: kept.map(({ text }) => text),
    lines: kept.map(({ index }) => rows.lines[index]!),
    repairs: [...rows.repairs, ...log.list()],
  };
}

/**
 * Labelled rows: trimmed, none blank; for training also each text once, and no text with two labels.
 * @throws FewtuneError ROWS_EMPTY, TEXT_BLANK, LABELS_CONFLICT
 */
export function cleanRows(rows: RawRows, purpose: 'train' | 'test' = 'train'): TextDataset {
  const log = new RepairLog();
  const withText = textRows(rows, log);
  requireRows(rows, withText);

  const labelled: Row[] = withText.flatMap(({ text, index }) => {
    const label = (rows.labels[index] ?? '').trim();
    const line = rows.lines[index]!;
    if (label !== '') return [{ text, label, line }];
    log.add('missing-label', 'rows without a label were left out', `line ${line}: ${JSON.stringify(shorten(text))}`);
    return [];
  });
  if (labelled.length === 0) {
    throw new FewtuneError(
      'ROWS_EMPTY',
      `${rows.source}: none of the ${withText.length} rows has a label. Choose another label column with --label.`,
    );
  }

  const labelsOf = new Map<string, Set<string>>();
  for (const { text, label } of labelled) {
    const labels = labelsOf.get(text) ?? new Set();
    labelsOf.set(text, labels.add(label));
  }
  const seen = new Set<string>();
  let contradicting = 0;
  const kept = labelled.filter(({ text, label, line }) => {
    if (purpose === 'test') return true;
    const labels = labelsOf.get(text)!;
    if (labels.size > 1) {
      contradicting++;
      log.add(
        'contradicting-labels',
        'rows whose text occurs with different labels were all left out',
        `line ${line}: ${JSON.stringify(shorten(text))} is labelled ${quoteSome([...labels])}`,
      );
      return false;
    }
    if (seen.has(text)) {
      const example = `line ${line}: ${JSON.stringify(shorten(text))} (${JSON.stringify(label)})`;
      log.add('duplicate-row', 'repeated rows were kept once', example);
      return false;
    }
    seen.add(text);
    return true;
  });
  const repairs = [...rows.repairs, ...log.list()];
  if (contradicting > CONFLICT_LIMIT * labelled.length || kept.length === 0) {
    const { examples } = repairs.find(({ kind }) => kind === 'contradicting-labels')!;
    throw new FewtuneError(
      'LABELS_CONFLICT',
      `${rows.source}: ${contradicting} of ${labelled.length} rows have a text that occurs with different labels, ` +
        `e.g. ${examples.slice(0, 2).join('; ')}. Decide on one label for each text, or choose another label column with --label.`,
    );
  }
  return {
    source: rows.source,
    texts: kept.map(({ text }) => text),
    labels: kept.map(({ label }) => label),
    lines: kept.map(({ line }) => line),
    classes: sortedClasses(kept.map(({ label }) => label)),
    repairs,
  };
}
