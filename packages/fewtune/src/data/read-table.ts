import { mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { extname, join, resolve } from 'node:path';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { cleanRows, cleanTexts, type RawRows } from './clean.js';
import { chooseColumn } from './columns.js';
import { type CsvRecord, guessDelimiter, scanCsv } from './csv-structure.js';
import type { Repair, TextDataset, TextList } from './dataset.js';
import { cellText, type Query, quoteIdentifier, withDuckDb } from './duckdb.js';
import { decodeText } from './encoding.js';

export interface ReadOptions {
  /** Column of the sentences; by default the one whose name is recognised (`text`, `sentence`, `review` …). */
  text?: string;
  /** Column of the labels; by default the one whose name is recognised (`label`, `category`, `intent` …). */
  label?: string;
  signal?: AbortSignal;
}

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
  return cleanRows(await readRows(file, options, true));
}

/** Reads sentences without labels, for prediction: also from a `.txt` file with one sentence a line. */
export async function readTexts(file: string, options: Omit<ReadOptions, 'label'> = {}): Promise<TextList> {
  return cleanTexts(await readRows(file, options, false));
}

async function readRows(file: string, options: ReadOptions, labelled: boolean): Promise<RawRows> {
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

interface Job {
  readonly file: string;
  readonly extension: string;
  /** A folder for a mended copy, removed afterwards. */
  readonly scratch: string;
  readonly query: Query;
  readonly options: ReadOptions;
  readonly labelled: boolean;
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

async function readBytes(file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (error) {
    throw new FewtuneError('FILE_UNREADABLE', `${file}: ${(error as Error).message}`, { cause: error });
  }
}

/** DuckDB takes `*`, `?` and `[` in a path for a pattern; a link with a plain name stands in for such a file. */
async function plainPath(job: Job): Promise<string> {
  const path = resolve(job.file);
  if (!/[*?[\]{}]/.test(path)) return path;
  const link = join(job.scratch, `input${job.extension}`);
  await symlink(path, link);
  return link;
}

function columnsOf(job: Job, names: readonly string[]): { text: number; label: number } {
  const text = chooseColumn(job.file, names, 'text', job.options.text);
  const label = job.labelled ? chooseColumn(job.file, names, 'label', job.options.label) : -1;
  return { text, label };
}

function encodingRepair(
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
function lineRecords(bytes: Buffer): { start: number; end: number; line: number }[] {
  const records: { start: number; end: number; line: number }[] = [];
  for (let start = 0; start < bytes.length; ) {
    const found = bytes.indexOf(0x0a, start);
    const end = found < 0 ? bytes.length : found;
    records.push({ start, end, line: records.length + 1 });
    start = end + 1;
  }
  return records;
}

/** Drops empty fields beyond the header's width; any other ragged record is an error. */
function evenRecords(
  job: Job,
  bytes: Buffer,
  records: readonly CsvRecord[],
): { records: CsvRecord[]; mended: CsvRecord[] } {
  const width = records[0]!.fieldEnds.length;
  const mended: CsvRecord[] = [];
  const even = records.map((record) => {
    const found = record.fieldEnds.length;
    if (found === width) return record;
    const end = record.fieldEnds[width - 1];
    // Beyond the last wanted field only delimiters, spaces and empty quotes may stand.
    if (
      end === undefined ||
      /[^\s"]/.test(
        bytes
          .subarray(end, record.end)
          .toString()
          .replaceAll(/[,;\t|]/g, ''),
      )
    ) {
      throw new FewtuneError(
        'FILE_UNREADABLE',
        `${job.file}:${record.line}: ${found} field${found === 1 ? '' : 's'} where the header names ${width}. ` +
          'Put quotes round a cell that contains the delimiter or a line break, or add the missing cells.',
      );
    }
    const trimmed = { ...record, end, fieldEnds: record.fieldEnds.slice(0, width) };
    mended.push(trimmed);
    return trimmed;
  });
  return { records: even, mended };
}

async function readCsv(job: Job): Promise<RawRows> {
  const { bytes, changed, convertedFrom } = decodeText(job.file, await readBytes(job.file));
  const delimiter = guessDelimiter(bytes, job.extension);
  const structure = scanCsv(job.file, bytes, delimiter);
  if (structure.records.length === 0) {
    throw new FewtuneError('ROWS_EMPTY', `${job.file}: the file is blank. Add a line of column names and examples.`);
  }
  const { records, mended } = evenRecords(job, bytes, structure.records);
  const repairs: Repair[] = [];
  if (convertedFrom !== undefined) repairs.push(encodingRepair(bytes, records, convertedFrom));
  if (mended.length > 0) {
    repairs.push({
      kind: 'trailing-fields',
      count: mended.length,
      examples: mended.slice(0, 5).map(({ line }) => `line ${line}`),
      remedy: 'empty fields beyond the last column were dropped',
    });
  }

  let path = await plainPath(job);
  if (changed || !structure.regular || repairs.length > 0) {
    path = join(job.scratch, 'mended.csv');
    const lineBreak = Buffer.from('\n');
    await writeFile(path, Buffer.concat(records.flatMap(({ start, end }) => [bytes.subarray(start, end), lineBreak])));
  }
  const width = records[0]!.fieldEnds.length;
  const longest = records.reduce((most, { start, end }) => Math.max(most, end - start), 0) + 1024;
  const columns = Array.from({ length: width }, (_, i) => `'c${i}': 'VARCHAR'`).join(', ');
  const source =
    `read_csv($1, auto_detect=false, header=false, delim='${delimiter}', quote='"', escape='"', strict_mode=true, ` +
    `null_padding=false, parallel=false, max_line_size=${Math.max(2_097_152, longest)}, ` +
    `buffer_size=${Math.max(8_388_608, 4 * longest)}, columns={${columns}})`;
  const header = await job.query(`SELECT * FROM ${source} LIMIT 1`, [path]);
  const names = header.rows[0]!.map((cell) => (cellText(cell) ?? '').trim());
  const { text, label } = columnsOf(job, names);
  const wanted = label < 0 ? `c${text}` : `c${text}, c${label}`;
  const { rows } = await job.query(`SELECT ${wanted} FROM ${source} OFFSET 1`, [path]);
  if (rows.length !== records.length - 1) {
    throw new Error(`${records.length - 1} records were counted and ${rows.length} read`);
  }
  return {
    source: job.file,
    texts: rows.map((row) => cellText(row[0])),
    labels: rows.map((row) => cellText(row[1])),
    lines: records.slice(1).map(({ line }) => line),
    repairs,
  };
}

/** One sentence a line. */
async function readLines(job: Job): Promise<RawRows> {
  const { bytes, convertedFrom } = decodeText(job.file, await readBytes(job.file));
  const texts = bytes.toString().split(/\r\n|\n|\r/);
  if (texts.at(-1) === '') texts.pop();
  const repairs = convertedFrom === undefined ? [] : [encodingRepair(bytes, lineRecords(bytes), convertedFrom)];
  return { source: job.file, texts, labels: texts.map(() => null), lines: texts.map((_, i) => i + 1), repairs };
}

/** Where the objects of a JSONL file start; other JSON numbers its objects. */
function jsonLines(bytes: Buffer, format: string, count: number): number[] {
  if (format === 'newline_delimited') {
    const lines = bytes
      .toString()
      .split('\n')
      .flatMap((line, i) => (line.trim() === '' ? [] : [i + 1]));
    if (lines.length === count) return lines;
  }
  return Array.from({ length: count }, (_, i) => i + 1);
}

/** DuckDB's own message names the path of a mended copy, and a line that does not count blank ones. */
function invalidJson(job: Job, bytes: Buffer, format: string, cause: Error): FewtuneError {
  const reason = /line \d+: (.*)/.exec(cause.message)?.[1] ?? cause.message.split('\n')[0];
  const isJson = (line: string) => {
    try {
      JSON.parse(line);
      return true;
    } catch {
      return false;
    }
  };
  const lines = format === 'newline_delimited' ? bytes.toString().split('\n') : [];
  const broken = lines.findIndex((line) => line.trim() !== '' && !isJson(line));
  const place = broken < 0 ? job.file : `${job.file}:${broken + 1}`;
  return new FewtuneError('FILE_UNREADABLE', `${place}: this is not valid JSON: ${reason}`, { cause });
}

async function readJson(job: Job): Promise<RawRows> {
  const { bytes, changed, convertedFrom } = decodeText(job.file, await readBytes(job.file));
  const firstCharacter = bytes.subarray(0, 1000).toString().trimStart()[0];
  const format =
    job.extension === '.json' && firstCharacter === '['
      ? 'array'
      : job.extension === '.json'
        ? 'unstructured'
        : 'newline_delimited';
  const repairs = convertedFrom === undefined ? [] : [encodingRepair(bytes, lineRecords(bytes), convertedFrom)];
  let path = await plainPath(job);
  if (changed) {
    path = join(job.scratch, 'mended.json');
    await writeFile(path, bytes);
  }
  const source = `read_json_objects($1, format='${format}', maximum_object_size=${bytes.length + 1024})`;
  let described: Awaited<ReturnType<Query>>;
  try {
    described = await job.query(`SELECT json_type(json), json_keys(json) FROM ${source}`, [path]);
  } catch (error) {
    throw invalidJson(job, bytes, format, error as Error);
  }
  const lines = jsonLines(bytes, format, described.rows.length);
  const wrong = described.rows.findIndex(([type]) => type !== 'OBJECT');
  if (wrong >= 0) {
    throw new FewtuneError(
      'FILE_UNREADABLE',
      `${job.file}:${lines[wrong]}: found a JSON ${String(described.rows[wrong]![0]).toLowerCase()} where an object ` +
        'such as {"text": "…", "label": "…"} is expected.',
    );
  }
  const names = new Set<string>();
  for (const [, keys] of described.rows) {
    for (const key of (keys as { items: readonly string[] }).items) names.add(key);
  }
  if (described.rows.length === 0) {
    throw new FewtuneError('ROWS_EMPTY', `${job.file}: there are no objects in the file. Add examples.`);
  }
  const all = [...names];
  const { text, label } = columnsOf(job, all);
  // A JSON pointer (RFC 6901) reaches a key whatever characters it has.
  const pointer = (name: string) => `/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`;
  const { rows } = await job.query(
    `SELECT json_extract_string(json, $2)${label < 0 ? '' : ', json_extract_string(json, $3)'} FROM ${source}`,
    [path, pointer(all[text]!), ...(label < 0 ? [] : [pointer(all[label]!)])],
  );
  return {
    source: job.file,
    texts: rows.map((row) => cellText(row[0])),
    labels: rows.map((row) => cellText(row[1])),
    lines,
    repairs,
  };
}

async function readParquet(job: Job): Promise<RawRows> {
  const path = await plainPath(job);
  const { columns } = await job.query('SELECT * FROM read_parquet($1) LIMIT 0', [path]);
  const { text, label } = columnsOf(job, columns);
  const asText = (column: number) => `CAST(${quoteIdentifier(columns[column]!)} AS VARCHAR)`;
  const wanted = label < 0 ? asText(text) : `${asText(text)}, ${asText(label)}`;
  const { rows } = await job.query(`SELECT ${wanted} FROM read_parquet($1)`, [path]);
  return {
    source: job.file,
    texts: rows.map((row) => cellText(row[0])),
    labels: rows.map((row) => cellText(row[1])),
    lines: rows.map((_, i) => i + 1),
    repairs: [],
  };
}

function requireSmallCells(rows: RawRows, options: ReadOptions): void {
  for (const [role, cells] of [
    ['text', rows.texts],
    ['label', rows.labels],
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
