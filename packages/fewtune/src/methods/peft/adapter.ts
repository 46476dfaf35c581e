import { add, type HostTensor, matMul, mul, type Named, type Tensor } from '@fewtune/engine';
import { type Encoder, fingerprint, type LinearFn } from '@fewtune/models';
import { FewtuneError } from '../../errors.js';
import { loraLinear, mergeLora } from './lora-layer.js';
import { near } from './near-names.js';
import { matchesFully } from './python-pattern.js';

/** The encoder that an adapter was trained on, as far as is known. */
export interface AdapterBase {
  /** A Hub id, or a folder. */
  readonly id?: string;
  readonly revision?: string;
  /** `Encoder.fingerprint`: SHA-256 over everything that decides an embedding. */
  readonly fingerprint?: string;
}

/**
 * A LoRA adapter in memory, DoRA and embedding LoRA included: data, apart from any encoder.
 *
 * Names are those of our encoders. `weights` holds, for each adapted module, `<module>.lora_A.weight` [r, in] and
 * `.lora_B.weight` [out, r]; with DoRA `.lora_magnitude_vector` [out]; with a bias of its own `.lora_B.bias` [out]; for a
 * table of embeddings `.lora_embedding_A` [r, rows] and `.lora_embedding_B` [width, r]. The rank is that of A.
 */
export interface LoraAdapter {
  readonly method: 'lora';
  /** Of modules that no pattern names. */
  readonly rank: number;
  readonly alpha: number;
  /** The update is scaled by alpha / √r instead of alpha / r (Kalajdzievski 2023, arXiv:2312.03732). */
  readonly rsLora?: boolean;
  /** Ranks and alphas of some modules: a pattern matches a whole name, or what follows one of its dots. */
  readonly rankPattern?: Readonly<Record<string, number>>;
  readonly alphaPattern?: Readonly<Record<string, number>>;
  /** What chose the modules: ends of names, or a pattern; left out, the modules of `weights`. */
  readonly targets?: readonly string[] | string;
  readonly weights: Named<HostTensor>;
  /** Weights that were trained whole: norms, biases, a task's head. */
  readonly saved?: Named<HostTensor>;
  readonly base?: AdapterBase;
  /** Where the encoder's modules stand in the model that Python adapts, e.g. `bert.` in BertForSequenceClassification. */
  readonly prefix?: string;
  /** PEFT's: SEQ_CLS, FEATURE_EXTRACTION, … */
  readonly taskType?: string;
}

const adapterSuffix = /\.lora_(A\.weight|embedding_A)$/;

/** The modules that an adapter changes by a low-rank update. */
export function adaptedModules({ weights }: LoraAdapter): string[] {
  return Object.keys(weights).flatMap((name) => (adapterSuffix.test(name) ? [name.replace(adapterSuffix, '')] : []));
}

/** alpha / r of a module, or alpha / √r. */
export function adapterScale(adapter: LoraAdapter, module: string): number {
  const { weights, rsLora, alphaPattern = {}, prefix = '' } = adapter;
  const rank = (weights[`${module}.lora_A.weight`] ?? weights[`${module}.lora_embedding_A`])!.shape[0]!;
  const pattern = Object.keys(alphaPattern).find((key) => matchesFully(`(.*\\.)?(${key})`, prefix + module));
  const alpha = pattern === undefined ? adapter.alpha : alphaPattern[pattern]!;
  return alpha / (rsLora ? Math.sqrt(rank) : rank);
}

/** What `encode` takes to compute with an adapter: other weights, and another linear layer. */
export interface Adapted {
  readonly weights: Readonly<Record<string, Tensor>>;
  readonly linear: LinearFn;
}

/**
 * An adapter beside its base, not merged: what is trained, or what is switched.
 *
 * @param weights traced weights of the encoder
 * @param params  the adapter's `weights` and `saved`, traced
 *
 * @example
 * const { weights, linear } = applyAdapter(adapter, base, params);
 * const hidden = encode(config, weights, inputs, { linear });
 */
