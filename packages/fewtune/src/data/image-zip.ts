import { readFile } from 'node:fs/promises';
import { extname } from 'node:path';
import type { UnzipFileInfo } from 'fflate';
import { FewtuneError } from '../errors.js';
import type { SkippedEntry } from './support-folder.js';

/** A single entry may not unpack to more: what claims to is no image of a data set. */
const largestEntry = 256 * 2 ** 20;

export interface ZipEntry {
  /** The path inside the archive. */
  readonly path: string;
  readonly bytes: Uint8Array;
}

/**
 * The files of a ZIP archive with one of the extensions, in the order of their paths; stored or deflated entries. The
 * archive is held in memory. Names starting with a dot and `__MACOSX` are passed over silently, all else that is left out
 * is in `skipped`.
 *
 * @throws FewtuneError FILE_NOT_FOUND, FILE_UNREADABLE (no ZIP archive, or a damaged directory)
 */
export async function readZip(
  file: string,
  extensions: readonly string[],
): Promise<{ entries: ZipEntry[]; skipped: SkippedEntry[] }> {
  const { unzipSync } = await import('fflate');
  const archive = await readFile(file).catch((cause: NodeJS.ErrnoException) => {
    const missing = cause.code === 'ENOENT';
    const what = missing ? 'no such file' : cause.message;
    throw new FewtuneError(missing ? 'FILE_NOT_FOUND' : 'FILE_UNREADABLE', `${file}: ${what}.`, { cause });
  });
  const skipped: SkippedEntry[] = [];
  const wanted: string[] = [];
  const list = ({ name, originalSize }: UnzipFileInfo): false => {
    const path = readable(name);
    if (name.endsWith('/') || path.split('/').some((part) => part.startsWith('.') || part === '__MACOSX')) return false;
    if (!extensions.includes(extname(name).toLowerCase())) {
      skipped.push({ path, reason: `not one of ${extensions.join(', ')}` });
    } else if (originalSize > largestEntry) {
      skipped.push({ path, reason: `unpacks to more than ${largestEntry / 2 ** 20} MiB` });
    } else wanted.push(name);
    return false;
  };
  const take = (names: ReadonlySet<string>) => unzipSync(archive, { filter: ({ name }) => names.has(name) });
  try {
    unzipSync(archive, { filter: list });
  } catch (cause) {
    throw new FewtuneError('FILE_UNREADABLE', `${file}: no ZIP archive, or damaged (${(cause as Error).message}).`, {
      cause,
    });
  }
  let unpacked: Record<string, Uint8Array>;
  try {
    unpacked = take(new Set(wanted));
  } catch {
    unpacked = {}; // one of them is damaged: find out which
    for (const name of wanted) {
      try {
        Object.assign(unpacked, take(new Set([name])));
      } catch (error) {
        skipped.push({ path: readable(name), reason: `cannot be unpacked: ${(error as Error).message}` });
      }
    }
  }
  const entries = Object.entries(unpacked).map(([name, bytes]) => ({ path: readable(name), bytes }));
  return { entries: entries.sort((a, b) => (a.path < b.path ? -1 : 1)), skipped };
}

/**
 * A name that the archive does not mark as UTF-8 arrives one character a byte. Some programs write UTF-8 without the
 * mark, so what is valid UTF-8 is taken for that.
 */
function readable(name: string): string {
  if (!/[\x80-\xff]/.test(name) || /[^\0-\xff]/.test(name)) return name;
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(Uint8Array.from(name, (c) => c.charCodeAt(0)));
  } catch {
    return name;
  }
}
