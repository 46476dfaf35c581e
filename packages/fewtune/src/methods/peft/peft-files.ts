import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { convertFloat, type HostTensor } from '@fewtune/engine';
import { parseSafetensors, type Quantization, quantizationOf, serializeSafetensors } from '@fewtune/models';
import { writeFolder } from '../../artifact/folder.js';
import { FewtuneError } from '../../errors.js';
import { type Adapter, adaptedModules, type LoraAdapter } from './adapter.js';
import { fromOwnFiles, isOwn, ownConfigFile, ownFiles, ownWeightsFile } from './own-files.js';
import { isVirtual, moduleInPython, type PeftAdapter, readPeftConfig, writePeftConfig } from './peft-config.js';
import { tableName } from './virtual-tokens.js';

export const configFile = 'adapter_config.json';
export const weightsFile = 'adapter_model.safetensors';

/** Every key of an injected method stands under it; VeRA's shared matrices stand a step above. */
const root = 'base_model.model.';
const sharedRoot = 'base_model.';
/** Virtual tokens stand beside the model, so PEFT wraps nothing. */
const rootOf = (adapter: Pick<Adapter, 'method'>) => (isVirtual(adapter) ? sharedRoot : root);
const isShared = (name: string) => name === 'vera_A' || name === 'vera_B';

/** Task models put the encoder under one of these; our names have none. */
const encoderPrefix = /^(bert|roberta|mpnet|distilbert)\./;

const known = {
  lora: /\.lora_(A\.weight|B\.weight|B\.bias|embedding_A|embedding_B|magnitude_vector)$/,
  ia3: /\.ia3_l$/,
  vera: /\.vera_lambda_[bd]$/,
  prompt: /^prompt_embeddings$/,
  prefix: /^prompt_embeddings$/,
};
/** What some adapter may have, and is not a weight trained whole. */
const ofAdapters = /\.(lora_|ia3_|vera_|token_adapter\.)|^prompt_embeddings/;

/** The base's fingerprint, in the metadata of the tensor file, where Python's readers do not look. */
const fingerprintKey = 'fewtune.base_fingerprint';
/** How its matrices were held in training. */
const quantizationKey = 'fewtune.base_quantization';

/**
 * The files of an adapter as PEFT writes them, or in a format of our own for kinds that PEFT has not. Equal adapters give
 * equal bytes.
 *
 * @returns `adapter_config.json` and `adapter_model.safetensors`; `fewtune_adapter.json` and `fewtune_adapter.safetensors`
 */
export function adapterFiles(adapter: Adapter): Map<string, Uint8Array> {
  return isOwn(adapter) ? ownFiles(adapter) : peftFiles(adapter);
}

function peftFiles(adapter: PeftAdapter): Map<string, Uint8Array> {
  const { weights, saved = {}, base = {}, prefix = '' } = adapter;
  const modules = new Set(adaptedModules(adapter));
  const tensors: Record<string, HostTensor> = {};
  for (const [name, tensor] of Object.entries(weights)) {
    if (name === tableName) tensors[name] = tensor;
    else tensors[isShared(name) ? sharedRoot + name : root + prefix + name] = tensor;
  }
  for (const [name, tensor] of Object.entries(saved)) {
    const at = name.lastIndexOf('.');
    const module = name.slice(0, at);
    // A bias beside an adapted weight lies in the layer that PEFT wraps.
    const path = modules.has(module) ? `${module}.base_layer${name.slice(at)}` : name;
    tensors[rootOf(adapter) + moduleInPython(path, prefix)] = tensor;
  }
  const metadata = {
    format: 'pt',
    ...(base.fingerprint && { [fingerprintKey]: base.fingerprint }),
    ...(base.quantization && { [quantizationKey]: JSON.stringify(base.quantization) }),
  };
  return new Map([
    [configFile, new TextEncoder().encode(writePeftConfig(adapter))],
    [weightsFile, serializeSafetensors(tensors, metadata)],
  ]);
}

/**
 * An adapter from the two files that PEFT writes, or from our own; half-precision matrices become float32.
 *
 * @param files  bytes by file name; others are not looked at
 * @param source what to call them in an error
 * @throws FewtuneError MODEL_NOT_FOUND, MODEL_CORRUPT, MODEL_UNSUPPORTED
 * @throws ModelError SAFETENSORS_INVALID for a truncated or overlapping file
 */
