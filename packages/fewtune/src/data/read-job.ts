import { readFile, symlink } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { FewtuneError } from '../errors.js';
import type { RawRows } from './clean.js';
import { chooseColumn } from './columns.js';
import type { Repair } from './dataset.js';
import { cellText, type Query, type Rows } from './duckdb.js';

export interface ReadOptions {
  /** Column of the sentences; by default the one whose name is recognised (`text`, `sentence`, `review` …). */
  text?: string;
  /** Column of the labels; by default the one whose name is recognised (`label`, `category`, `intent` …). */
  label?: string;
  /**
   * `train` (default) keeps each text once and leaves out texts with contradicting labels; `test` leaves such rows as
   * they are, so that a published test set is measured on whole.
   */
  purpose?: 'train' | 'test';
  signal?: AbortSignal;
}

export interface JobOptions extends ReadOptions {
  /** Column of second texts, for pairs. */
  pair?: string;
}

/** One file to read, with what its reader needs. */
export interface Job {
  readonly file: string;
  readonly extension: string;
  /** A folder for a mended copy, removed afterwards. */
  readonly scratch: string;
  readonly query: Query;
  readonly options: JobOptions;
  readonly labelled: boolean;
}

export async function readBytes(file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (error) {
    throw new FewtuneError('FILE_UNREADABLE', `${file}: ${(error as Error).message}`, { cause: error });
  }
}

/** DuckDB takes `*`, `?` and `[` in a path for a pattern; a link with a plain name stands in for such a file. */
export async function plainPath(job: Job): Promise<string> {
  const path = resolve(job.file);
  if (!/[*?[\]{}]/.test(path)) return path;
  const link = join(job.scratch, `input${job.extension}`);
  await symlink(path, link);
  return link;
}

/** The places of the columns that are read: of texts, then of labels and second texts, if any. */
export function columnsOf(job: Job, names: readonly string[]): number[] {
  const { text, label, pair } = job.options;
  return [
    chooseColumn(job.file, names, 'text', text),
    ...(job.labelled ? [chooseColumn(job.file, names, 'label', label)] : []),
    ...(pair === undefined ? [] : [chooseColumn(job.file, names, 'text', pair)]),
  ];
}

/** Cells of these columns, row by row, as roles. */
export function cellsOf(job: Job, rows: Rows): Pick<RawRows, 'texts' | 'labels' | 'pairs'> {
  const column = (at: number) => rows.map((row) => cellText(row[at]));
  return {
    texts: column(0),
    labels: job.labelled ? column(1) : rows.map(() => null),
    ...(job.options.pair !== undefined && { pairs: column(job.labelled ? 2 : 1) }),
  };
}

export function encodingRepair(
  bytes: Buffer,
  records: readonly { start: number; end: number; line: number }[],
  from: string,
): Repair {
  const foreign = records.filter(({ start, end }) => bytes.subarray(start, end).some((byte) => byte > 127));
  return {
    kind: 'encoding',
    count: foreign.length,
    examples: foreign.slice(0, 5).map(({ line }) => `line ${line}`),
    remedy: `the file is not UTF-8 and was read as ${from}`,
  };
}

/** The lines of a text as records. */
export function lineRecords(bytes: Buffer): { start: number; end: number; line: number }[] {
  const records: { start: number; end: number; line: number }[] = [];
  for (let start = 0; start < bytes.length; ) {
    const found = bytes.indexOf(0x0a, start);
    const end = found < 0 ? bytes.length : found;
    records.push({ start, end, line: records.length + 1 });
    start = end + 1;
  }
  return records;
}
