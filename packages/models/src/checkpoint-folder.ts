import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostTensor } from '@fewtune/engine';
import { type Encoder, fingerprint } from './encoder.js';
import { readEncoderConfig } from './encoder-config.js';
import { ModelError, throwIfAborted } from './errors.js';
import type { Pooling } from './pooling.js';
import { dequantizeRows } from './quantized-rows.js';
import { readSafetensors } from './safetensors.js';
import { createTokenizer, type Tokenizer } from './tokenizer.js';
import { isEncoderWeight, nameInEncoder, widenFloat16 } from './weight-names.js';

/** The files of a checkpoint that are read, besides its weights. The first two must be there. */
export const smallFiles = [
  'config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'sentence_bert_config.json',
  'modules.json',
  '1_Pooling/config.json',
] as const;

export const weightFiles = ['model.safetensors', 'model.int8.safetensors'] as const;
export const weightIndex = 'model.safetensors.index.json';

/** Checkpoints that only run code can open; they are named in the error, and never opened. */
export const pickleFiles = ['pytorch_model.bin', 'pytorch_model.bin.index.json', 'model.pt', 'model.pth'] as const;

/**
 * Reads an encoder from a folder in the Hub's layout. Nothing in it is executed and no path in it leads outside.
 *
 * @throws ModelError ENCODER_INCOMPLETE, ENCODER_UNSUPPORTED, ENCODER_UNSAFE, SAFETENSORS_INVALID, TOKENIZER_INVALID
 */
export async function readCheckpointFolder(
  folder: string,
  identity: { id: string; revision?: string },
  signal?: AbortSignal,
): Promise<Encoder> {
  const config = await requiredJson(folder, 'config.json');
  const read = readEncoderConfig(config);
  await refuseUnknownModules(folder);
  const tokenizer = await readTokenizer(folder, read.maxPositions);
  const pooling = await readPooling(folder);
  throwIfAborted(signal);
  const weights = await readWeights(folder);
  throwIfAborted(signal);
  const parts = { ...identity, config, hidden: read.hidden, layers: read.layers, pooling, weights, tokenizer };
  return { ...parts, fingerprint: fingerprint(parts) };
}

async function readWeights(folder: string): Promise<Record<string, HostTensor>> {
  const tensors: Record<string, HostTensor> = {};
  for (const file of await findWeightFiles(folder)) {
    Object.assign(tensors, (await readSafetensors(join(folder, file), isEncoderWeight)).tensors);
  }
  const weights: Record<string, HostTensor> = {};
  for (const [name, tensor] of Object.entries(dequantizeRows(tensors))) {
    weights[nameInEncoder(name)] = widenFloat16(tensor);
  }
  return weights;
}

async function findWeightFiles(folder: string): Promise<string[]> {
  for (const file of weightFiles) if (await isFile(join(folder, file))) return [file];
  if (await isFile(join(folder, weightIndex))) return shardsOf(await requiredJson(folder, weightIndex), folder);
  for (const file of pickleFiles) if (await isFile(join(folder, file))) throw pickleError(folder, file);
  throw new ModelError(
    'ENCODER_INCOMPLETE',
    `${folder} has no weights: looked for ${[...weightFiles, weightIndex].join(', ')}.`,
  );
}

/**
 * The shard files an index names, each once.
 *
 * @throws ModelError ENCODER_UNSAFE when a name is not that of a safetensors file in the same folder
 */
export function shardsOf(index: Record<string, unknown>, source: string): string[] {
  const map = index.weight_map;
  if (typeof map !== 'object' || map === null) {
    throw new ModelError('ENCODER_INCOMPLETE', `${source}: ${weightIndex} has no weight_map`);
  }
  const files = [...new Set(Object.values(map))];
  for (const file of files) {
    if (typeof file !== 'string' || !/^[\w][\w.-]*\.safetensors$/.test(file)) {
      throw new ModelError(
        'ENCODER_UNSAFE',
        `${source}: ${weightIndex} names the file ${JSON.stringify(file)}; only safetensors files in the same folder are read`,
      );
    }
  }
  return files as string[];
}

