import { readFile, symlink } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { FewtuneError } from '../errors.js';
import { chooseColumn } from './columns.js';
import type { Repair } from './dataset.js';
import type { Query } from './duckdb.js';

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

/** One file to read, with what its reader needs. */
export interface Job {
  readonly file: string;
  readonly extension: string;
  /** A folder for a mended copy, removed afterwards. */
  readonly scratch: string;
  readonly query: Query;
  readonly options: ReadOptions;
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

export function columnsOf(job: Job, names: readonly string[]): { text: number; label: number } {
  const text = chooseColumn(job.file, names, 'text', job.options.text);
  const label = job.labelled ? chooseColumn(job.file, names, 'label', job.options.label) : -1;
  return { text, label };
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
