import { elementCount, OnnxFunction } from '@fewtune/engine';
import type { Encoder } from '@fewtune/models';
import { adaptersFolder, checkAdapterName } from '../artifact/adapter-names.js';
import { writeFolder } from '../artifact/folder.js';
import { readFolder } from '../artifact/load.js';
import { type Manifest, manifestFile, printManifest } from '../artifact/manifest.js';
import { listFiles } from '../artifact/sealed.js';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { type Adapter, adaptedModules, checkAdapter } from '../methods/peft/adapter.js';
import {
  adapterFolderFiles,
  headFromFiles,
  type LabelledHead,
  readAdapterWithHead,
} from '../methods/peft/model-adapters.js';
import { near } from '../methods/peft/near-names.js';
import { onnxProducts } from '../methods/peft/onnx-lora.js';
import { adapterFromFiles, configFile } from '../methods/peft/peft-files.js';

/** An adapter in a model folder. */
export interface ModelAdapter {
  readonly name: string;
  readonly adapter: Adapter;
  /** The head it was trained with. */
  readonly head?: LabelledHead;
  /** Of its files. */
  readonly bytes: number;
}

/** What is known of an adapter, for people and `--json`. */
export interface AdapterSummary {
  readonly name: string;
  readonly method: Adapter['method'];
  /** The largest; absent for kinds that have none. */
  readonly rank?: number;
  /** Modules that it changes. */
  readonly modules: number;
  readonly parameters: number;
  readonly bytes: number;
  /** What it was trained on, as far as its files say. */
  readonly base: string | null;
  /** Labels of its own head; null where it has none. */
  readonly labels: readonly string[] | null;
}

/**
 * The adapters of a model folder, by name. Sizes and hashes of all files are checked first.
 *
 * @throws FewtuneError MODEL_NOT_FOUND, MODEL_CORRUPT, MODEL_UNSUPPORTED
 * @example for (const { name, adapter } of await readAdapters('models/tickets')) bank.add(name, adapter);
 */
export async function readAdapters(folder: string): Promise<ModelAdapter[]> {
  return adaptersIn((await readFolder(folder)).files, folder);
}

export function summaryOf({ name, adapter, head, bytes }: ModelAdapter): AdapterSummary {
  const tensors = Object.values({ ...adapter.weights, ...adapter.saved });
  const ranks = adaptedModules(adapter).flatMap((module) => {
    const a = adapter.weights[`${module}.lora_A.weight`] ?? adapter.weights[`${module}.lora_embedding_A`];
    return a ? [a.shape[0]!] : [];
  });
  const rank = ranks.length > 0 ? Math.max(...ranks) : 'rank' in adapter ? (adapter.rank as number) : undefined;
  return {
    name,
    method: adapter.method,
    ...(rank !== undefined && { rank }),
    modules: adaptedModules(adapter).length,
    parameters: tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0),
    bytes,
    base: adapter.base?.id ?? null,
    labels: head?.labels ?? null,
  };
}

/**
 * Puts an adapter into a model folder, which is written anew as a whole.
 *
 * @param from    a folder as PEFT writes it
 * @param replace whether one of that name may stand there
 * @throws FewtuneError ADAPTER_MISMATCH when it is for another encoder than the model's (fingerprint, names, sizes),
 *   OPTION_INVALID for a name that is taken or cannot be one, MODEL_UNSUPPORTED, MODEL_NOT_FOUND, MODEL_CORRUPT,
 *   OUTPUT_UNWRITABLE, INTERRUPTED
 */