export function adapterFromFiles(files: ReadonlyMap<string, Uint8Array>, source = 'the adapter'): Adapter {
  if (files.has(ownConfigFile)) return fromOwnFiles(files, source);
  const config = files.get(configFile);
  const bytes = files.get(weightsFile);
  if (!config) throw new FewtuneError('MODEL_NOT_FOUND', `${source} has no ${configFile}, so it is no PEFT adapter.`);
  if (!bytes) {
    const pickle = files.has('adapter_model.bin');
    throw new FewtuneError(
      pickle ? 'MODEL_UNSUPPORTED' : 'MODEL_CORRUPT',
      pickle
        ? `${source} holds adapter_model.bin, a pickle, which can run code and is not opened. Save it again as safetensors.`
        : `${source} has no ${weightsFile}. Copy or download the whole folder again.`,
    );
  }
  const settings = readPeftConfig(new TextDecoder().decode(config), `${source}: ${configFile}`);
  const { tensors, metadata } = parseSafetensors(bytes, `${source}: ${weightsFile}`);
  const weights: Record<string, HostTensor> = {};
  const saved: Record<string, HostTensor> = {};
  let prefix = '';
  for (const [key, tensor] of Object.entries(tensors)) {
    const shared = key.slice(sharedRoot.length);
    if (settings.method === 'vera' && key.startsWith(sharedRoot) && isShared(shared)) {
      weights[shared] = float32(tensor, key, source);
      continue;
    }
    const beginning = rootOf(settings);
    if (isVirtual(settings) && key === tableName) {
      weights[key] = float32(tensor, key, source);
      continue;
    }
    if (!key.startsWith(beginning)) throw corrupt(source, `the key "${key}" does not begin with "${beginning}"`);
    const path = key.slice(beginning.length).replace(/lora_magnitude_vector\.weight$/, 'lora_magnitude_vector');
    const [found = ''] = encoderPrefix.exec(path) ?? [];
    const name = path.slice(found.length).replace('.base_layer.', '.');
    prefix ||= found;
    if (known[settings.method].test(name)) weights[name] = float32(tensor, key, source);
    else if (ofAdapters.test(name)) {
      throw new FewtuneError('MODEL_UNSUPPORTED', `${source}: tensors like "${key}" are not known to this version.`);
    } else saved[name] = float32(tensor, key, source);
  }
  const fingerprint = metadata[fingerprintKey];
  const quantization = quantizationIn(metadata[quantizationKey], source);
  const adapter: PeftAdapter = {
    ...settings,
    weights,
    ...(Object.keys(saved).length > 0 && { saved }),
    ...(prefix && { prefix }),
    ...((settings.base || fingerprint || quantization) && {
      base: { ...settings.base, ...(fingerprint && { fingerprint }), ...(quantization && { quantization }) },
    }),
  };
  checkMatrices(adapter, source);
  return adapter;
}

/**
 * Writes an adapter as a folder that Python's `PeftModel.from_pretrained` loads; beside its place first, then renamed. An
 * adapter that stood there is replaced, anything else is left alone.
 *
 * @throws FewtuneError OUTPUT_UNWRITABLE
 */
export async function writeAdapter(folder: string, adapter: Adapter): Promise<void> {
  await writeFolder(folder, adapterFiles(adapter), isOwn(adapter) ? ownConfigFile : configFile);
}

/**
 * Reads the adapter of a folder.
 *
 * @throws as {@link adapterFromFiles}
 */
export async function readAdapter(folder: string): Promise<Adapter> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((cause: unknown) => {
    throw new FewtuneError('MODEL_NOT_FOUND', `${folder}: there is no such folder.`, { cause });
  });
  const names = entries.map(({ name }) => name);
  if (!names.includes(configFile) && !names.includes(ownConfigFile)) {
    const below = entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
    const hint = below.length > 0 ? ` PEFT puts an adapter with a name into a folder below: ${below.join(', ')}?` : '';
    throw new FewtuneError('MODEL_NOT_FOUND', `${folder} has no ${configFile}, so it is no PEFT adapter.${hint}`);
  }
  const files = new Map<string, Uint8Array>();
  for (const file of [configFile, weightsFile, ownConfigFile, ownWeightsFile]) {
    if (names.includes(file)) files.set(file, await readFile(join(folder, file)));
  }
  if (names.includes('adapter_model.bin')) files.set('adapter_model.bin', new Uint8Array());
  return adapterFromFiles(files, folder);
}

/** @throws FewtuneError MODEL_CORRUPT */
function quantizationIn(text: string | undefined, source: string): Quantization | undefined {
  if (text === undefined) return undefined;
  try {
    return quantizationOf(JSON.parse(text));
  } catch (cause) {
    throw new FewtuneError('MODEL_CORRUPT', `${source}: its ${quantizationKey} is ${text}.`, { cause });
  }
}

type Tensors = Readonly<Record<string, HostTensor>>;

