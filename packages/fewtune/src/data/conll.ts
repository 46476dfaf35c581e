import { FewtuneError } from '../errors.js';
import type { RepairLog } from './clean.js';
import type { Entity, EntityRow } from './entity.js';

/**
 * CoNLL's columns: a token and, in the last column, its tag; a tab or spaces between them, a blank line between
 * sentences. Tokens are joined by spaces. Tags are IOB2, or IOB1 and IOBES, which are read as what they mean; an inside
 * that follows no begin is read as one, and counted.
 *
 * @throws FewtuneError FILE_UNREADABLE (no tag), LABEL_UNKNOWN (no tag of this kind), with file, line and column
 */
export function readConll(file: string, text: string, log: RepairLog): EntityRow[] {
  const rows: EntityRow[] = [];
  let sentence: { token: string; tag: string; line: number; column: number }[] = [];
  const close = (): void => {
    if (sentence.length > 0) rows.push(rowOf(file, sentence, log));
    sentence = [];
  };
  for (const [i, raw] of text.split(/\r\n|\n|\r/).entries()) {
    const content = raw.trimEnd();
    if (content === '' || content.startsWith('-DOCSTART-')) {
      close();
      continue;
    }
    if (content.startsWith('# ') && !content.includes('\t')) continue; // a comment of CoNLL-U
    const cells = content.includes('\t') ? content.split('\t') : content.split(/ +/);
    const tag = cells.at(-1)!.trim();
    if (cells.length < 2 || cells[0]!.trim() === '') {
      throw new FewtuneError(
        'FILE_UNREADABLE',
        `${file}:${i + 1}: ${JSON.stringify(content.slice(0, 60))} has no tag. A line is a token, a tab and its tag.`,
      );
    }
    sentence.push({ token: cells[0]!.trim(), tag, line: i + 1, column: content.length - tag.length + 1 });
  }
  close();
  return rows;
}

const kinds: Readonly<Record<string, 'begin' | 'inside'>> = {
  B: 'begin',
  S: 'begin',
  U: 'begin',
  I: 'inside',
  E: 'inside',
  L: 'inside',
};

function rowOf(
  file: string,
  sentence: readonly { token: string; tag: string; line: number; column: number }[],
  log: RepairLog,
): EntityRow {
  const entities: { start: number; end: number; label: string }[] = [];
  let at = 0;
  let open: string | undefined;
  for (const { token, tag, line, column } of sentence) {
    const [start, end] = [at, at + token.length];
    at = end + 1;
    if (tag === 'O') {
      open = undefined;
      continue;
    }
    const [, letter, label] = /^([A-Z])[-_](.+)$/.exec(tag) ?? [];
    const kind = kinds[letter ?? ''];
    if (kind === undefined || label === undefined) {
      throw new FewtuneError(
        'LABEL_UNKNOWN',
        `${file}:${line}:${column}: the tag ${JSON.stringify(tag)} of ${JSON.stringify(token)} is none of O, B-… and I-….`,
      );
    }
    if (kind === 'inside' && open === label) {
      entities.at(-1)!.end = end;
      continue;
    }
    if (kind === 'inside') {
      log.add(
        'begun-inside',
        'entities that began with an inside tag were read as if with a begin',
        `line ${line}: ${tag}`,
      );
    }
    entities.push({ start, end, label });
    open = label;
  }
  return {
    text: sentence.map(({ token }) => token).join(' '),
    entities: entities satisfies readonly Entity[],
    line: sentence[0]!.line,
  };
}
