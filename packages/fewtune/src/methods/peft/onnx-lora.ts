import { type HostTensor, insertLora, type Named, type OnnxFunction } from '@fewtune/engine';
import { FewtuneError } from '../../errors.js';
import { type Adapter, adaptedModules, adapterScale, asLora, type LoraAdapter } from './adapter.js';
import { near } from './near-names.js';
import { isMeant, ofPooler, ownOf, type Targets } from './targets.js';

/** A matrix product with a weight, in a model that was exported elsewhere. */
export interface OnnxProduct {
  /** The layer's name in the checkpoint that was exported, as far as the file tells it; else that of the weight. */
  readonly module: string;
  /** What stands before it in a task model: `bert.`; empty for a bare encoder. */
  readonly prefix: string;
  /** The initialiser. */
  readonly weight: string;
  readonly inner: number;
  readonly outer: number;
  /** The initialiser lies [in, out] under the layer's own name, as in GPT-2's Conv1D. */
  readonly fanInFanOut: boolean;
  /** Why an adapter cannot be merged into the weight, if so. */
  readonly apart?: string;
  /** Every name that targets may mean. */
  readonly names: readonly string[];
}

type Inserted = OnnxFunction['adapters'][number];

/** Task models put the encoder under one of these; our names have none. */
const encoderPrefix = /^(?:bert|roberta|mpnet|distilbert)\./;

/** Every product with a weight, in the order of the file. */
export function onnxProducts(model: OnnxFunction): OnnxProduct[] {
  return productsOf(everywhere(model, 1));
}

/** Adapters at every product; `[]` where there is none. */
function everywhere(model: OnnxFunction, rank: number, alpha = rank, seed = 0): readonly Inserted[] {
  if (!model.parts.nodes.some(({ opType }) => opType === 'MatMul' || opType === 'Gemm')) return [];
  return insertLora(model, { rank, alpha, seed }).adapters;
}

function productsOf(adapters: readonly Inserted[]): OnnxProduct[] {
  const taken = new Set<string>();
  return adapters.map((adapter) => {
    const { weight, node, apart, layout } = adapter;
    const path = scopeOf(node) ?? pathOf(node.name ?? '');
    const own = /^(.+)\.weight(?:_int8|_quantized)?$/.exec(weight)?.[1];
    const found = own ?? path ?? weight;
    const [prefix = ''] = encoderPrefix.exec(found) ?? [];
    let module = found.slice(prefix.length);
    for (let i = 2; taken.has(module); i++) module = `${found.slice(prefix.length)}.${i}`; // a weight that is read twice
    taken.add(module);
    const [a, b] = [adapter.start[adapter.a]!, adapter.start[adapter.b]!];
    return {
      module,
      prefix,
      weight,
      inner: a.shape[1]!,
      outer: b.shape[0]!,
      fanInFanOut: own !== undefined && layout === 'in-out',
      ...(apart !== undefined && { apart }),
      names: [...new Set([module, prefix + module, weight, node.name ?? '', path ?? ''])].filter((name) => name !== ''),
    };
  });
}

/** `/model/encoder/layer.0/attention/self/query/MatMul`, as PyTorch's older exporter calls nodes. */
function pathOf(node: string): string | undefined {
  if (!node.startsWith('/')) return undefined;
  const steps = node.split('/').slice(1, -1);
  return steps.length > 0 ? steps.join('.') : undefined;
}

/** The module that PyTorch's newer exporter writes beside a node. */
function scopeOf({ metadataProps }: Inserted['node']): string | undefined {
  const scopes = metadataProps?.find(({ key }) => key === 'pkg.torch.onnx.name_scopes')?.value ?? '';
  return [...scopes.matchAll(/'([^']*)'/g)].at(-2)?.[1] || undefined;
}

export interface OnnxLoraOptions {
  readonly targets: Targets;
  readonly rank: number;
  readonly alpha: number;
  readonly rsLora: boolean;
  readonly rankPattern?: Readonly<Record<string, number>>;
  readonly alphaPattern?: Readonly<Record<string, number>>;
  readonly seed: number;
}

