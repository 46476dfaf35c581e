import { add, type HostTensor, matMul, mul, type Named, type Tensor } from '@fewtune/engine';
import { type EncodeHooks, type Encoder, fingerprint, isQuantized, type LinearFn, plainLinear } from '@fewtune/models';
import { FewtuneError } from '../../errors.js';
import type { AdapterBase, AdapterParts } from './adapter-parts.js';
import { type AddedAdapter, addedFunctions, addedMismatch, additionOf, isAdded, withAddition } from './additions.js';
import { ia3Linear, mergeIa3 } from './ia3-layer.js';
import { loraLinear, mergeLora } from './lora-layer.js';
import { near } from './near-names.js';
import { matchesFully } from './python-pattern.js';
import { ofPooler } from './targets.js';
import { mergeVera, veraLinear } from './vera-layer.js';

/** The base of an adapter that is trained on an encoder; the weights are those before training, perhaps quantised. */
export function baseOf(encoder: Encoder, weights: Named<HostTensor>): AdapterBase {
  const { id, revision, fingerprint, quantizedFrom } = encoder;
  const quantization = Object.values(weights).find(isQuantized)?.quantized.quantization;
  return {
    id,
    ...(revision && { revision }),
    fingerprint: quantizedFrom ?? fingerprint,
    ...(quantization && { quantization }),
  };
}

/**
 * A LoRA adapter in memory, DoRA and embedding LoRA included: data, apart from any encoder.
 *
 * `weights` holds, for each adapted module, `<module>.lora_A.weight` [r, in] and `.lora_B.weight` [out, r]; with DoRA
 * `.lora_magnitude_vector` [out]; with a bias of its own `.lora_B.bias` [out]; for a table of embeddings
 * `.lora_embedding_A` [r, rows] and `.lora_embedding_B` [width, r]. The rank is that of A.
 */
export interface LoraAdapter extends AdapterParts {
  readonly method: 'lora';
  /** Of modules that no pattern names. */
  readonly rank: number;
  readonly alpha: number;
  /** The update is scaled by alpha / √r instead of alpha / r (Kalajdzievski 2023, arXiv:2312.03732). */
  readonly rsLora?: boolean;
  /** Ranks and alphas of some modules: a pattern matches a whole name, or what follows one of its dots. */
  readonly rankPattern?: Readonly<Record<string, number>>;
  readonly alphaPattern?: Readonly<Record<string, number>>;
  /** The base keeps the weights as [in, out], as Conv1D does; A and B are the same either way. */
  readonly fanInFanOut?: boolean;
}

/** (IA)³: `weights` holds `<module>.ia3_l`, [out, 1] or, in layers whose inputs are scaled, [1, in]. */
export interface Ia3Adapter extends AdapterParts {
  readonly method: 'ia3';
  /** Which of the targets are layers whose inputs are scaled; left out, those with such a shape. */
  readonly feedforward?: readonly string[] | string;
}

/** VeRA: `weights` holds `<module>.vera_lambda_b` [out] and `.vera_lambda_d` [r], and `vera_A`, `vera_B` of all. */
export interface VeraAdapter extends AdapterParts {
  readonly method: 'vera';
  readonly rank: number;
}

export type Adapter = LoraAdapter | Ia3Adapter | VeraAdapter | AddedAdapter;

/**
 * An adapter that must be LoRA.
 *
 * @throws FewtuneError MODEL_UNSUPPORTED
 */
export function asLora(adapter: Adapter, what = 'the adapter'): LoraAdapter {
  if (adapter.method === 'lora') return adapter;
  throw new FewtuneError('MODEL_UNSUPPORTED', `${what} is ${adapter.method}; only LoRA can be used here.`);
}

const adapterSuffix = /\.(lora_(A\.weight|embedding_A)|ia3_l|vera_lambda_b|adapter_down\.weight|reft_R)$/;