export function pickleError(source: string, file: string): ModelError {
  return new ModelError(
    'ENCODER_UNSAFE',
    `${source} holds its weights as ${file}, a pickle, which can run any code when opened. Convert it once in Python: ` +
      'AutoModel.from_pretrained(folder).save_pretrained(folder, safe_serialization=True).',
  );
}

/**
 * The tokenizer of a folder in the Hub's layout.
 *
 * @param maxPositions the model's limit; what the folder states may be lower
 * @throws ModelError ENCODER_INCOMPLETE, TOKENIZER_INVALID
 */
export async function readTokenizer(folder: string, maxPositions: number): Promise<Tokenizer> {
  const json = await readText(folder, 'tokenizer.json');
  if (json === undefined) {
    throw new ModelError(
      'ENCODER_INCOMPLETE',
      `${folder} has no tokenizer.json. Make it once in Python: AutoTokenizer.from_pretrained(folder).save_pretrained(folder).`,
    );
  }
  const files = { 'tokenizer.json': json, 'tokenizer_config.json': await readText(folder, 'tokenizer_config.json') };
  const sentence = await optionalJson(folder, 'sentence_bert_config.json');
  const tokenizerConfig = await optionalJson(folder, 'tokenizer_config.json');
  const stated = sentence?.max_seq_length ?? tokenizerConfig?.model_max_length;
  const maxLength = typeof stated === 'number' && stated > 0 ? Math.min(stated, maxPositions) : maxPositions;
  return createTokenizer(files, { maxLength, source: folder });
}

/** The pooling that sentence-transformers wrote down; mean where nothing is said. */
export async function readPooling(folder: string): Promise<Pooling> {
  const config = await optionalJson(folder, '1_Pooling/config.json');
  const modes = Object.keys(config ?? {}).filter((key) => key.startsWith('pooling_mode_') && config?.[key] === true);
  if (typeof config?.pooling_mode === 'string') modes.push(`pooling_mode_${config.pooling_mode}`);
  if (modes.length === 0) return 'mean';
  if (modes.length === 1 && /^pooling_mode_mean(_tokens)?$/.test(modes[0]!)) return 'mean';
  if (modes.length === 1 && /^pooling_mode_cls(_token)?$/.test(modes[0]!)) return 'cls';
  throw new ModelError(
    'ENCODER_UNSUPPORTED',
    `${folder}: 1_Pooling/config.json asks for ${modes.join(' and ')}; mean and cls pooling work.`,
  );
}

/** A Dense layer, say, after pooling would silently be left out. */
async function refuseUnknownModules(folder: string): Promise<void> {
  const modules: unknown = await optionalJson(folder, 'modules.json');
  if (!Array.isArray(modules)) return;
  for (const module of modules as { type?: unknown }[]) {
    const kind = String(module?.type).split('.').at(-1);
    if (!['Transformer', 'Pooling', 'Normalize'].includes(kind!)) {
      throw new ModelError(
        'ENCODER_UNSUPPORTED',
        `${folder}: modules.json has a ${kind} module; Transformer, Pooling and Normalize work.`,
      );
    }
  }
}

async function requiredJson(folder: string, file: string): Promise<Record<string, unknown>> {
  const value = await optionalJson(folder, file);
  if (value) return value;
  throw new ModelError(
    'ENCODER_INCOMPLETE',
    `${folder} has no ${file}. An encoder folder holds config.json, tokenizer.json and model.safetensors.`,
  );
}

async function optionalJson(folder: string, file: string): Promise<Record<string, unknown> | undefined> {
  const text = await readText(folder, file);
  if (text === undefined) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
  } catch (cause) {
    throw new ModelError('ENCODER_INCOMPLETE', `${join(folder, file)} is not JSON`, { cause });
  }
  throw new ModelError('ENCODER_INCOMPLETE', `${join(folder, file)} is not a JSON object`);
}

async function readText(folder: string, file: string): Promise<string | undefined> {
  const path = join(folder, file);
  return (await isFile(path)) ? readFile(path, 'utf8') : undefined;
}

async function isFile(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch {
    return false; // absent, or a dangling link of an emptied cache
  }
}
