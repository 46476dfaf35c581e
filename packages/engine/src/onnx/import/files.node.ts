/** Models in files: opening them with the data beside them, and writing them back. */
import { constants } from 'node:fs';
import { open, readFile, realpath, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, sep } from 'node:path';
import { EngineError } from '../../errors.js';
import type { HostTensor } from '../../host-tensor.js';
import type { Named } from '../../optim/optimizer.js';
import { writeOnnx } from '../model.js';
import type { OnnxFunctionOptions } from './onnx-function.js';
import { OnnxFunction } from './onnx-function.js';
import type { ExternalReader } from './weights.js';
import { isExternal } from './weights.js';
import { externalized, largestFile, modelWith, tensorBytes, toOnnx } from './write.js';

/**
 * Opens an ONNX model as a differentiable function. Data beside the file is read only from the file's own folder.
 *
 * @param model the file's path, or its bytes
 * @throws EngineError ONNX_INVALID for a file that is missing or no sound model, or external data outside the folder;
 *   NOT_DIFFERENTIABLE with every node that has no rule
 * @example
 * const model = await readOnnxModel('model.onnx');
 * console.log(model.inputs, model.weights);
 */
export async function readOnnxModel(
  model: string | Uint8Array,
  options: OnnxFunctionOptions = {},
): Promise<OnnxFunction> {
  if (typeof model !== 'string') return OnnxFunction.fromBytes(model, options);
  let bytes: Uint8Array;
  try {
    bytes = await readFile(model);
  } catch (cause) {
    throw new EngineError('ONNX_INVALID', `cannot read the model "${model}": ${(cause as Error).message}`, { cause });
  }
  return OnnxFunction.fromBytes(bytes, { external: folderReader(dirname(model)), ...options });
}

/** Reads parts of files in one folder, and of no other. */
export function folderReader(folder: string): ExternalReader {
  return async ({ tensor, location, offset, length }) => {
    const refuse = (why: string) =>
      new EngineError('ONNX_INVALID', `tensor "${tensor}": its external data "${location}" ${why}`);
    const steps = location.split(/[\\/]/);
    if (location.includes('\0') || /^([\\/]|[A-Za-z]:)/.test(location) || steps.includes('..')) {
      throw refuse("leaves the model's folder: only a path inside it is read");
    }
    const root = await realpath(folder);
    let path: string;
    try {
      path = await realpath(join(root, ...steps));
    } catch (cause) {
      throw new EngineError(
        'ONNX_INVALID',
        `tensor "${tensor}": its external data "${location}" is not in the model's folder`,
        { cause },
      );
    }
    if (!path.startsWith(root.endsWith(sep) ? root : root + sep)) {
      throw refuse("is a link that leaves the model's folder: put the file itself there");
    }
    const found = await stat(path);
    if (!found.isFile()) throw refuse('is no file');
    if (offset + length > found.size) {
      throw refuse(`has ${found.size} bytes, but ${length} are to be read from byte ${offset}; is it cut short?`);
    }
    const file = await open(path, constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0));
    try {
      const bytes = new Uint8Array(length);
      for (let done = 0; done < length; ) {
        const { bytesRead } = await file.read(bytes, done, Math.min(length - done, 2 ** 30), offset + done);
        if (bytesRead === 0) throw refuse(`ended after ${done} of ${length} bytes`);
        done += bytesRead;
      }
      return bytes;
    } finally {
      await file.close();
    }
  };
}

export interface SaveOnnxOptions {
  /**
   * `'auto'` keeps weights inside the file, or beside it if they were or if they would not fit; `'inside'` and `'beside'`
   * say it. Beside is one file, called as the model with `.data` at the end.
   */
  readonly external?: 'auto' | 'inside' | 'beside';
}

/**
 * Writes a model with other weights to a file. Each file is written beside its place first and then renamed, so that a
 * reader finds the old one or the new one.
 *
 * @param weights values to write; those left out stay. Merge adapters first (`mergeLora`), or they become nodes
 * @throws EngineError INPUT_MISMATCH, ARGUMENT_INVALID
 */
export async function saveOnnx(
  path: string,
  fn: OnnxFunction,
  weights: Named<HostTensor> = {},
  { external = 'auto' }: SaveOnnxOptions = {},
): Promise<void> {
  fn.checkWeights(weights);
  const were = [...fn.parts.initializers.values()].some(isExternal);
  if (external === 'inside' || (external === 'auto' && !were && fn.parts.bytes.length < largestFile / 2)) {
    return writeBeside(path, [toOnnx(fn, weights)]);
  }
  const whole = modelWith(fn, weights);
  if (external === 'auto' && !were && tensorBytes(whole) <= largestFile) return writeBeside(path, [writeOnnx(whole)]);
  const location = `${basename(path)}.data`;
  const { model, parts } = externalized(whole, location);
  await writeBeside(join(dirname(path), location), parts);
  await writeBeside(path, [writeOnnx(model)]);
}

async function writeBeside(path: string, parts: readonly Uint8Array[]): Promise<void> {
  const draft = `${path}.${process.pid}.tmp`;
  try {
    const file = await open(draft, 'w');
    try {
      for (const part of parts) await file.writeFile(part);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(draft, path);
  } catch (error) {
    await rm(draft, { force: true });
    throw error;
  }
}
