import { type HostTensor, hostTensor } from '@fewtune/engine';
import { createRandom, type Random } from '../../data/random.js';
import { FewtuneError } from '../../errors.js';
import { type Adapter, adaptedModules, adapterScale, asLora, type LoraAdapter } from './adapter.js';
import { transposed, truncatedSvd } from './low-rank.js';

/**
 * How adapters become one. `cat` sets the matrices side by side: exactly the sum, of the sum of their ranks. The others
 * mix A with A and B with B, which costs no rank but is not the sum of the updates; with `Svd` they mix the updates B A
 * themselves and take the best matrices of a rank.
 *
 * - `linear`: Σ wᵢ Δᵢ
 * - `ties`: small entries are dropped, signs elected, and what disagrees left out (Yadav et al. 2023, arXiv:2306.01708)
 * - `dareLinear`, `dareTies`: entries are dropped at random, the rest scaled up (Yu et al. 2024, arXiv:2311.03099)
 * - `magnitudePrune`: small entries are dropped
 */
export const combinations = [
  'cat',
  'linear',
  'ties',
  'dareLinear',
  'dareTies',
  'magnitudePrune',
  'svd',
  'tiesSvd',
  'dareLinearSvd',
  'dareTiesSvd',
  'magnitudePruneSvd',
] as const;
export type Combination = (typeof combinations)[number];

export interface Weighted {
  /** LoRA; other kinds cannot be combined. */
  readonly adapter: Adapter;
  readonly weight: number;
}

export interface CombineOptions {
  readonly method?: Combination;
  /** Share of the entries that are kept, for those that drop some; 0.5 when left out. */
  readonly density?: number;
  /** Of the result, with `Svd`; the largest of the ranks when left out. */
  readonly rank?: number;
  readonly seed?: number;
}

type Mix = Exclude<Combination, 'cat' | 'svd' | `${string}Svd`>;

/**
 * One adapter from several over the same encoder, as PEFT's `add_weighted_adapter`.
 *
 * @throws FewtuneError OPTION_INVALID
 */
export function combineAdapters(given: readonly Weighted[], options: CombineOptions = {}): LoraAdapter {
  const { method = 'svd', density = 0.5, seed = 7 } = options;
  const parts = checked(given, method, { density, rank: options.rank });
  const random = createRandom(seed);
  const modules = [...new Set(parts.flatMap(({ adapter }) => adaptedModules(adapter)))];
  const weights: Record<string, HostTensor> = {};
  let rank = 0;
  for (const module of modules) {
    const own = parts.flatMap(({ adapter, weight }) => {
      const a = adapter.weights[`${module}.lora_A.weight`];
      const b = adapter.weights[`${module}.lora_B.weight`]!;
      return a ? [{ a, b, weight, scale: adapterScale(adapter, module) }] : [];
    });
    const { a, b } = combineLayer(own, method, { density, random, rank: options.rank });
    rank = Math.max(rank, a.shape[0]!);
    weights[`${module}.lora_A.weight`] = a;
    weights[`${module}.lora_B.weight`] = b;
  }
  const { base, prefix, taskType } = parts[0]!.adapter;
  // Scales are in the matrices: alpha equals the rank, layer by layer.
  const ranks = modules.map((module) => [module, weights[`${module}.lora_A.weight`]!.shape[0]!] as const);
  const alphas = Object.fromEntries(ranks.filter(([, own]) => own !== rank));
  return {
    method: 'lora',
    rank,
    alpha: rank,
    ...(Object.keys(alphas).length > 0 && { alphaPattern: alphas }),
    weights,
    ...(base && { base }),
    ...(prefix && { prefix }),
    ...(taskType && { taskType }),
  };
}

/** A [r, in] and B [out, r] of one adapter in one layer, its scale, and the weight it was given. */
interface Part {
  readonly a: HostTensor;
  readonly b: HostTensor;
  readonly scale: number;
  readonly weight: number;
}

interface WeightedLora {
  readonly adapter: LoraAdapter;
  readonly weight: number;
}

