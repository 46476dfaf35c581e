import { FewtuneError } from '../errors.js';

const QUOTE = 0x22;
const LF = 0x0a;
const CR = 0x0d;
const SPACE = 0x20;
/** A byte no text contains: the "delimiter" of a file with one column. */
const NO_DELIMITER = '\x1f';

/** One record of a CSV file: where it stands and how it is divided, not what it says. */
export interface CsvRecord {
  /** Line it starts on; 1 is the first line of the file. */
  readonly line: number;
  readonly start: number;
  /** End of its last field, line break excluded. */
  readonly end: number;
  /** Ends of its fields; their count is the record's width. */
  readonly fieldEnds: readonly number[];
}

export interface CsvStructure {
  readonly delimiter: string;
  readonly records: readonly CsvRecord[];
  /** False when a strict reader would stumble: mixed line breaks or blank lines. */
  readonly regular: boolean;
}

/** The delimiter that divides the header line most often; tab for `.tsv`. */
export function guessDelimiter(bytes: Buffer, extension: string): string {
  if (extension === '.tsv') return bytes.includes(0x09) ? '\t' : NO_DELIMITER;
  const counts = new Map([',', ';', '\t', '|'].map((candidate) => [candidate.charCodeAt(0), 0]));
  let quoted = false;
  let blank = true;
  for (const byte of bytes) {
    if (byte === QUOTE) quoted = !quoted;
    else if (!quoted && (byte === LF || byte === CR)) {
      if (!blank) break; // the header's end; blank lines may stand above it
      continue;
    }
    blank &&= byte === SPACE;
    if (!quoted && counts.has(byte)) counts.set(byte, counts.get(byte)! + 1);
  }
  const [best, count] = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a));
  return count > 0 ? String.fromCharCode(best) : NO_DELIMITER;
}

/**
 * Finds records and fields as RFC 4180 has them, without reading the values: for exact line numbers and complaints.
 * @throws FewtuneError FILE_UNREADABLE for an unterminated quote, or text after a closing quote
 */
export function scanCsv(source: string, bytes: Buffer, delimiter: string): CsvStructure {
  const delimiterByte = delimiter.charCodeAt(0);
  const records: CsvRecord[] = [];
  const breaks = new Set<string>();
  let regular = true;
  let line = 1;
  let position = 0;
  while (position < bytes.length) {
    const start = position;
    const startLine = line;
    const fieldEnds: number[] = [];
    let blank = true;
    for (;;) {
      // One field: quoted when its first character other than a space is a quote.
      while (position < bytes.length && bytes[position] === SPACE && delimiterByte !== SPACE) position++;
      if (bytes[position] === QUOTE) {
        blank = false;
        const quoteLine = line;
        position++;
        for (;;) {
          if (position >= bytes.length) {
            throw new FewtuneError(
              'FILE_UNREADABLE',
              `${source}:${quoteLine}: a quote is opened on this line and never closed. ` +
                'Close it, or write quotes inside a quoted cell twice ("").',
            );
          }
          const byte = bytes[position++];
          if (byte === QUOTE) {
            if (bytes[position] !== QUOTE) break;
            position++;
          } else if (byte === LF || (byte === CR && bytes[position] !== LF)) {
            line++;
          }
        }
        while (bytes[position] === SPACE) position++;
        const next = bytes[position];
        if (next !== undefined && next !== delimiterByte && next !== LF && next !== CR) {
          throw new FewtuneError(
            'FILE_UNREADABLE',
            `${source}:${line}: text follows the closing quote of a cell (field ${fieldEnds.length + 1}). ` +
              'Inside a quoted cell write each quote twice ("").',
          );
        }
      } else {
        for (;;) {
          const byte = bytes[position];
          if (byte === undefined || byte === delimiterByte || byte === LF || byte === CR) break;
          if (byte !== 0x09 && byte !== SPACE) blank = false;
          position++;
        }
      }
      fieldEnds.push(position);
      if (bytes[position] !== delimiterByte) break;
      position++;
    }
    const end = position;
    if (position < bytes.length) {
      const crlf = bytes[position] === CR && bytes[position + 1] === LF;
      breaks.add(crlf ? 'CRLF' : bytes[position] === CR ? 'CR' : 'LF');
      position += crlf ? 2 : 1;
      line++;
    }
    if (blank && fieldEnds.length === 1) {
      regular = false;
      continue;
    }
    records.push({ line: startLine, start, end, fieldEnds });
  }
  return { delimiter, records, regular: regular && breaks.size <= 1 };
}
