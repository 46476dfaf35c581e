import { FewtuneError } from '../errors.js';

/** A labelled part of a text: UTF-16 code units [start, end), so that `text.slice(start, end)` is what it names. */
export interface Entity {
  readonly start: number;
  readonly end: number;
  readonly label: string;
}

/** A text with its entities, and where it stands in the file. */
export interface EntityRow {
  readonly text: string;
  readonly entities: readonly Entity[];
  readonly line: number;
}

/**
 * Whether entities lie in a text, one after the other.
 *
 * @param place begins the message
 * @throws FewtuneError SPAN_INVALID, LABEL_UNKNOWN
 */
export function checkSpans(
  text: string,
  entities: readonly Entity[],
  known: { has(label: string): boolean },
  place: string,
): void {
  const wrong = (what: string): FewtuneError => new FewtuneError('SPAN_INVALID', `${place}: ${what}`);
  const shown = ({ start, end, label }: Entity): string =>
    `[${start}, ${end}) ${JSON.stringify(label)} ${JSON.stringify(text.slice(start, end).slice(0, 40))}`;
  const sorted = [...entities].sort((a, b) => a.start - b.start || a.end - b.end);
  for (const [i, entity] of sorted.entries()) {
    const { start, end, label } = entity;
    if (!Number.isInteger(start) || !Number.isInteger(end) || start < 0 || end > text.length || start >= end) {
      throw wrong(
        `the span [${start}, ${end}) ${JSON.stringify(label)} does not lie in the text, which has ${text.length} ` +
          'characters (UTF-16 code units). A span begins at 0 or later and ends behind its last character.',
      );
    }
    if (text.slice(start, end).trim() === '') throw wrong(`the span ${shown(entity)} holds white space only.`);
    const before = sorted[i - 1];
    if (before && before.end > start) {
      throw wrong(`the spans ${shown(before)} and ${shown(entity)} overlap; a word can be in one of them only.`);
    }
    if (!known.has(label)) {
      throw new FewtuneError('LABEL_UNKNOWN', `${place}: the label ${JSON.stringify(label)} is not among those known.`);
    }
  }
}
