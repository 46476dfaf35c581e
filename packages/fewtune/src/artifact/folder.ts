import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { FewtuneError } from '../errors.js';
import { manifestFile } from './manifest.js';

/**
 * Finds out, before any training, whether a model can be written to `folder`.
 *
 * @throws FewtuneError OUTPUT_UNWRITABLE when the place cannot be written to, or holds something that is not a model
 */
export async function checkOutput(folder: string, marker = manifestFile): Promise<void> {
  const target = resolve(folder);
  await refuseForeign(target, folder, marker);
  const trial = sibling(target, 'trial');
  try {
    const first = await mkdir(trial, { recursive: true }); // the topmost folder that had to be made
    await rm(first ?? trial, { recursive: true, force: true });
  } catch (cause) {
    throw unwritable(folder, cause);
  }
}

/**
 * Writes `files` (relative path to bytes) as `folder`: into a sibling first, which is renamed when everything is on
 * disk. A model that stood there is moved aside before and removed after, so that the folder is whole at any time.
 *
 * @param marker the file by which a folder that may be replaced is known
 * @throws FewtuneError OUTPUT_UNWRITABLE
 */
export async function writeFolder(
  folder: string,
  files: ReadonlyMap<string, Uint8Array | string>,
  marker = manifestFile,
): Promise<void> {
  const target = resolve(folder);
  await refuseForeign(target, folder, marker);
  const fresh = sibling(target, 'new');
  const old = sibling(target, 'old');
  try {
    for (const [path, bytes] of files) {
      await mkdir(dirname(join(fresh, path)), { recursive: true });
      await writeDurably(join(fresh, path), bytes);
    }
    const replacing = await exists(target);
    if (replacing) {
      await rename(target, old);
    }
    try {
      await rename(fresh, target);
    } catch (cause) {
      if (replacing) {
        await rename(old, target);
      }
      throw cause;
    }
    await rm(old, { recursive: true, force: true });
  } catch (cause) {
    await rm(fresh, { recursive: true, force: true }).catch(() => {});
    throw unwritable(folder, cause);
  }
}

async function writeDurably(path: string, bytes: Uint8Array | string): Promise<void> {
  const file = await open(path, 'w');
  try {
    await file.writeFile(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** A folder with something in it is only ever replaced when it is a model of ours. */
async function refuseForeign(target: string, shown: string, marker = manifestFile): Promise<void> {
  let entries: string[];
  try {
    entries = await readdir(target);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') {
      return;
    }
    throw unwritable(shown, cause);
  }
  if (entries.length > 0 && !entries.includes(marker)) {
    throw new FewtuneError(
      'OUTPUT_UNWRITABLE',
      `${shown}: the folder is not empty and is not what would be written (no ${marker}), so it is left alone. ` +
        'Name another folder with --out, or empty this one.',
    );
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

function sibling(target: string, purpose: string): string {
  return join(dirname(target), `.${basename(target)}.${purpose}-${randomBytes(6).toString('hex')}`);
}

function unwritable(folder: string, cause: unknown): FewtuneError {
  const { code = '', message = String(cause) } = cause as NodeJS.ErrnoException;
  return new FewtuneError(
    'OUTPUT_UNWRITABLE',
    `${folder}: the model cannot be written there (${code || message}). Name a folder that you may write to with --out.`,
    { cause },
  );
}