export async function addAdapter(
  folder: string,
  name: string,
  from: string,
  { replace = false, signal }: { replace?: boolean; signal?: AbortSignal } = {},
): Promise<AdapterSummary> {
  checkAdapterName(name);
  const { manifest, files } = await readFolder(folder);
  const present = adapterNames(files);
  if (present.includes(name) && !replace) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `${folder} has an adapter "${name}" already. Choose another name, or replace it with --replace.`,
    );
  }
  const { adapter, head } = await readAdapterWithHead(from);
  await checkFits(manifest, files, adapter, folder);
  const added = adapterFolderFiles(name, adapter, head);
  const kept = [...files].filter(([path]) => !path.startsWith(`${adaptersFolder}/${name}/`));
  throwIfAborted(signal);
  await rewrite(folder, manifest, new Map([...kept, ...added]));
  const bytes = added.reduce((sum, [, content]) => sum + content.byteLength, 0);
  return summaryOf({ name, adapter, ...(head && { head }), bytes });
}

/**
 * Takes an adapter out of a model folder, which is written anew as a whole.
 *
 * @throws FewtuneError ADAPTER_UNKNOWN with near names, MODEL_NOT_FOUND, MODEL_CORRUPT, OUTPUT_UNWRITABLE, INTERRUPTED
 */
export async function removeAdapter(
  folder: string,
  name: string,
  { signal }: { signal?: AbortSignal } = {},
): Promise<void> {
  const { manifest, files } = await readFolder(folder);
  const present = adapterNames(files);
  if (!present.includes(name)) throw unknownAdapter(folder, name, present);
  throwIfAborted(signal);
  const kept = [...files].filter(([path]) => !path.startsWith(`${adaptersFolder}/${name}/`));
  await rewrite(folder, manifest, new Map(kept));
}

export function unknownAdapter(folder: string, name: string, present: readonly string[]): FewtuneError {
  return new FewtuneError('ADAPTER_UNKNOWN', `${folder} has no adapter "${name}"${near(name, present)}.`);
}

function adapterNames(files: ReadonlyMap<string, Uint8Array>): string[] {
  const [start, end] = [`${adaptersFolder}/`, `/${configFile}`];
  return [...files.keys()]
    .filter((path) => path.startsWith(start) && path.endsWith(end))
    .map((path) => path.slice(start.length, -end.length))
    .sort();
}

function adaptersIn(files: ReadonlyMap<string, Uint8Array>, folder: string): ModelAdapter[] {
  return adapterNames(files).map((name) => {
    const start = `${adaptersFolder}/${name}/`;
    const own = [...files].filter(([path]) => path.startsWith(start));
    const byName = new Map(own.map(([path, bytes]) => [path.slice(start.length), bytes]));
    const source = `${folder}/${adaptersFolder}/${name}`;
    const head = headFromFiles(byName, source);
    return {
      name,
      adapter: adapterFromFiles(byName, source),
      ...(head && { head }),
      bytes: own.reduce((sum, [, bytes]) => sum + bytes.byteLength, 0),
    };
  });
}

/** Whether an adapter is for the encoder of a model: by the manifest's fingerprint, and by the sizes in its file. */
async function checkFits(
  manifest: Manifest,
  files: ReadonlyMap<string, Uint8Array>,
  adapter: Adapter,
  folder: string,
): Promise<void> {
  const { encoder, method } = manifest;
  if (!encoder) {
    throw new FewtuneError(
      'MODEL_UNSUPPORTED',
      `${folder}: the method ${method.name} has no encoder that an adapter could change.`,
    );
  }
  const model = await OnnxFunction.fromBytes(files.get('onnx/model.onnx')!);
  const sizes: Record<string, { shape: readonly number[] }> = { ...model.weights };
  for (const { module, outer, inner } of onnxProducts(model)) sizes[`${module}.weight`] = { shape: [outer, inner] };
  checkAdapter({ id: encoder.id, fingerprint: encoder.fingerprint, weights: sizes } as unknown as Encoder, adapter);
}

async function rewrite(folder: string, manifest: Manifest, files: ReadonlyMap<string, Uint8Array>): Promise<void> {
  const sealed = printManifest({ ...manifest, files: listFiles(files) });
  await writeFolder(folder, new Map<string, Uint8Array | string>([...files, [manifestFile, sealed]]));
}
