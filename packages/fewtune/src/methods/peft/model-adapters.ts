import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { hostTensor } from '@fewtune/engine';
import { parseSafetensors, serializeSafetensors } from '@fewtune/models';
import { adaptersFolder } from '../../artifact/adapter-names.js';
import type { LinearHead } from '../../artifact/linear-head.js';
import { FewtuneError } from '../../errors.js';
import type { Adapter } from './adapter.js';
import { adapterFiles, readAdapter } from './peft-files.js';

/** The head that an adapter was trained with, beside PEFT's files, where Python does not look. */
export const adapterHeadFile = 'head.safetensors';

/** A linear head with the names of its rows. */
export interface LabelledHead extends LinearHead {
  readonly labels: readonly string[];
}

/** The files of an adapter by their paths in a model folder. */
export function adapterFolderFiles(name: string, adapter: Adapter, head?: LabelledHead): [string, Uint8Array][] {
  const files = [...adapterFiles(adapter)];
  if (head) files.push([adapterHeadFile, headBytes(head)]);
  return files.map(([file, bytes]) => [`${adaptersFolder}/${name}/${file}`, bytes]);
}

function headBytes({ weight, bias, labels }: LabelledHead): Uint8Array {
  const tensors = {
    'classifier.weight': hostTensor('float32', [bias.length, weight.length / bias.length], weight),
    'classifier.bias': hostTensor('float32', [bias.length], bias),
  };
  return serializeSafetensors(tensors, { labels: JSON.stringify(labels) });
}

/**
 * The head of an adapter folder; undefined where it has none.
 *
 * @throws FewtuneError MODEL_CORRUPT
 */
export function headFromFiles(files: ReadonlyMap<string, Uint8Array>, source: string): LabelledHead | undefined {
  const bytes = files.get(adapterHeadFile);
  if (!bytes) return undefined;
  const corrupt = (what: string, cause?: unknown) =>
    new FewtuneError('MODEL_CORRUPT', `${source}: ${adapterHeadFile} ${what}. Copy the whole folder again.`, { cause });
  let read: ReturnType<typeof parseSafetensors>;
  let named: unknown;
  try {
    read = parseSafetensors(bytes, `${source}: ${adapterHeadFile}`);
    named = JSON.parse(read.metadata.labels ?? 'null');
  } catch (cause) {
    throw corrupt(`cannot be read: ${(cause as Error).message}`, cause);
  }
  const [weight, bias] = [read.tensors['classifier.weight'], read.tensors['classifier.bias']];
  const labels = Array.isArray(named) && named.every((label) => typeof label === 'string') ? (named as string[]) : [];
  const fits =
    labels.length > 0 && weight?.dtype === 'float32' && weight.shape.length === 2 && bias?.dtype === 'float32';
  if (!fits || weight.shape[0] !== labels.length || bias.shape.join() !== String(labels.length)) {
    throw corrupt('does not hold classifier.weight and classifier.bias with a label for each row');
  }
  return { weight: weight.data as Float32Array, bias: bias.data as Float32Array, labels };
}

/**
 * An adapter's folder with the head it was trained with, if that stands beside.
 *
 * @throws as `readAdapter`
 */
export async function readAdapterWithHead(folder: string): Promise<{ adapter: Adapter; head?: LabelledHead }> {
  const adapter = await readAdapter(folder);
  const bytes = await readFile(join(folder, adapterHeadFile)).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') return undefined;
    throw cause;
  });
  const head = bytes && headFromFiles(new Map([[adapterHeadFile, new Uint8Array(bytes)]]), folder);
  return { adapter, ...(head && { head }) };
}
