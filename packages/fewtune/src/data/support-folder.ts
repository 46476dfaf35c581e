import { readdir, readFile, realpath, stat } from 'node:fs/promises';
import { extname, join, relative, sep } from 'node:path';
import { FewtuneError } from '../errors.js';
import { requireDistinctNames } from './class-split.js';
import { sortedClasses } from './dataset.js';
import { decodeText } from './encoding.js';

/** Something in the folder that gave no example, and why. */
export interface SkippedEntry {
  /** Relative to the folder. */
  readonly path: string;
  readonly reason: string;
}

/** Files of each class of a folder of class folders. */
export interface ClassFolder {
  /** Folder names, sorted by code units; each has at least one file. */
  readonly classes: readonly string[];
  /** Absolute paths with links resolved, sorted by name, in the order of `classes`. */
  readonly files: readonly (readonly string[])[];
  readonly skipped: readonly SkippedEntry[];
}

/** Labelled texts of a folder of class folders. */
export interface TextSupport {
  readonly texts: readonly string[];
  /** [texts], index into `classes`. */
  readonly labels: Int32Array;
  readonly classes: readonly string[];
  readonly skipped: readonly SkippedEntry[];
}

/**
 * The files of a folder of class folders (`support/refund/1.png`), by extension; contents are not opened. What starts
 * with a dot is passed over silently; everything else that is no example is in `skipped`: loose files, other extensions,
 * deeper folders, empty classes, unreadable ones, links that lead out of the folder.
 *
 * @param extensions lower case with dot, such as ['.png', '.jpg']
 * @param options.nested folders may hold folders (`Greek/alpha/1.png`): each one with files is a class, named by its path
 *   with `/` between, as in `Greek/alpha`
 * @throws FewtuneError FILE_NOT_FOUND, FILE_UNREADABLE (not a folder), ROWS_EMPTY (no class with a file), LABELS_CONFLICT
 */
export async function listClassFolder(
  folder: string,
  extensions: readonly string[],
  { nested = false }: { nested?: boolean } = {},
): Promise<ClassFolder> {
  const root = await openFolder(folder);
  const skipped: SkippedEntry[] = [];
  const found: ClassOfFiles[] = [];
  const seen = new Set([root]); // folders by where they really are: links may lead in a circle
  for (const name of await visible(root)) {
    const place = await confined(root, name, skipped);
    if (place === undefined) continue;
    if (!place.isFolder) {
      skipped.push({ path: name, reason: 'a file outside the class folders' });
      continue;
    }
    found.push(...(await classesIn(root, name, place.path, { extensions, nested, skipped, seen })));
  }
  found.sort((a, b) => (a.name < b.name ? -1 : 1));
  if (found.length === 0) {
    const hint = skipped.slice(0, 3).map(({ path, reason }) => `${path} (${reason})`);
    throw new FewtuneError(
      'ROWS_EMPTY',
      `${folder}: no class folder with ${extensions.join(', ')} files${hint.length > 0 ? `; found ${hint.join(', ')}` : ''}. ` +
        'Make one folder for each class and put its examples inside.',
    );
  }
  requireDistinctNames(
    found.map(({ name }) => name),
    folder,
  );
  return { classes: found.map(({ name }) => name), files: found.map(({ files }) => files), skipped };
}

/**
 * Reads a support set of texts: one folder a class, `.txt` files inside.
 *
 * @param options.examples `line` (default): every line that is not blank is an example; `file`: every file is one
 * @throws FewtuneError as {@link listClassFolder}; a file that cannot be read or is blank is in `skipped`
 * @example const { texts, labels, classes } = await readSupportFolder('support'); // support/refund/examples.txt
 */