/** A model with LoRA beside some of its products. */
export interface OnnxLora {
  readonly tuned: OnnxFunction;
  /** Those that are adapted, in the order of `tuned.adapters`. */
  readonly products: readonly OnnxProduct[];
}

/**
 * LoRA beside the products that are meant: by the name of the layer, of the weight or of the node, an end of one, or a
 * pattern; `all-linear` is every product.
 *
 * @throws FewtuneError OPTION_INVALID when a part of the targets means none, with near names; MODEL_UNSUPPORTED when the
 *   model multiplies by no weight
 */
export function insertOnnxLora(model: OnnxFunction, options: OnnxLoraOptions): OnnxLora {
  const products = onnxProducts(model);
  if (products.length === 0) {
    throw new FewtuneError(
      'MODEL_UNSUPPORTED',
      'the model has no MatMul or Gemm node with a weight of its own, so there is nothing LoRA could adapt.',
    );
  }
  const chosen = productsMeant(products, options.targets);
  const { rank, alpha, rankPattern = {}, alphaPattern = {} } = options;
  const settings = chosen.map((at) => {
    const name = products[at]!.prefix + products[at]!.module;
    const [own, scaled] = [ownOf(rankPattern, name, rank), ownOf(alphaPattern, name, alpha)];
    return { at, rank: own, alpha: options.rsLora ? scaled * Math.sqrt(own) : scaled };
  });
  return insertAt(model, products, settings, options.seed);
}

/** @throws FewtuneError OPTION_INVALID */
function productsMeant(products: readonly OnnxProduct[], targets: Targets): number[] {
  const all = [...products.keys()];
  if (targets === 'all-linear') return all;
  const list = typeof targets === 'string' ? [targets] : targets;
  const means = (target: string, at: number) => products[at]!.names.some((name) => isMeant(target, name));
  for (const target of list) {
    if (all.some((at) => means(target, at))) continue;
    const kinds = [...new Set(products.map(({ module }) => module.replace(/\.\d+\./g, '.*.')))];
    throw new FewtuneError(
      'OPTION_INVALID',
      `targets: no MatMul or Gemm node, weight or layer of this model is named ${JSON.stringify(target)}${near(target, kinds, 8)}.`,
    );
  }
  return all.filter((at) => list.some((target) => means(target, at)));
}

function insertAt(
  model: OnnxFunction,
  products: readonly OnnxProduct[],
  settings: readonly { at: number; rank: number; alpha: number }[],
  seed: number,
): OnnxLora {
  // Adapters of one rank and alpha are made together; names and start values do not depend on which are kept.
  const made = new Map<string, readonly Inserted[]>();
  const adapters = settings.map(({ at, rank, alpha }) => {
    const key = `${rank} ${alpha}`;
    const all = made.get(key) ?? everywhere(model, rank, alpha, seed);
    made.set(key, all);
    return all[at]!;
  });
  return { tuned: model.withAdapters(adapters), products: settings.map(({ at }) => products[at]!) };
}

/**
 * What was trained, as an adapter in PEFT's form: A [r, in] and B [out, r] by the names of layers.
 *
 * @param trained values of `tuned`'s adapter weights
 */
