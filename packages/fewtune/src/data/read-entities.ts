import { readFile } from 'node:fs/promises';
import { extname, resolve } from 'node:path';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { RepairLog } from './clean.js';
import { readConll } from './conll.js';
import { sortedClasses } from './dataset.js';
import { decodeText } from './encoding.js';
import { checkSpans, type Entity, type EntityRow } from './entity.js';
import type { ReadOptions } from './read-job.js';
import type { TaskDataset } from './task-dataset.js';

/**
 * Texts with entities, from JSONL (or a JSON array) or CoNLL's columns. Places count UTF-16 code units, as JavaScript's
 * strings do.
 *
 * @throws FewtuneError FILE_NOT_FOUND, FILE_UNREADABLE, FORMAT_UNKNOWN, ROWS_EMPTY, SPAN_INVALID, LABEL_UNKNOWN
 */
export async function readEntities(file: string, options: ReadOptions): Promise<TaskDataset> {
  throwIfAborted(options.signal);
  const bytes = await readFile(file).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') {
      throw new FewtuneError('FILE_NOT_FOUND', `${file}: no such file (looked for ${resolve(file)}).`, { cause });
    }
    throw new FewtuneError('FILE_UNREADABLE', `${file}: ${cause.message}`, { cause });
  });
  const text = decodeText(file, bytes).bytes.toString();
  const log = new RepairLog();
  const rows = rowsOf(file, text, options, log);
  const kept = rows.filter(({ text, line }) => {
    if (text.trim() !== '') return true;
    log.add('blank-text', 'rows without text were left out', `line ${line}`);
    return false;
  });
  if (kept.length === 0) throw new FewtuneError('ROWS_EMPTY', `${file}: there is no text in the file. Add examples.`);
  const classes = sortedClasses(kept.flatMap(({ entities }) => entities.map(({ label }) => label)));
  if (classes.length === 0) {
    throw new FewtuneError('ROWS_EMPTY', `${file}: no text has an entity; there is nothing to learn.`);
  }
  return {
    source: file,
    texts: kept.map(({ text }) => text),
    lines: kept.map(({ line }) => line),
    targets: { kind: 'tokens', entities: kept.map(({ entities }) => entities), classes },
    repairs: log.list(),
  };
}

function rowsOf(file: string, text: string, options: ReadOptions, log: RepairLog): EntityRow[] {
  const extension = extname(file).toLowerCase();
  if (['.conll', '.iob', '.bio', '.txt', '.tsv'].includes(extension)) return readConll(file, text, log);
  if (extension === '.jsonl' || extension === '.ndjson') {
    return text.split('\n').flatMap((line, i) => {
      if (line.trim() === '') return [];
      return [entityRow(parsed(line, `${file}:${i + 1}`), options, `${file}:${i + 1}`, i + 1)];
    });
  }
  if (extension === '.json') {
    const all = parsed(text, file);
    if (!Array.isArray(all)) throw new FewtuneError('FILE_UNREADABLE', `${file}: a JSON file of entities is an array.`);
    return all.map((value, i) => entityRow(value, options, `${file}, element ${i + 1}`, i + 1));
  }
  throw new FewtuneError(
    'FORMAT_UNKNOWN',
    `${file}: ${extension || 'a file without extension'} is not a format of entities. Use .jsonl, .json, or CoNLL's ` +
      'columns as .conll, .iob, .bio, .txt or .tsv.',
  );
}

function parsed(text: string, place: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new FewtuneError('FILE_UNREADABLE', `${place}: this is not valid JSON: ${(cause as Error).message}`, {
      cause,
    });
  }
}

function entityRow(value: unknown, options: ReadOptions, place: string, line: number): EntityRow {
  const { text: textKey = 'text', label: entitiesKey = 'entities' } = options;
  const row = value as Record<string, unknown> | null;
  const [text, entities] = [row?.[textKey], row?.[entitiesKey] ?? []];
  if (typeof text !== 'string' || !Array.isArray(entities)) {
    throw new FewtuneError(
      'FILE_UNREADABLE',
      `${place}: expected an object such as {"${textKey}": "…", "${entitiesKey}": [{"start": 0, "end": 5, "label": "…"}]}.`,
    );
  }
  const own = entities.map((entity: Partial<Entity> | null, i): Entity => {
    const { start, end, label } = entity ?? {};
    if (typeof start !== 'number' || typeof end !== 'number' || typeof label !== 'string' || label.trim() === '') {
      throw new FewtuneError(
        'SPAN_INVALID',
        `${place}: ${entitiesKey}[${i}] is ${JSON.stringify(entity)}; an entity has a start, an end and a label.`,
      );
    }
    return { start, end, label: label.trim() };
  });
  checkSpans(text, own, { has: () => true }, `${place}: ${entitiesKey}`);
  return { text, entities: own.sort((a, b) => a.start - b.start), line };
}