interface LayerOptions {
  readonly density: number;
  readonly random: Random;
  readonly rank?: number;
}

function combineLayer(parts: readonly Part[], method: Combination, options: LayerOptions) {
  const [outer, inner] = [parts[0]!.b.shape[0]!, parts[0]!.a.shape[1]!];
  const rank = Math.max(...parts.map(({ a }) => a.shape[0]!));
  if (method === 'cat') return sideBySide(parts, outer, inner);
  if (method === 'svd' || isOfUpdates(method)) {
    const mix = method === 'svd' ? 'linear' : (method.slice(0, -'Svd'.length) as Mix);
    const updates = parts.map(({ a, b, scale, weight }) => ({ values: product(a, b, scale), weight }));
    return bestOfRank(mixed(updates, mix, options), outer, inner, options.rank ?? rank, options.random);
  }
  // √|f| to each side, the sign to A, so that the product has the factor.
  const side = (pick: 'a' | 'b') =>
    mixed(
      parts.map(({ scale, weight, ...matrices }) => ({
        values: matrices[pick].data as Float32Array,
        weight: Math.sqrt(Math.abs(scale * weight)) * (pick === 'a' && scale * weight < 0 ? -1 : 1),
      })),
      method,
      options,
    );
  return { a: hostTensor('float32', [rank, inner], side('a')), b: hostTensor('float32', [outer, rank], side('b')) };
}

const isOfUpdates = (method: Combination): method is Exclude<Combination, Mix | 'cat'> => /svd$/i.test(method);

/** Rows of A and columns of B one after the other. */
function sideBySide(parts: readonly Part[], outer: number, inner: number) {
  const rank = parts.reduce((sum, { a }) => sum + a.shape[0]!, 0);
  const down = new Float32Array(rank * inner);
  const up = new Float32Array(outer * rank);
  let at = 0;
  for (const { a, b, scale, weight } of parts) {
    const own = a.shape[0]!;
    down.set(
      Float32Array.from(a.data as Float32Array, (value) => value * scale * weight),
      at * inner,
    );
    for (let o = 0; o < outer; o++) {
      up.set((b.data as Float32Array).subarray(o * own, (o + 1) * own), o * rank + at);
    }
    at += own;
  }
  return { a: hostTensor('float32', [rank, inner], down), b: hostTensor('float32', [outer, rank], up) };
}

interface Values {
  readonly values: Float32Array;
  readonly weight: number;
}

/** Several arrays of one length to one. */
function mixed(parts: readonly Values[], mix: Mix, { density, random }: LayerOptions): Float32Array {
  switch (mix) {
    case 'linear':
      return weightedSum(parts);
    case 'magnitudePrune':
      return weightedSum(parts.map((part) => ({ ...part, values: keepLargest(part.values, density) })));
    case 'ties':
      return agreeing(parts.map((part) => ({ ...part, values: keepLargest(part.values, density) })));
    case 'dareLinear':
      return weightedSum(parts.map((part) => ({ ...part, values: keepSome(part.values, density, random) })));
    case 'dareTies':
      return agreeing(parts.map((part) => ({ ...part, values: keepSome(part.values, density, random) })));
    default:
      return mix satisfies never;
  }
}

function weightedSum(parts: readonly Values[]): Float32Array {
  const sum = new Float32Array(parts[0]!.values.length);
  for (const { values, weight } of parts) for (let i = 0; i < sum.length; i++) sum[i]! += weight * values[i]!;
  return sum;
}

/**
 * Each entry: the mean over the arrays that have the sign of their unweighted sum there. A zero has no sign and does not
 * count.
 */
function agreeing(parts: readonly Values[]): Float32Array {
  return Float32Array.from(parts[0]!.values, (_, i) => {
    const sign = parts.reduce((sum, { values }) => sum + values[i]!, 0) >= 0 ? 1 : -1;
    let [total, count] = [0, 0];
    for (const { values, weight } of parts) {
      if (Math.sign(values[i]!) !== sign) continue;
      total += weight * values[i]!;
      count++;
    }
    return total / Math.max(1, count);
  });
}