export function applyAdapter(adapter: LoraAdapter, weights: Named<Tensor>, params: Named<Tensor>): Adapted {
  const changed: Record<string, Tensor> = { ...weights };
  for (const name of Object.keys(adapter.saved ?? {})) if (weights[name]) changed[name] = params[name]!;
  for (const module of adaptedModules(adapter)) {
    const a = params[`${module}.lora_embedding_A`];
    if (!a) continue;
    const b = mul(params[`${module}.lora_embedding_B`]!, adapterScale(adapter, module)); // [width, r]
    const update = matMul(a, b, { transposeA: true, transposeB: true }); // [rows, width]
    changed[`${module}.weight`] = add(changed[`${module}.weight`]!, update);
  }
  return { weights: changed, linear: loraLinear(params, (module) => adapterScale(adapter, module)) };
}

/**
 * The plain weights that a base with an adapter amounts to. What the adapter holds beside the encoder (a task's head, an
 * update of the pooler, which no embedding reads) is left out.
 *
 * @throws FewtuneError ADAPTER_MISMATCH when a module is not in `weights`, or has other sizes
 */
export function mergeAdapter(weights: Named<HostTensor>, adapter: LoraAdapter): Record<string, HostTensor> {
  checkShapes(weights, adapter);
  const base: Record<string, HostTensor> = { ...weights };
  for (const [name, value] of Object.entries(adapter.saved ?? {})) if (weights[name]) base[name] = value;
  const used = Object.entries(adapter.weights).filter(([name]) => !ofPooler(name));
  return mergeLora(base, Object.fromEntries(used), (module) => adapterScale(adapter, module));
}

/**
 * The encoder with an adapter merged into it: an ordinary encoder, with a fingerprint of its own.
 *
 * @throws FewtuneError ADAPTER_MISMATCH when the adapter was trained on another encoder
 */
export function adaptEncoder(encoder: Encoder, adapter: LoraAdapter): Encoder {
  checkAdapter(encoder, adapter);
  const adapted = { ...encoder, weights: mergeAdapter(encoder.weights, adapter) };
  return { ...adapted, fingerprint: fingerprint(adapted) };
}

/**
 * Whether an adapter belongs to an encoder: by the fingerprint it carries, if any, and by names and sizes.
 *
 * @throws FewtuneError ADAPTER_MISMATCH
 */
export function checkAdapter(encoder: Encoder, adapter: LoraAdapter): void {
  const trainedOn = adapter.base?.fingerprint;
  if (trainedOn !== undefined && trainedOn !== encoder.fingerprint) {
    throw new FewtuneError(
      'ADAPTER_MISMATCH',
      `the adapter was trained on ${adapter.base?.id ?? 'an encoder'} with the fingerprint ${trainedOn.slice(0, 12)}…; ` +
        `${encoder.id} has ${encoder.fingerprint.slice(0, 12)}…. Load the encoder that the adapter names.`,
    );
  }
  checkShapes(encoder.weights, adapter);
}

function checkShapes(weights: Named<HostTensor>, adapter: LoraAdapter): void {
  const wrong = (what: string) =>
    new FewtuneError(
      'ADAPTER_MISMATCH',
      `the adapter is for another encoder: ${what}. Load the one it was trained on.`,
    );
  for (const module of adaptedModules(adapter).filter((name) => !ofPooler(name))) {
    const base = weights[`${module}.weight`];
    if (!base) {
      const modules = Object.keys(weights).flatMap((name) => (name.endsWith('.weight') ? [name.slice(0, -7)] : []));
      throw wrong(`it adapts ${module}, which is not there${near(module, modules)}`);
    }
    const a = adapter.weights[`${module}.lora_A.weight`];
    const needs = a
      ? [adapter.weights[`${module}.lora_B.weight`]!.shape[0], a.shape[1]]
      : [
          adapter.weights[`${module}.lora_embedding_A`]!.shape[1],
          adapter.weights[`${module}.lora_embedding_B`]!.shape[0],
        ];
    if (needs.join() !== base.shape.join()) {
      throw wrong(`its ${module} is made for a weight [${needs.join(', ')}], there it is [${base.shape.join(', ')}]`);
    }
  }
  for (const [name, { shape }] of Object.entries(adapter.saved ?? {})) {
    const base = weights[name];
    if (base && base.shape.join() !== shape.join()) {
      throw wrong(`its ${name} is [${shape.join(', ')}], there it is [${base.shape.join(', ')}]`);
    }
  }
}

const ofPooler = (name: string) => name.startsWith('pooler.');