export function onnxAdapter(
  { tuned, products }: OnnxLora,
  trained: Named<HostTensor>,
  { rank, alpha, rsLora, alphaPattern = {}, targets }: OnnxLoraOptions,
  base: LoraAdapter['base'],
): LoraAdapter {
  const weights: Record<string, HostTensor> = {};
  for (const [i, { a, b }] of tuned.adapters.entries()) {
    weights[`${products[i]!.module}.lora_A.weight`] = trained[a]!;
    weights[`${products[i]!.module}.lora_B.weight`] = trained[b]!;
  }
  const prefix = products.find((product) => product.prefix !== '')?.prefix;
  const alphas = products.flatMap(({ prefix, module }) => {
    const own = ownOf(alphaPattern, prefix + module, alpha);
    return own === alpha ? [] : [[prefix + module, own] as const];
  });
  return {
    method: 'lora',
    rank,
    alpha,
    // Ends of names mean the same layers in Python; patterns of nodes and weights do not.
    ...(isPlain(targets, products) && { targets }),
    ...(rsLora && { rsLora }),
    ...(alphas.length > 0 && { alphaPattern: Object.fromEntries(alphas) }),
    ...(products.every(({ fanInFanOut }) => fanInFanOut) && { fanInFanOut: true }),
    ...(prefix !== undefined && { prefix }),
    ...(base && { base }),
    weights,
  };
}

function isPlain(targets: Targets, products: readonly OnnxProduct[]): targets is readonly string[] {
  const ofModule = (target: string) =>
    !/[*/]/.test(target) && products.some(({ prefix, module }) => isMeant(target, prefix + module));
  return typeof targets !== 'string' && targets.every(ofModule);
}

/**
 * A model with an adapter that was trained before, beside its products.
 *
 * @returns the function, and the values of its adapter weights for `mergeLora`, `toOnnx` and `apply`
 * @throws FewtuneError ADAPTER_MISMATCH for another model (fingerprint, names, sizes); MODEL_UNSUPPORTED for an adapter
 *   that is more than A and B
 */
export function applyOnnxAdapter(
  model: OnnxFunction,
  given: Adapter,
  fingerprint?: string,
): OnnxLora & { readonly values: Record<string, HostTensor> } {
  const adapter = asLora(given);
  const more = Object.keys({ ...adapter.weights, ...adapter.saved }).find((key) => !/\.lora_[AB]\.weight$/.test(key));
  if (more) {
    throw new FewtuneError(
      'MODEL_UNSUPPORTED',
      `the adapter holds ${more}; an ONNX file takes A and B of products only.`,
    );
  }
  checkOnnxBase(adapter, fingerprint);
  const products = onnxProducts(model);
  const wrong = (what: string) =>
    new FewtuneError('ADAPTER_MISMATCH', `the adapter is for another model: ${what}. Take the one it was trained on.`);
  const places = new Map(products.map(({ module }, at) => [module, at]));
  const modules = adaptedModules(adapter).filter((module) => places.has(module) || !ofPooler(module));
  const settings = modules.map((module) => {
    const at = places.get(module);
    if (at === undefined) {
      throw wrong(`it adapts ${module}, which is not there${near(module, [...places.keys()])}`);
    }
    const { inner, outer } = products[at]!;
    const [a, b] = [adapter.weights[`${module}.lora_A.weight`]!, adapter.weights[`${module}.lora_B.weight`]!];
    const [rank, own] = a.shape as [number, number];
    if (own !== inner || b.shape[0] !== outer) {
      throw wrong(`its ${module} goes from ${own} to ${b.shape[0]}, there it goes from ${inner} to ${outer}`);
    }
    return { at, rank, alpha: adapterScale(adapter, module) * rank };
  });
  const lora = insertAt(model, products, settings, 0);
  const values: Record<string, HostTensor> = {};
  for (const [i, { a, b }] of lora.tuned.adapters.entries()) {
    values[a] = adapter.weights[`${modules[i]}.lora_A.weight`]!;
    values[b] = adapter.weights[`${modules[i]}.lora_B.weight`]!;
  }
  return { ...lora, values };
}

function checkOnnxBase({ base }: LoraAdapter, fingerprint: string | undefined): void {
  if (base?.fingerprint === undefined || fingerprint === undefined || base.fingerprint === fingerprint) return;
  throw new FewtuneError(
    'ADAPTER_MISMATCH',
    `the adapter was trained on ${base.id ?? 'a model'} with the fingerprint ${base.fingerprint.slice(0, 12)}…; this file has ` +
      `${fingerprint.slice(0, 12)}…. Take the file that the adapter names.`,
  );
}
