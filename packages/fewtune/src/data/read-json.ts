import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FewtuneError } from '../errors.js';
import type { RawRows } from './clean.js';
import type { Query } from './duckdb.js';
import { decodeText } from './encoding.js';
import { cellsOf, columnsOf, encodingRepair, type Job, lineRecords, plainPath, readBytes } from './read-job.js';

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

/** JSONL, or a JSON file with an array of objects or one object after another. */
export async function readJson(job: Job): Promise<RawRows> {
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
  const columns = columnsOf(job, all);
  // A JSON pointer (RFC 6901) reaches a key whatever characters it has.
  const pointer = (name: string) => `/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`;
  const { rows } = await job.query(
    `SELECT ${columns.map((_, i) => `json_extract_string(json, $${i + 2})`).join(', ')} FROM ${source}`,
    [path, ...columns.map((column) => pointer(all[column]!))],
  );
  return {
    source: job.file,
    ...cellsOf(job, rows),
    lines,
    repairs,
  };
}
