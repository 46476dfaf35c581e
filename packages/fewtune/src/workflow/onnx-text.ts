import { readFile, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { type Dim, EngineError, folderReader, OnnxFunction, readOnnxModel } from '@fewtune/engine';
import { ModelError, readPooling, readTokenizer, type Tokenizer } from '@fewtune/models';
import { readFolder } from '../artifact/load.js';
import { manifestFile } from '../artifact/manifest.js';
import { classifierInput, type TextGraph, type TextInput, withOutput } from '../artifact/onnx-classifier.js';
import { sha256Of } from '../artifact/sealed.js';
import { quoteSome } from '../data/dataset.js';
import { FewtuneError } from '../errors.js';

/** A text model in an ONNX file that was exported elsewhere, with the tokenizer that stands beside it. */
export interface OnnxText {
  /** Of the `.onnx` file. */
  readonly file: string;
  /** A Hub id where config.json names one; else the folder's or the file's name. */
  readonly id: string;
  /** SHA-256 over the file, and over the values of the weights that are stored beside it. */
  readonly fingerprint: string;
  readonly model: OnnxFunction;
  readonly graph: TextGraph;
  /** Columns of a logits output, where they are known. */
  readonly width: number | undefined;
  readonly tokenizer: Tokenizer;
  /** The labels of the file's own classifier, from config.json. */
  readonly labels: readonly string[] | undefined;
  /** config.json, or empty. */
  readonly config: Readonly<Record<string, unknown>>;
}

export interface OpenOnnxTextOptions {
  /** Folder with tokenizer.json, where it is not beside the file. */
  readonly tokenizer?: string;
  /** The output to read, where several could be meant. */
  readonly output?: string;
}

/** Looked for in a folder, in this order. */
const onnxFiles = ['onnx/model.onnx', 'model.onnx', 'onnx/model_quantized.onnx'] as const;

/**
 * The ONNX file that a path means: itself, or the one of a transformers.js folder; undefined where there is none.
 */
export async function findOnnx(path: string): Promise<string | undefined> {
  if (path.endsWith('.onnx')) return (await kindOf(path)) === 'folder' ? undefined : path;
  for (const file of onnxFiles) if ((await kindOf(join(path, file))) === 'file') return join(path, file);
  return undefined;
}

/**
 * Opens a `.onnx` file or a transformers.js folder as a text model. The folder of one of ours is checked against its
 * manifest; data beside the file is read from its own folder only.
 *
 * @throws FewtuneError MODEL_NOT_FOUND, MODEL_CORRUPT, MODEL_UNSUPPORTED (operators that cannot be differentiated are
 *   listed by node, and so are inputs and outputs that do not fit a text model)
 */
export async function openOnnxText(path: string, options: OpenOnnxTextOptions = {}): Promise<OnnxText> {
  const file = await findOnnx(path);
  if (file === undefined || (await kindOf(file)) !== 'file') {
    throw new FewtuneError(
      'MODEL_NOT_FOUND',
      `${path}: there is no ONNX model. Give a .onnx file, or a folder with one of ${onnxFiles.join(', ')}.`,
    );
  }
  const folder = await folderOf(file);
  if ((await kindOf(join(folder, manifestFile))) === 'file') await readFolder(folder);
  const model = await opened(file);
  const config = await readJson(join(folder, 'config.json'));
  const { ids, mask, types, length } = inputsOf(model, file);
  const { name, kind, width } = outputOf(model, file, options.output);
  const tokenizer = await tokenizerOf(options.tokenizer ?? folder, config, length);
  if (length !== undefined && model.parts.opset < 11) {
    throw new FewtuneError(
      'MODEL_UNSUPPORTED',
      `${file}: it was exported for ${length} tokens in every row, with operator set ${model.parts.opset}. Export it with a dynamic ` +
        'sequence axis, or with operator set 11 or later.',
    );
  }
  return {
    file,
    id: idOf(config, folder, file),
    fingerprint: await fingerprintOf(file, model),
    model,
    graph: {
      ids,
      ...(mask && { mask }),
      ...(types && { types }),
      output: { name, kind },
      pooling: await readPooling(folder),
      ...(length !== undefined && { length }),
      padId: tokenizer.padId,
    },
    width,
    tokenizer,
    labels: labelsOf(config),
    config,
  };
}

/** Opens the file, with one symbol for all sizes that are the batch, and one for all that are the sequence. */
async function opened(file: string): Promise<OnnxFunction> {
  const open = (sizes: Record<string, Dim>) =>
    readOnnxModel(file, { sizes }).catch((cause: unknown) => {
      throw explained(cause, file);
    });
  const model = await open({});
  const axes = Object.values(model.inputs).filter(({ shape }) => shape.length === 2);
  const sizes: Record<string, Dim> = {};
  for (const [axis, symbol] of (['batch', 'seq'] as const).entries()) {
    for (const { shape } of axes) if (typeof shape[axis] === 'string') sizes[shape[axis]] = symbol;
  }
  return Object.entries(sizes).every(([from, to]) => from === to) ? model : open(sizes);
}

/** What the engine says of a file, as an error about the file. */
export function explained(cause: unknown, file: string): unknown {
  if (!(cause instanceof EngineError)) return cause;
  const text = cause.message.replace(/^\[\w+\] /, '').replace(/,? at [^\s]+:\d+:\d+$/, '');
  switch (cause.code) {
    case 'NOT_DIFFERENTIABLE':
      return new FewtuneError('MODEL_UNSUPPORTED', `${file} cannot be trained.\n${text}`, { cause });
    case 'SIZE_UNKNOWN':
    case 'SHAPE_MISMATCH':
    case 'DTYPE_MISMATCH':
      return new FewtuneError('MODEL_UNSUPPORTED', `${file} cannot be traced: ${text}.`, { cause });
    case 'ONNX_INVALID':
    case 'SESSION_FAILED':
      return new FewtuneError('MODEL_CORRUPT', `${file}: ${text}.`, { cause });
    default:
      return cause;
  }
}

/**
 * The model up to what its own classifier reads; as it is where it has none.
 *
 * @throws FewtuneError MODEL_UNSUPPORTED where its classifier is no linear layer
 */
export async function withoutClassifier(text: OnnxText): Promise<Pick<OnnxText, 'model' | 'graph'>> {
  if (text.graph.output.kind !== 'logits') return text;
  const found = classifierInput(text.model.parts.bytes, text.graph.output.name);
  if (!found) {
    throw new FewtuneError(
      'MODEL_UNSUPPORTED',
      `${text.file}: its classifier has the labels ${quoteSome(text.labels ?? [])}, not those of the data, and is no linear layer that ` +
        'another could replace. Export the encoder alone, or name its hidden states with --output.',
    );
  }
  const external = folderReader(dirname(text.file));
  const sizes = { batch: 'batch', seq: 'seq' };
  const model = await OnnxFunction.fromBytes(withOutput(text.model.parts.bytes, found.tensor), {
    external,
    sizes: { ...symbolsOf(text.model), ...sizes },
  });
  return { model, graph: { ...text.graph, output: { name: found.tensor, kind: 'vector' } } };
}

/** The symbols that an opened file has for its sizes, by their names in it: `sizes` for another with the same inputs. */
export function symbolsOf(model: OnnxFunction): Record<string, string> {
  const symbols: Record<string, string> = {};
  for (const { name, type } of model.parts.model.graph.input) {
    for (const [axis, { dimParam }] of (type?.tensorType?.shape?.dim ?? []).entries()) {
      const symbol = model.inputs[name]?.shape[axis];
      if (typeof symbol !== 'string') continue;
      if (dimParam) symbols[dimParam] = symbol;
      symbols[`${name}_${axis}`] = symbol;
    }
  }
  return symbols;
}

const inputNames = {
  ids: ['input_ids', 'ids', 'input', 'tokens'],
  mask: ['attention_mask', 'mask', 'input_mask'],
  types: ['token_type_ids', 'segment_ids', 'token_types'],
} as const;

function inputsOf(model: OnnxFunction, file: string) {
  const left = new Map(Object.entries(model.inputs));
  const shown = Object.entries(model.inputs).map(
    ([name, { dtype, shape }]) => `${name} ${dtype} [${shape.join(', ')}]`,
  );
  const refuse = (what: string) =>
    new FewtuneError('MODEL_UNSUPPORTED', `${file} ${what}. Its inputs are: ${shown.join('; ') || 'none'}.`);
  const take = (names: readonly string[]): TextInput | undefined => {
    const name = names.find((wanted) => left.has(wanted));
    if (name === undefined) return undefined;
    const { dtype, shape } = left.get(name)!;
    if ((dtype !== 'int64' && dtype !== 'int32') || shape.length !== 2) {
      throw refuse(`has the input ${name}, which is no int64 or int32 [batch, seq]`);
    }
    left.delete(name);
    return { name, dtype };
  };
  const [ids, mask, types] = [take(inputNames.ids), take(inputNames.mask), take(inputNames.types)];
  if (!ids) throw refuse('is no text model: it has no input_ids');
  if (left.size > 0) throw refuse(`needs ${[...left.keys()].join(', ')}, which Fewtune does not know how to fill`);
  const [batch, seq] = model.inputs[ids.name]!.shape as [Dim, Dim];
  if (typeof batch === 'number') {
    throw refuse(`was exported for batches of ${batch}. Export it again with a dynamic batch axis`);
  }
  return { ids, mask, types, length: typeof seq === 'number' ? seq : undefined };
}

/** By what outputs of exporters are called; an output of one vector a text is better than states, which are pooled. */
const outputNames = [
  { pattern: /^(logits|scores)$/i, kind: 'logits' },
  { pattern: /^(sentence_embedding|embedding|embeddings|features)$/i, kind: 'vector' },
  { pattern: /^(last_hidden_state|token_embeddings|hidden_states|output|output_0)$/i, kind: 'states' },
] as const;

function outputOf(
  model: OnnxFunction,
  file: string,
  wanted: string | undefined,
): TextGraph['output'] & { width: number | undefined } {
  const all = Object.entries(model.outputs);
  const shown = all.map(([name, { dtype, shape }]) => `${name} ${dtype} [${shape.join(', ')}]`).join('; ');
  const refuse = (code: 'OPTION_INVALID' | 'MODEL_UNSUPPORTED', what: string) =>
    new FewtuneError(code, `${file} ${what}. Its outputs are: ${shown}.`);
  if (wanted !== undefined && !model.outputs[wanted]) throw refuse('OPTION_INVALID', `has no output "${wanted}"`);
  const ranked = outputNames.flatMap(({ pattern, kind }) =>
    all.filter(([name]) => pattern.test(name)).map(([name]) => ({ name, kind })),
  );
  const others = [3, 2].flatMap((rank) =>
    all.filter(([, { shape }]) => shape.length === rank).map(([name]) => ({ name })),
  );
  const found = wanted === undefined ? (ranked[0] ?? others[0]) : { name: wanted };
  if (!found) throw refuse('MODEL_UNSUPPORTED', 'has no output that a classifier could read');
  const { dtype, shape } = model.outputs[found.name]!;
  const named = outputNames.find(({ pattern }) => pattern.test(found.name))?.kind;
  const kind = kindByShape(shape, named);
  if (dtype !== 'float32' || kind === undefined) {
    throw refuse(
      'MODEL_UNSUPPORTED',
      `has the output ${found.name}, which is neither hidden states [batch, seq, hidden], nor one vector or row of logits a text, in float32`,
    );
  }
  const width = shape.at(-1);
  return { name: found.name, kind, width: typeof width === 'number' ? width : undefined };
}

/** The number of axes decides where the file tells it: an output without a shape goes by its name. */
function kindByShape(
  shape: readonly Dim[],
  named: TextGraph['output']['kind'] | undefined,
): TextGraph['output']['kind'] | undefined {
  if (shape.length === 0) return named;
  if (shape.length === 3) return named === 'logits' ? undefined : 'states'; // logits of every token
  if (shape.length === 2) return named === 'logits' ? 'logits' : 'vector';
  return undefined;
}

/** A transformers.js folder keeps its files a step above `onnx/`. */
async function folderOf(file: string): Promise<string> {
  const own = dirname(file);
  for (const folder of [own, dirname(resolve(own)) === resolve(own) ? own : join(own, '..')]) {
    if ((await kindOf(join(folder, 'tokenizer.json'))) === 'file') return folder;
  }
  return own;
}

async function tokenizerOf(
  folder: string,
  config: Readonly<Record<string, unknown>>,
  length: number | undefined,
): Promise<Tokenizer> {
  const stated = config.max_position_embeddings;
  const most = typeof stated === 'number' && stated > 0 ? stated : 512;
  try {
    return await readTokenizer(folder, Math.min(most, length ?? most));
  } catch (cause) {
    if (!(cause instanceof ModelError) || cause.code !== 'ENCODER_INCOMPLETE') throw cause;
    throw new FewtuneError(
      'MODEL_NOT_FOUND',
      `${folder}: there is no tokenizer.json beside the ONNX file or a step above. Put the tokenizer of the model there, ` +
        'or name its folder with --tokenizer.',
      { cause },
    );
  }
}

function labelsOf({ id2label }: Readonly<Record<string, unknown>>): string[] | undefined {
  if (typeof id2label !== 'object' || id2label === null) return undefined;
  const entries = Object.entries(id2label);
  const labels = entries.map((_, i) => (id2label as Record<string, unknown>)[String(i)]);
  return labels.every((label) => typeof label === 'string') ? (labels as string[]) : undefined;
}

function idOf(config: Readonly<Record<string, unknown>>, folder: string, file: string): string {
  const stated = config._name_or_path;
  if (typeof stated === 'string' && /^[\w.-]+\/[\w.-]+$/.test(stated)) return stated;
  const own = basename(resolve(folder));
  return own === 'onnx' || own === '' ? basename(file, '.onnx') : own;
}

async function fingerprintOf(file: string, model: OnnxFunction): Promise<string> {
  const beside = Object.entries(model.values())
    .filter(([name]) => model.parts.initializers.get(name)?.dataLocation === 1)
    .map(([name, { data }]) => `${name}:${sha256Of(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))}`);
  return sha256Of([sha256Of(await readFile(file)), ...beside].join('\n'));
}

async function readJson(file: string): Promise<Record<string, unknown>> {
  if ((await kindOf(file)) !== 'file') return {};
  try {
    const value: unknown = JSON.parse(await readFile(file, 'utf8'));
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch (cause) {
    throw new FewtuneError('MODEL_CORRUPT', `${file} is not JSON: ${(cause as Error).message}.`, { cause });
  }
  throw new FewtuneError('MODEL_CORRUPT', `${file} is not a JSON object.`);
}

async function kindOf(path: string): Promise<'file' | 'folder' | undefined> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile()) return 'file';
  return found?.isDirectory() ? 'folder' : undefined;
}