/** The entries of the largest size, the others zero. */
function keepLargest(values: Float32Array, density: number): Float32Array {
  if (density >= 1) return values;
  const order = [...values.keys()].sort((a, b) => Math.abs(values[b]!) - Math.abs(values[a]!) || a - b);
  const kept = new Float32Array(values.length);
  for (const i of order.slice(0, Math.floor(density * values.length))) kept[i] = values[i]!;
  return kept;
}

/** Entries at random, divided by their share, so that the mean stays. */
function keepSome(values: Float32Array, density: number, random: Random): Float32Array {
  if (density >= 1) return values;
  return values.map((value) => (random.next() < density ? value / density : 0));
}

/** scale · B A [out, in]. */
function product(a: HostTensor, b: HostTensor, scale: number): Float32Array {
  const [rank, inner] = a.shape as [number, number];
  const [down, up] = [a.data as Float32Array, b.data as Float32Array];
  const values = new Float32Array(b.shape[0]! * inner);
  for (let at = 0; at < up.length; at++) {
    const [row, r] = [Math.floor(at / rank), at % rank];
    for (let i = 0; i < inner; i++) values[row * inner + i]! += scale * up[at]! * down[r * inner + i]!;
  }
  return values;
}

/** B = U S and A = Vᵀ of an update [out, in]. */
function bestOfRank(update: Float32Array, outer: number, inner: number, wanted: number, random: Random) {
  const rank = Math.min(wanted, outer, inner);
  const { u, s, v } = truncatedSvd(hostTensor('float32', [outer, inner], update), rank, random, 1e-10);
  const up = Float32Array.from(u, (value, at) => value * s[Math.floor(at / outer)]!);
  return {
    a: hostTensor('float32', [rank, inner], Float32Array.from(v)),
    b: hostTensor('float32', [outer, rank], transposed(up, rank, outer)),
  };
}

function checked(
  given: readonly Weighted[],
  method: Combination,
  { density, rank = 1 }: { density: number; rank?: number },
): WeightedLora[] {
  const refuse = (what: string) => new FewtuneError('OPTION_INVALID', `combining adapters: ${what}.`);
  if (given.length === 0) throw refuse('there are none');
  if (!combinations.includes(method)) throw refuse(`the method "${method}"; there are ${combinations.join(', ')}`);
  if (!(Number.isInteger(rank) && rank > 0)) throw refuse(`a rank of ${rank}; it is a whole number above 0`);
  const parts = given.map(({ adapter, weight }) => ({
    adapter: asLora(adapter, 'one of the adapters to combine'),
    weight,
  }));
  if (!(density > 0 && density <= 1)) throw refuse(`a density of ${density}; it is a share above 0, at most 1`);
  for (const { adapter, weight } of parts) {
    if (!Number.isFinite(weight)) throw refuse(`a weight of ${weight}`);
    const more = Object.keys({ ...adapter.weights, ...adapter.saved }).find((key) => !/\.lora_[AB]\.weight$/.test(key));
    if (more) throw refuse(`one holds ${more}; only A and B of linear layers can be combined`);
    const [own, first] = [adapter.base?.fingerprint, parts[0]!.adapter.base?.fingerprint];
    if (own && first && own !== first) throw refuse('they were trained on different encoders');
  }
  const shapes = new Map<string, string>();
  for (const { adapter } of parts) {
    for (const [name, { shape }] of Object.entries(adapter.weights)) {
      // Ranks may differ where matrices are set side by side or multiplied out first.
      const free = method === 'cat' || isOfUpdates(method);
      const sizes = free ? String(name.endsWith('lora_A.weight') ? shape[1] : shape[0]) : shape.join(' x ');
      const known = shapes.get(name) ?? sizes;
      if (known !== sizes)
        throw refuse(`${name} is ${known} in one and ${sizes} in another; ${method} needs equal ones`);
      shapes.set(name, sizes);
    }
  }
  return parts;
}