function float32(tensor: HostTensor, key: string, source: string): HostTensor {
  if (tensor.dtype.startsWith('float')) return convertFloat(tensor, 'float32');
  throw corrupt(source, `the tensor "${key}" is ${tensor.dtype}; adapters are made of floats`);
}

function checkMatrices(adapter: PeftAdapter, source: string): void {
  if (adapter.method === 'prompt' || adapter.method === 'prefix') {
    const shape = adapter.weights[tableName]?.shape;
    if (!shape) throw corrupt(source, `"${tableName}" is missing`);
    const parts = adapter.method === 'prefix' ? 2 * adapter.layers : 1;
    if (shape.length !== 2 || shape[1]! % parts !== 0) {
      throw corrupt(source, `"${tableName}" is [${shape.join(', ')}], for ${parts} parts a token`);
    }
    return;
  }
  if (adaptedModules(adapter).length === 0) throw corrupt(source, 'it adapts no module');
  if (adapter.method === 'lora') checkLora(adapter, source);
  else if (adapter.method === 'ia3') checkFactors(adapter.weights, source);
  else checkVera(adapter.weights, adapter.rank, source);
}

function checkFactors(weights: Tensors, source: string): void {
  for (const [name, { shape }] of Object.entries(weights)) {
    if (shape.length !== 2 || !shape.includes(1)) {
      throw corrupt(source, `"${name}" is [${shape.join(', ')}], neither [out, 1] nor [1, in]`);
    }
  }
}

/** λ_b has its λ_d of the common rank, and the shared matrices are as wide as the widest layer. */
function checkVera(weights: Tensors, rank: number, source: string): void {
  const [a, b] = [weights.vera_A, weights.vera_B];
  if (!a || !b) throw corrupt(source, '"base_model.vera_A" or "base_model.vera_B" is missing');
  const sizes = [a.shape.length, b.shape.length, a.shape[0], b.shape[1]];
  if (sizes.join() !== [2, 2, rank, rank].join()) {
    throw corrupt(source, `vera_A is [${a.shape.join(', ')}] and vera_B [${b.shape.join(', ')}], for the rank ${rank}`);
  }
  const ends = ['.vera_lambda_b', '.vera_lambda_d'] as const;
  for (const [name, { shape }] of Object.entries(weights)) {
    const end = ends.findIndex((suffix) => name.endsWith(suffix));
    if (end < 0) continue;
    const other = name.slice(0, -ends[0].length) + ends[1 - end];
    if (!weights[other]) throw corrupt(source, `"${other}" is missing`);
    const fits = shape.length === 1 && (end === 0 ? shape[0]! <= b.shape[0]! : shape[0] === rank);
    if (!fits) throw corrupt(source, `"${name}" is [${shape.join(', ')}], vera_B [${b.shape.join(', ')}]`);
  }
}

/** Each A has its B of the same rank, and the other way round; sizes agree. */
function checkLora(adapter: LoraAdapter, source: string): void {
  const { weights } = adapter;
  const modules = adaptedModules(adapter);
  const expected = new Set<string>();
  for (const module of modules) {
    const table = weights[`${module}.lora_embedding_A`] !== undefined;
    const [aName, bName] = table
      ? [`${module}.lora_embedding_A`, `${module}.lora_embedding_B`]
      : [`${module}.lora_A.weight`, `${module}.lora_B.weight`];
    const [a, b] = [weights[aName]!, weights[bName]];
    if (!b) throw corrupt(source, `"${bName}" is missing`);
    if (a.shape.length !== 2 || b.shape.length !== 2) {
      throw new FewtuneError(
        'MODEL_UNSUPPORTED',
        `${source}: ${module} is no linear layer (A [${a.shape.join(', ')}]).`,
      );
    }
    if (a.shape[0] !== b.shape[1]) {
      throw corrupt(source, `${module} has A [${a.shape.join(', ')}] and B [${b.shape.join(', ')}]`);
    }
    for (const name of [`${module}.lora_magnitude_vector`, `${module}.lora_B.bias`]) {
      const vector = weights[name];
      if (vector && table) {
        throw new FewtuneError('MODEL_UNSUPPORTED', `${source}: "${name}" is DoRA of a table of embeddings.`);
      }
      if (vector && vector.shape.join() !== String(b.shape[0])) {
        throw corrupt(source, `"${name}" is [${vector.shape.join(', ')}], not [${b.shape[0]}]`);
      }
      expected.add(name);
    }
    expected.add(aName).add(bName);
  }
  const alone = Object.keys(weights).find((name) => !expected.has(name));
  if (alone) throw corrupt(source, `"${alone}" has no A beside it`);
}

function corrupt(source: string, what: string): FewtuneError {
  return new FewtuneError('MODEL_CORRUPT', `${source} is not a whole adapter: ${what}.`);
}
