import { FewtuneError } from '../errors.js';

export interface DecodedText {
  /** UTF-8 bytes without a byte order mark. */
  readonly bytes: Buffer;
  /** Whether these are other bytes than the file's. */
  readonly changed: boolean;
  /** What the file was encoded in, when it was not UTF-8. */
  readonly convertedFrom?: 'UTF-16LE' | 'UTF-16BE' | 'Windows-1252 (Latin-1)';
}

function isUtf8(bytes: Buffer): boolean {
  try {
    new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    return true;
  } catch {
    return false;
  }
}

/**
 * A text file's bytes as UTF-8. A byte order mark is taken off; bytes that are not valid UTF-8 are read as
 * Windows-1252, which agrees with Latin-1 on every letter and decodes any byte.
 * @throws FewtuneError FILE_UNREADABLE for binary content
 */
export function decodeText(source: string, bytes: Buffer): DecodedText {
  if (bytes.length >= 2 && bytes[0] === 0xff && bytes[1] === 0xfe) {
    return { bytes: Buffer.from(bytes.subarray(2).toString('utf16le')), changed: true, convertedFrom: 'UTF-16LE' };
  }
  if (bytes.length >= 2 && bytes[0] === 0xfe && bytes[1] === 0xff) {
    const even = bytes.subarray(2, bytes.length - (bytes.length % 2));
    return {
      bytes: Buffer.from(Buffer.from(even).swap16().toString('utf16le')),
      changed: true,
      convertedFrom: 'UTF-16BE',
    };
  }
  if (bytes.includes(0)) {
    throw new FewtuneError(
      'FILE_UNREADABLE',
      `${source}: this is not a text file (it contains zero bytes). Give a CSV, TSV, JSON, JSONL or Parquet file.`,
    );
  }
  const body = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? bytes.subarray(3) : bytes;
  if (isUtf8(body)) return { bytes: body, changed: body !== bytes };
  return {
    bytes: Buffer.from(new TextDecoder('windows-1252').decode(body)),
    changed: true,
    convertedFrom: 'Windows-1252 (Latin-1)',
  };
}