/** The modules that an adapter changes by what it adds to them. */
export function adaptedModules({ weights }: Adapter): string[] {
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

/** What `encode` takes to compute with an adapter: other weights, another linear layer, what stands between layers. */
export interface Adapted {
  readonly weights: Readonly<Record<string, Tensor>>;
  readonly linear: LinearFn;
  readonly hooks?: EncodeHooks;
}

/**
 * An adapter beside its base, not merged: what is trained, or what is switched.
 *
 * @param weights traced weights of the encoder
 * @param params  the adapter's `weights` and `saved`, traced
 *
 * @example
 * const { weights, ...options } = applyAdapter(adapter, base, params);
 * const hidden = encode(config, weights, inputs, options);
 */
export function applyAdapter(adapter: Adapter, weights: Named<Tensor>, params: Named<Tensor>): Adapted {
  const changed: Record<string, Tensor> = { ...weights };
  for (const name of Object.keys(adapter.saved ?? {})) if (weights[name]) changed[name] = params[name]!;
  if (isAdded(adapter)) return { weights: changed, linear: plainLinear, ...addedFunctions(adapter, params) };
  if (adapter.method === 'ia3') return { weights: changed, linear: ia3Linear(params) };
  if (adapter.method === 'vera') return { weights: changed, linear: veraLinear(params) };
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
 * @throws FewtuneError ADAPTER_MISMATCH when a module is not in `weights`, or has other sizes; MODEL_UNSUPPORTED for a kind
 *   that is no change of weights
 */
export function mergeAdapter(weights: Named<HostTensor>, adapter: Adapter): Record<string, HostTensor> {
  if (isAdded(adapter)) {
    throw new FewtuneError(
      'MODEL_UNSUPPORTED',
      `a ${adapter.method} adapter is no change of weights, so it cannot be merged into them. adaptEncoder computes it along.`,
    );
  }
  checkShapes(weights, adapter);
  const base = withSaved(weights, adapter);
  const used = Object.fromEntries(Object.entries(adapter.weights).filter(([name]) => !ofPooler(name)));
  switch (adapter.method) {
    case 'lora':
      return mergeLora(base, used, (module) => adapterScale(adapter, module));
    case 'ia3':
      return mergeIa3(base, used);
    case 'vera':
      return mergeVera(base, used);
    default:
      return adapter satisfies never;
  }
}

/** Weights with those in place that an adapter holds whole. */
function withSaved(weights: Named<HostTensor>, { saved = {} }: Adapter): Record<string, HostTensor> {
  return { ...weights, ...Object.fromEntries(Object.entries(saved).filter(([name]) => weights[name])) };
}

/**
 * The encoder with an adapter merged into it, or, where that cannot be, computed along with it: an encoder like any
 * other, with a fingerprint of its own.
 *
 * @throws FewtuneError ADAPTER_MISMATCH when the adapter was trained on another encoder
 */
export function adaptEncoder(encoder: Encoder, adapter: Adapter): Encoder {
  checkAdapter(encoder, adapter);
  const adapted = isAdded(adapter)
    ? withAddition(encoder, additionOf(adapter), { ...withSaved(encoder.weights, adapter), ...adapter.weights })
    : { ...encoder, weights: mergeAdapter(encoder.weights, adapter) };
  return { ...adapted, fingerprint: fingerprint(adapted) };
}

/**
 * Whether an adapter belongs to an encoder: by the fingerprint it carries, if any, and by names and sizes.
 *
 * @throws FewtuneError ADAPTER_MISMATCH
 */
export function checkAdapter(encoder: Encoder, adapter: Adapter): void {
  const trainedOn = adapter.base?.fingerprint;
  if (trainedOn !== undefined && trainedOn !== encoder.fingerprint && trainedOn !== encoder.quantizedFrom) {
    throw new FewtuneError(
      'ADAPTER_MISMATCH',
      `the adapter was trained on ${adapter.base?.id ?? 'an encoder'} with the fingerprint ${trainedOn.slice(0, 12)}…; ` +
        `${encoder.id} has ${encoder.fingerprint.slice(0, 12)}…. Load the encoder that the adapter names.`,
    );
  }
  checkShapes(encoder.weights, adapter);
}

function checkShapes(weights: Named<HostTensor>, adapter: Adapter): void {
  const wrong = (what: string) =>
    new FewtuneError(
      'ADAPTER_MISMATCH',
      `the adapter is for another encoder: ${what}. Load the one it was trained on.`,
    );
  if (isAdded(adapter)) {
    const found = addedMismatch(weights, adapter);
    if (found) throw wrong(found);
  }
  for (const module of isAdded(adapter) ? [] : adaptedModules(adapter).filter((name) => !ofPooler(name))) {
    const base = weights[`${module}.weight`];
    if (!base) {
      const modules = Object.keys(weights).flatMap((name) => (name.endsWith('.weight') ? [name.slice(0, -7)] : []));
      throw wrong(`it adapts ${module}, which is not there${near(module, modules)}`);
    }
    const needs = weightShape(adapter.weights, module);
    if (base.shape.length !== 2 || needs.some((size, axis) => size !== undefined && size !== base.shape[axis])) {
      const shown = needs.map((size) => size ?? 'any').join(', ');
      throw wrong(`its ${module} is made for a weight [${shown}], there it is [${base.shape.join(', ')}]`);
    }
  }
  for (const [name, { shape }] of Object.entries(adapter.saved ?? {})) {
    const base = weights[name];
    if (base && base.shape.join() !== shape.join()) {
      throw wrong(`its ${name} is [${shape.join(', ')}], there it is [${base.shape.join(', ')}]`);
    }
  }
}

/** [out, in] of the weight that a part of an adapter is made for, as far as the part says. */
function weightShape(weights: Named<HostTensor>, module: string): [number | undefined, number | undefined] {
  const shape = (name: string) => weights[`${module}.${name}`]?.shape as [number, number] | undefined;
  const a = shape('lora_A.weight');
  if (a) return [shape('lora_B.weight')![0], a[1]];
  const table = shape('lora_embedding_A');
  if (table) return [table[1], shape('lora_embedding_B')![0]];
  const l = shape('ia3_l');
  if (l) return l[1] === 1 ? [l[0], undefined] : [undefined, l[1]];
  return [shape('vera_lambda_b')![0], undefined];
}
