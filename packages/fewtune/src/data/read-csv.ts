import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FewtuneError } from '../errors.js';
import type { RawRows } from './clean.js';
import { type CsvRecord, guessDelimiter, scanCsv } from './csv-structure.js';
import type { Repair } from './dataset.js';
import { cellText } from './duckdb.js';
import { decodeText } from './encoding.js';
import { cellsOf, columnsOf, encodingRepair, type Job, plainPath, readBytes } from './read-job.js';

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

/**
 * CSV and TSV. DuckDB reads the values; the scan beforehand finds line numbers and complaints, and where it finds
 * something to put right, DuckDB reads a mended copy.
 */
export async function readCsv(job: Job): Promise<RawRows> {
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
  const wanted = columnsOf(job, names)
    .map((column) => `c${column}`)
    .join(', ');
  const { rows } = await job.query(`SELECT ${wanted} FROM ${source} OFFSET 1`, [path]);
  if (rows.length !== records.length - 1) {
    throw new Error(`${records.length - 1} records were counted and ${rows.length} read`);
  }
  return {
    source: job.file,
    ...cellsOf(job, rows),
    lines: records.slice(1).map(({ line }) => line),
    repairs,
  };
}
