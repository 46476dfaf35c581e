import { readFile, realpath, stat } from 'node:fs/promises';
import { dirname, relative } from 'node:path';
import { type HostTensor, hostTensor } from '@fewtune/engine';
import { FewtuneError } from '../errors.js';
import { requireDistinctNames } from './class-split.js';
import { sortedClasses } from './dataset.js';
import { BrokenImage, decodeImage, type ImageOptions, imageExtensions, imageSize } from './image-decode.js';
import { readZip } from './image-zip.js';
import { listClassFolder, type SkippedEntry } from './support-folder.js';

export interface ReadImagesOptions extends ImageOptions {
  /** A file that is no image or a damaged one is an error; otherwise it is left out and listed in `skipped`. */
  readonly strict?: boolean;
}

/** Labelled images, ordered by class and file name. */
export interface ImageSet {
  /** float32 [n, channels, height, width], 0 to 1. */
  readonly images: HostTensor;
  /** [n], index into `classes`. */
  readonly labels: Int32Array;
  /** Folder names, with `/` between those of nested folders; sorted by code units. */
  readonly classes: readonly string[];
  /** [n], the path of each image inside the folder or archive. */
  readonly files: readonly string[];
  readonly skipped: readonly SkippedEntry[];
}

/** Images are decoded by native threads; more at once only takes memory. */
const atOnce = 8;

/**
 * Reads labelled images from a folder of class folders (`cat/1.png`, or nested: `Greek/alpha/1.png`), or from a ZIP
 * archive of one.
 *
 * @throws FewtuneError FILE_NOT_FOUND, FILE_UNREADABLE (the archive, or with `strict` an image), IMAGE_SIZE (with `resize:
 *   false`), ROWS_EMPTY (no class with an image that can be read), LABELS_CONFLICT (one name in two Unicode forms),
 *   OPTION_INVALID
 * @example
 * const { images, labels, classes } = await readImages('omniglot/images', { size: 28, invert: true });
 * const sampler = episodeSampler({ labels, classNames: classes, shape: { ways: 5, shots: 1, queries: 15 }, seed: 7 });
 */
export async function readImages(source: string, options: ReadImagesOptions): Promise<ImageSet> {
  const { height, width } = imageSize(options);
  const { channels = 1 } = options;
  const { files, skipped: unlisted } = await filesOf(source);
  const skipped = [...unlisted];
  const decoded = await inTurns(files, async ({ path, bytes }) => {
    try {
      return await decodeImage(await bytes(), path, options);
    } catch (error) {
      if (!(error instanceof BrokenImage)) throw error;
      if (options.strict) {
        throw new FewtuneError('FILE_UNREADABLE', `${path}: no image, or damaged (${error.message}).`, {
          cause: error,
        });
      }
      skipped.push({ path, reason: `no image, or damaged: ${error.message}` });
      return undefined;
    }
  });
  const kept = files.flatMap(({ path, label }, i) => (decoded[i] ? [{ path, label, pixels: decoded[i]! }] : []));
  const byPath = () => skipped.sort((a, b) => (a.path < b.path ? -1 : 1)); // they came as they were decoded
  if (kept.length === 0) {
    const some = byPath()
      .slice(0, 3)
      .map(({ path, reason }) => `${path} (${reason})`);
    throw new FewtuneError('ROWS_EMPTY', `${source}: no image of ${files.length} can be read: ${some.join(', ')}.`);
  }
  const classes = sortedClasses(kept.map(({ label }) => label));
  for (const label of new Set(files.map((file) => file.label))) {
    if (!classes.includes(label)) skipped.push({ path: label, reason: 'a class without any image' });
  }
  const each = channels * height * width;
  const values = new Float32Array(kept.length * each);
  for (const [row, { pixels }] of kept.entries()) values.set(pixels, row * each);
  const indexOf = new Map(classes.map((name, index) => [name, index]));
  return {
    images: hostTensor('float32', [kept.length, channels, height, width], values),
    labels: Int32Array.from(kept, ({ label }) => indexOf.get(label)!),
    classes,
    files: kept.map(({ path }) => path),
    skipped: byPath(),
  };
}

interface ImageFile {
  readonly path: string;
  readonly label: string;
  bytes(): Promise<Uint8Array>;
}

/** In the order of classes, then paths. */
async function filesOf(source: string): Promise<{ files: ImageFile[]; skipped: readonly SkippedEntry[] }> {
  const isFile = await stat(source).then(
    (info) => info.isFile(),
    () => false, // whatever is wrong, opening it says it with its code
  );
  return isFile ? fromZip(source) : fromFolder(source);
}

async function fromFolder(folder: string): Promise<{ files: ImageFile[]; skipped: readonly SkippedEntry[] }> {
  const { classes, files: paths, skipped } = await listClassFolder(folder, imageExtensions, { nested: true });
  const root = await realpath(folder);
  const files = classes.flatMap((label, c) =>
    paths[c]!.map((path) => ({ path: relative(root, path), label, bytes: () => readBytes(path) })),
  );
  return { files, skipped };
}

/** Unreadable, a file counts as a damaged image. */
const readBytes = (path: string) =>
  readFile(path).catch((cause: Error) => {
    throw new BrokenImage(cause.message, { cause });
  });

async function fromZip(archive: string): Promise<{ files: ImageFile[]; skipped: readonly SkippedEntry[] }> {
  const { entries, skipped } = await readZip(archive, imageExtensions);
  const loose = entries.filter(({ path }) => dirname(path) === '.');
  const files = entries
    .filter(({ path }) => dirname(path) !== '.')
    .map(({ path, bytes }) => ({ path, label: dirname(path), bytes: async () => bytes }))
    .sort((a, b) => (a.label === b.label ? 0 : a.label < b.label ? -1 : 1));
  requireDistinctNames(
    files.map(({ label }) => label),
    archive,
  );
  const all = [...skipped, ...loose.map(({ path }) => ({ path, reason: 'a file outside the class folders' }))];
  if (files.length > 0) return { files, skipped: all };
  throw new FewtuneError(
    'ROWS_EMPTY',
    `${archive}: no class folder with ${imageExtensions.join(', ')} files. Make one folder for each class.`,
  );
}

/** Results in the order of the items, a few worked on at a time; after an error no further one is begun. */
async function inTurns<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results = new Array<R>(items.length);
  let next = 0;
  const worker = async () => {
    while (next < items.length) {
      const own = next++;
      try {
        results[own] = await work(items[own]!);
      } catch (error) {
        next = items.length;
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  return results;
}
