import { readFile, realpath, stat } from 'node:fs/promises';
import { isAbsolute, join, relative, resolve, sep } from 'node:path';
import type { z } from 'zod';
import { FewtuneError } from '../errors.js';
import type { ModelState } from './classifier.js';
import { type Manifest, manifestFile, manifestSchema } from './manifest.js';
import { readHead } from './onnx-head.js';
import { sha256Of, unseal } from './sealed.js';
import { ClassifierSession } from './session.js';
import { readSupport } from './support.js';

export interface LoadOptions {
  /** `quantized` opens `onnx/model_quantized.onnx`: a quarter of the memory, nearly the same answers. Default `fp32`. */
  readonly weights?: 'fp32' | 'quantized';
  readonly threads?: number;
}

/** No manifest of ours comes near; a larger one is not read into memory. */
const manifestSizeLimit = 64 * 2 ** 20;

/**
 * Opens a model folder for running. The size and sha-256 of every file in its manifest are checked first, no path may leave the
 * folder, and nothing in it is executed.
 *
 * @throws FewtuneError MODEL_NOT_FOUND, MODEL_CORRUPT, MODEL_UNSUPPORTED
 */
export async function openModel(folder: string, options: LoadOptions = {}): Promise<ModelState> {
  const { manifest, files } = await readFolder(folder);
  const onnxFile = options.weights === 'quantized' ? 'onnx/model_quantized.onnx' : 'onnx/model.onnx';
  for (const needed of ['tokenizer.json', 'tokenizer_config.json', 'onnx/model.onnx', onnxFile]) {
    if (!files.has(needed)) {
      throw new FewtuneError(
        'MODEL_CORRUPT',
        `${join(folder, manifestFile)}: does not list ${needed}, which is needed. Train the model again.`,
      );
    }
  }
  const { files: _, ...report } = manifest;
  const { threads } = options;
  const session = await ClassifierSession.open(files, { onnxFile, ...(threads === undefined ? {} : { threads }) });
  const support = readSupport(files, manifest, folder);
  if (support === undefined) return { report, session };
  return { report, session, learned: { support, head: readHead(files.get('onnx/model.onnx')!), isChanged: false } };
}

/** Every file that the manifest of a folder lists, checked. @throws FewtuneError as {@link openModel} */
export async function readFolder(folder: string): Promise<{ manifest: Manifest; files: Map<string, Uint8Array> }> {
  const missing = `no model there (${manifestFile} is missing). Give the folder that \`fewtune train --out\` wrote.`;
  return readSealedFolder(folder, { file: manifestFile, schema: manifestSchema, missing, task: 'text-classification' });
}

/**
 * A folder with a manifest that lists its files, all checked.
 *
 * @param kind the manifest's name and form, what to say when it is not there, and the task it must be of
 * @throws FewtuneError MODEL_NOT_FOUND, MODEL_CORRUPT, MODEL_UNSUPPORTED
 */
export async function readSealedFolder<T extends Pick<Manifest, 'files'>>(
  folder: string,
  kind: { file: string; schema: z.ZodType<T>; missing: string; task?: string },
): Promise<{ manifest: T; files: Map<string, Uint8Array> }> {
  const file = join(folder, kind.file);
  const found = await stat(file).catch((cause: NodeJS.ErrnoException) => {
    throw new FewtuneError('MODEL_NOT_FOUND', `${folder}: ${kind.missing}`, { cause });
  });
  if (found.size > manifestSizeLimit) {
    throw new FewtuneError('MODEL_CORRUPT', `${file}: ${found.size} bytes is too large for a manifest.`);
  }
  const text = await readFile(file, 'utf8');
  if (kind.task !== undefined) refuseOtherTask(text, kind.task, folder);
  const manifest = unseal(kind.schema, text, file);
  return { manifest, files: await readVerified(folder, manifest.files) };
}

/** The task in a folder's manifest; undefined where there is none to be read. */
export async function taskOfFolder(folder: string): Promise<string | undefined> {
  const text = await readFile(join(folder, manifestFile), 'utf8').catch(() => '');
  return taskIn(text);
}

function taskIn(manifest: string): string | undefined {
  try {
    const found = (JSON.parse(manifest) as { task?: unknown } | null)?.task;
    return typeof found === 'string' ? found : undefined;
  } catch {
    return undefined; // damaged: said where it is read
  }
}

/** What opens a folder, by the task in its manifest. */
const openedBy: Readonly<Record<string, string>> = { 'text-classification': 'load', 'fine-tuned': 'loadTuned' };

/** A folder of another kind is no damaged one. */
function refuseOtherTask(text: string, wanted: string, folder: string): void {
  const found = taskIn(text);
  if (found === undefined || found === wanted || !Object.hasOwn(openedBy, found)) return;
  throw new FewtuneError(
    'MODEL_UNSUPPORTED',
    `${folder}: this model is for ${found}, not ${wanted}. Open it with ${openedBy[found]}.`,
  );
}

/** Reads every listed file, sizes before contents, and compares its hash. */
async function readVerified(folder: string, listed: Manifest['files']): Promise<Map<string, Uint8Array>> {
  const root = await realpath(folder);
  const files = new Map<string, Uint8Array>();
  for (const [path, { sha256, size }] of Object.entries(listed)) {
    const shown = join(folder, path);
    const absolute = await confined(root, path, shown);
    const found = await stat(absolute);
    if (found.size !== size) {
      throw corrupt(shown, `has ${found.size} bytes, ${size} were written`);
    }
    const bytes = await readFile(absolute);
    if (sha256Of(bytes) !== sha256) {
      throw corrupt(shown, 'its contents were changed after it was written (sha-256 differs)');
    }
    files.set(path, new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)); // not a Buffer, whose `slice` copies nothing
  }
  return files;
}

/** The real place of `path`, which must exist inside `root`. */
async function confined(root: string, path: string, shown: string): Promise<string> {
  const lexical = resolve(root, path);
  if (isAbsolute(path) || !isInside(root, lexical)) {
    throw corrupt(shown, 'its path leaves the model folder');
  }
  const real = await realpath(lexical).catch((cause) => {
    throw corrupt(shown, 'is missing', cause);
  });
  if (!isInside(root, real)) {
    throw corrupt(shown, 'is a link to a place outside the model folder (copy the folder with links resolved: cp -rL)');
  }
  return real;
}

function isInside(root: string, path: string): boolean {
  const way = relative(root, path);
  return way !== '' && way !== '..' && !way.startsWith(`..${sep}`) && !isAbsolute(way);
}

function corrupt(file: string, what: string, cause?: unknown): FewtuneError {
  return new FewtuneError('MODEL_CORRUPT', `${file}: ${what}. Restore it from a backup or train the model again.`, {
    cause,
  });
}