export async function readSupportFolder(
  folder: string,
  options: { examples?: 'line' | 'file' } = {},
): Promise<TextSupport> {
  const { classes, files, skipped: unlisted } = await listClassFolder(folder, ['.txt']);
  const root = await realpath(folder);
  const skipped = [...unlisted];
  const rows: { text: string; label: string }[] = [];
  for (const [c, label] of classes.entries()) {
    const before = rows.length;
    for (const file of files[c]!) {
      const path = relative(root, file);
      try {
        const content = decodeText(path, await readFile(file)).bytes.toString();
        const parts = options.examples === 'file' ? [content] : content.split(/\r\n|\n|\r/);
        const texts = parts.map((part) => part.trim()).filter((part) => part !== '');
        if (texts.length === 0) skipped.push({ path, reason: 'no text inside' });
        rows.push(...texts.map((text) => ({ text, label })));
      } catch (error) {
        skipped.push({ path, reason: `cannot be read: ${(error as Error).message}` });
      }
    }
    if (rows.length === before) skipped.push({ path: label, reason: 'a class without any text' });
  }
  if (rows.length === 0) {
    throw new FewtuneError('ROWS_EMPTY', `${folder}: every file of every class is blank or unreadable. Add examples.`);
  }
  const named = sortedClasses(rows.map(({ label }) => label));
  return {
    texts: rows.map(({ text }) => text),
    labels: Int32Array.from(rows, ({ label }) => named.indexOf(label)),
    classes: named,
    skipped,
  };
}

async function openFolder(folder: string): Promise<string> {
  try {
    const root = await realpath(folder);
    if (!(await stat(root)).isDirectory()) {
      throw new FewtuneError('FILE_UNREADABLE', `${folder}: this is a file. Give a folder of class folders.`);
    }
    await readdir(root); // a folder that may not be listed fails here, with its name
    return root;
  } catch (cause) {
    if (cause instanceof FewtuneError) throw cause;
    const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    throw new FewtuneError(
      missing ? 'FILE_NOT_FOUND' : 'FILE_UNREADABLE',
      `${folder}: ${missing ? 'no such folder' : (cause as Error).message}.`,
      { cause },
    );
  }
}

async function visible(folder: string): Promise<string[]> {
  return (await readdir(folder)).filter((name) => !name.startsWith('.')).sort();
}

interface Walk {
  readonly extensions: readonly string[];
  readonly nested: boolean;
  readonly skipped: SkippedEntry[];
  readonly seen: Set<string>;
}

/** The class that a folder is, when it has files, and with `nested` those of the folders inside. */
async function classesIn(root: string, path: string, real: string, walk: Walk): Promise<ClassOfFiles[]> {
  const { extensions, nested, skipped, seen } = walk;
  if (nested && seen.has(real)) {
    skipped.push({ path, reason: 'a link to a folder that is read already' });
    return [];
  }
  seen.add(real);
  const files: string[] = [];
  const deeper: ClassOfFiles[] = [];
  let names: string[];
  try {
    names = await visible(join(root, path));
  } catch (error) {
    skipped.push({ path, reason: `cannot be read: ${(error as Error).message}` });
    return [];
  }
  for (const name of names) {
    const inside = join(path, name);
    const place = await confined(root, inside, skipped);
    if (place === undefined) continue;
    if (place.isFolder && nested) deeper.push(...(await classesIn(root, inside, place.path, walk)));
    else if (place.isFolder) skipped.push({ path: inside, reason: 'a folder inside a class folder' });
    else if (!extensions.includes(extname(name).toLowerCase())) {
      skipped.push({ path: inside, reason: `not one of ${extensions.join(', ')}` });
    } else files.push(place.path);
  }
  if (files.length === 0 && deeper.length === 0) skipped.push({ path, reason: 'a class folder without examples' });
  return files.length > 0 ? [{ name: path.split(sep).join('/'), files }, ...deeper] : deeper;
}

interface ClassOfFiles {
  readonly name: string;
  readonly files: readonly string[];
}

/** Where an entry really is; undefined, and reported, when that is outside the folder, nowhere, or no plain file. */
async function confined(
  root: string,
  path: string,
  skipped: SkippedEntry[],
): Promise<{ path: string; isFolder: boolean } | undefined> {
  try {
    const real = await realpath(join(root, path));
    if (!real.startsWith(root.endsWith(sep) ? root : root + sep)) {
      skipped.push({ path, reason: 'a link that leads out of the folder' });
      return undefined;
    }
    const info = await stat(real);
    if (info.isDirectory() || info.isFile()) return { path: real, isFolder: info.isDirectory() };
    skipped.push({ path, reason: 'not a plain file' });
  } catch (error) {
    skipped.push({ path, reason: `cannot be read: ${(error as Error).message}` });
  }
  return undefined;
}
