import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { extname, join, resolve } from 'node:path';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { cleanRows, cleanTexts, type RawRows } from './clean.js';
import type { TextDataset, TextList } from './dataset.js';
import { quoteIdentifier, withDuckDb } from './duckdb.js';
import { decodeText } from './encoding.js';
import { readCsv } from './read-csv.js';
import {
  cellsOf,
  columnsOf,
  encodingRepair,
  type Job,
  type JobOptions,
  lineRecords,
  plainPath,
  type ReadOptions,
  readBytes,
} from './read-job.js';
import { readJson } from './read-json.js';

export type { ReadOptions } from './read-job.js';

/** A longer cell (in characters) is a damaged file or a whole document, never a sentence. */
export const MAX_CELL_CHARACTERS = 1_000_000;

const formats = new Map([
  ['.csv', 'csv'],
  ['.tsv', 'csv'],
  ['.txt', 'lines'],
  ['.jsonl', 'jsonl'],
  ['.ndjson', 'jsonl'],
  ['.json', 'json'],
  ['.parquet', 'parquet'],
] as const);
type Format = typeof formats extends Map<string, infer F> ? F : never;

/**
 * Reads labelled sentences from CSV, TSV, JSON, JSONL or Parquet (by extension) and cleans them: what is put right is
 * counted in `repairs`. Every cell is taken as text, so labels such as `01`, `NULL` or `__proto__` stay as written.
 *
 * @throws FewtuneError FILE_NOT_FOUND, FILE_UNREADABLE, FORMAT_UNKNOWN, COLUMN_UNKNOWN, COLUMN_AMBIGUOUS, ROWS_EMPTY,
 *   TEXT_BLANK, CELL_TOO_LARGE, LABELS_CONFLICT, INTERRUPTED
 * @example const data = await readTable('tickets.csv', { text: 'message', label: 'intent' });
 */
export async function readTable(file: string, options: ReadOptions = {}): Promise<TextDataset> {
  return cleanRows(await readRows(file, options, true), options.purpose);
}

/** Reads sentences without labels, for prediction: also from a `.txt` file with one sentence a line. */
export async function readTexts(file: string, options: Omit<ReadOptions, 'label' | 'purpose'> = {}): Promise<TextList> {
  return cleanTexts(await readRows(file, options, false));
}

/** The cells of a table's columns as they stand. @throws FewtuneError as {@link readTable} */
export async function readRows(file: string, options: JobOptions, labelled: boolean): Promise<RawRows> {
  throwIfAborted(options.signal);
  const extension = extname(file).toLowerCase();
  await requireFile(file);
  const format: Format | undefined = formats.get(extension as Parameters<(typeof formats)['get']>[0]);
  if (format === undefined || (format === 'lines' && labelled)) {
    throw new FewtuneError(
      'FORMAT_UNKNOWN',
      `${file}: ${extension === '' ? 'a file without extension' : extension} is not a format of ` +
        `${labelled ? 'labelled examples' : 'texts'}. Use .csv, .tsv, .json, .jsonl${labelled ? '' : ', .txt'} or .parquet.`,
    );
  }
  const read = { csv: readCsv, lines: readLines, jsonl: readJson, json: readJson, parquet: readParquet }[format];
  const scratch = await mkdtemp(join(tmpdir(), 'fewtune-'));
  try {
    const rows = await withDuckDb(
      (query) => read({ file, extension, scratch, query, options, labelled }),
      options.signal,
    );
    requireSmallCells(rows, options);
    return rows;
  } catch (error) {
    if (error instanceof FewtuneError) throw error;
    const reason = (error as Error).message.split('\n')[0];
    throw new FewtuneError('FILE_UNREADABLE', `${file}: cannot be read as ${extension}: ${reason}`, { cause: error });
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function requireFile(file: string): Promise<void> {
  try {
    const info = await stat(file);
    if (info.isDirectory()) {
      throw new FewtuneError('FILE_UNREADABLE', `${file}: this is a folder. Give the file with the examples.`);
    }
    if (info.size === 0) {
      throw new FewtuneError('ROWS_EMPTY', `${file}: the file is empty. Add a line of column names and examples.`);
    }
  } catch (error) {
    if (error instanceof FewtuneError) throw error;
    const missing = ['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '');
    if (missing) {
      throw new FewtuneError('FILE_NOT_FOUND', `${file}: no such file (looked for ${resolve(file)}).`, {
        cause: error,
      });
    }
    throw new FewtuneError('FILE_UNREADABLE', `${file}: ${(error as Error).message}`, { cause: error });
  }
}

/** One sentence a line. */
async function readLines(job: Job): Promise<RawRows> {
  const { bytes, convertedFrom } = decodeText(job.file, await readBytes(job.file));
  const texts = bytes.toString().split(/\r\n|\n|\r/);
  if (texts.at(-1) === '') texts.pop();
  const repairs = convertedFrom === undefined ? [] : [encodingRepair(bytes, lineRecords(bytes), convertedFrom)];
  return { source: job.file, texts, labels: texts.map(() => null), lines: texts.map((_, i) => i + 1), repairs };
}

async function readParquet(job: Job): Promise<RawRows> {
  const path = await plainPath(job);
  const { columns } = await job.query('SELECT * FROM read_parquet($1) LIMIT 0', [path]);
  const wanted = columnsOf(job, columns)
    .map((column) => `CAST(${quoteIdentifier(columns[column]!)} AS VARCHAR)`)
    .join(', ');
  const { rows } = await job.query(`SELECT ${wanted} FROM read_parquet($1)`, [path]);
  return {
    source: job.file,
    ...cellsOf(job, rows),
    lines: rows.map((_, i) => i + 1),
    repairs: [],
  };
}

function requireSmallCells(rows: RawRows, options: JobOptions): void {
  for (const [role, cells] of [
    ['text', rows.texts],
    ['label', rows.labels],
    ['pair', rows.pairs ?? []],
  ] as const) {
    const row = cells.findIndex((cell) => cell !== null && cell.length > MAX_CELL_CHARACTERS);
    if (row < 0) continue;
    const column = options[role] === undefined ? `${role} column` : `column ${JSON.stringify(options[role])}`;
    throw new FewtuneError(
      'CELL_TOO_LARGE',
      `${rows.source}:${rows.lines[row]}: the ${column} of row ${row + 1} holds ${cells[row]!.length} characters, more than ` +
        `the ${MAX_CELL_CHARACTERS} a cell may have. Shorten or split it; a missing closing quote also looks like this.`,
    );
  }
}
