import { type HostTensor, hostTensor, type Named, zeros } from '@fewtune/engine';
import type { Random } from '../../data/random.js';
import { FewtuneError } from '../../errors.js';
import { adaptedModules, adapterScale, type LoraAdapter } from './adapter.js';
import { mergeLora, rowNorms, uniformDown } from './lora-layer.js';
import { type LowRank, orthonormal, products, transposed, truncatedSvd } from './low-rank.js';
import { linearsMeant, namesMeant, ownOf, savedWeights, type Targets } from './targets.js';

export const loraInits = ['uniform', 'gaussian', 'pissa', 'olora'] as const;
export type LoraInit = (typeof loraInits)[number];

export interface LoraSettings {
  readonly rank: number;
  readonly alpha: number;
  readonly targets: Targets;
  readonly rsLora?: boolean;
  readonly dora?: boolean;
  readonly init?: LoraInit;
  /** Ranks and alphas of some modules; the first that means a module counts. */
  readonly ranks?: Readonly<Record<string, number>>;
  readonly alphas?: Readonly<Record<string, number>>;
  /** A [r, in] of modules, instead of `init`'s, e.g. of {@link evaDirections}. */
  readonly down?: Named<HostTensor>;
  /** Modules of which every weight is trained whole, e.g. `LayerNorm`. */
  readonly saved?: Targets;
}

/** An adapter before its training, and the weights that it stands on: with PiSSA and OLoRA not the encoder's own. */
export interface LoraStart {
  readonly adapter: LoraAdapter;
  readonly base: Record<string, HostTensor>;
}

/**
 * LoRA at its start, where base and adapter together equal the encoder.
 *
 * `uniform` is PEFT's: A uniform in ±1/√in, B zero; `gaussian`: A normal with deviation 1/r. `pissa` takes the largest r
 * singular values of W into B A and leaves the rest frozen (Meng et al. 2024, equations 2 to 4, arXiv:2404.02948); `olora`
 * takes the first r columns of a QR decomposition (Büyükakyüz 2024, arXiv:2406.01775).
 *
 * @throws FewtuneError OPTION_INVALID when a target means no layer, with near names
 */
export function startLora(weights: Named<HostTensor>, settings: LoraSettings, random: Random): LoraStart {
  const { rank, alpha, rsLora, dora, init = 'uniform', ranks = {}, alphas = {} } = settings;
  const modules = linearsMeant(weights, settings.targets, 'lora');
  namesMeant([...Object.keys(ranks), ...Object.keys(alphas)], modules, 'lora: no adapted layer');

  const matrices: Record<string, HostTensor> = {};
  const alphaPattern: Record<string, number> = {};
  for (const module of modules) {
    const weight = weights[`${module}.weight`]!;
    const r = ownOf(ranks, module, rank);
    const a = ownOf(alphas, module, alpha);
    if (a !== alpha) alphaPattern[module] = a;
    const scale = a / (rsLora ? Math.sqrt(r) : r);
    const { down, up } = matricesOf(init, weight, r, scale, random);
    const given = settings.down?.[module];
    matrices[`${module}.lora_A.weight`] = given ?? hostTensor('float32', [r, weight.shape[1]!], down);
    matrices[`${module}.lora_B.weight`] = hostTensor('float32', [weight.shape[0]!, r], up);
  }
  const adapter: LoraAdapter = {
    method: 'lora',
    rank,
    alpha,
    ...(rsLora && { rsLora }),
    ...(Object.keys(alphaPattern).length > 0 && { alphaPattern }),
    weights: matrices,
  };
  const scaleOf = (module: string) => adapterScale(adapter, module);
  // W − s B A: merging with the scale turned round.
  const base =
    init === 'pissa' || init === 'olora' ? mergeLora(weights, matrices, (module) => -scaleOf(module)) : { ...weights };
  if (dora) {
    const whole = mergeLora(base, matrices, scaleOf);
    for (const module of modules) {
      const { shape, data } = whole[`${module}.weight`]!;
      const norms = rowNorms(data as Float32Array, shape[0]!);
      matrices[`${module}.lora_magnitude_vector`] = hostTensor('float32', [shape[0]!], norms);
    }
  }
  const saved = settings.saved === undefined ? {} : savedWeights(weights, settings.saved, modules, 'lora');
  return { adapter: { ...adapter, ...(Object.keys(saved).length > 0 && { saved }) }, base };
}

/**
 * A trained adapter as an ordinary one over the encoder's own weights. Where the start took B₀A₀ out of them (PiSSA,
 * OLoRA), it has twice the rank: s (B A − B₀A₀) = s [B, −B₀] [A; A₀], which is what PEFT makes of such adapters too.
 */
export function overEncoder(
  trained: LoraAdapter,
  { adapter: start, base }: LoraStart,
  weights: Named<HostTensor>,
): LoraAdapter {
  const moved = adaptedModules(start).filter((module) => base[`${module}.weight`] !== weights[`${module}.weight`]);
  if (moved.length === 0) return trained;
  const joined: Record<string, HostTensor> = { ...trained.weights };
  for (const module of moved) {
    const [aName, bName] = [`${module}.lora_A.weight`, `${module}.lora_B.weight`];
    const [a, b, a0, b0] = [
      trained.weights[aName]!,
      trained.weights[bName]!,
      start.weights[aName]!,
      start.weights[bName]!,
    ];
    const [rank, inner] = a.shape as [number, number];
    const down = new Float32Array(2 * rank * inner);
    down.set(a.data as Float32Array);
    down.set(a0.data as Float32Array, rank * inner);
    const outer = b.shape[0]!;
    const up = Float32Array.from({ length: outer * 2 * rank }, (_, at) => {
      const [row, column] = [Math.floor(at / (2 * rank)), at % (2 * rank)];
      return column < rank ? (b.data[row * rank + column] as number) : -(b0.data[row * rank + column - rank] as number);
    });
    joined[aName] = hostTensor('float32', [2 * rank, inner], down);
    joined[bName] = hostTensor('float32', [outer, 2 * rank], up);
  }
  // Twice the rank: the scale stays with twice alpha, or √2 times it.
  const factor = trained.rsLora ? Math.SQRT2 : 2;
  const alphaPattern = Object.entries(trained.alphaPattern ?? {}).map(([key, alpha]) => [key, alpha * factor]);
  return {
    ...trained,
    rank: 2 * trained.rank,
    alpha: trained.alpha * factor,
    ...(alphaPattern.length > 0 && { alphaPattern: Object.fromEntries(alphaPattern) }),
    weights: joined,
  };
}

/** A [r, in] and B [out, r]. */
function matricesOf(init: LoraInit, weight: HostTensor, rank: number, scale: number, random: Random) {
  const [outer, inner] = weight.shape as [number, number];
  const zeroUp = zeros('float32', [outer, rank]).data as Float32Array;
  switch (init) {
    case 'uniform':
      return { down: uniformDown(rank, inner, random), up: zeroUp };
    case 'gaussian':
      return { down: Float32Array.from({ length: rank * inner }, () => random.gaussian() / rank), up: zeroUp };
    case 'pissa':
      return pissa(truncatedSvd(weight, rank, random), outer, inner, rank, scale);
    case 'olora':
      return olora(weight, rank);
    default:
      return init satisfies never;
  }
}

/** A = √(S / scale) Vᵀ, B = U √(S / scale). */
function pissa({ u, s, v }: LowRank, outer: number, inner: number, rank: number, scale: number) {
  const root = s.map((value) => Math.sqrt(value / scale));
  const down = Float32Array.from(v, (value, at) => value * root[Math.floor(at / inner)]!);
  const up = Float32Array.from(u, (value, at) => value * root[Math.floor(at / outer)]!);
  return { down, up: transposed(up, rank, outer) };
}

/** B = Q_r and A = R_r of W = Q R, which is Q_rᵀ W; Q_r comes from the first r columns alone. */
function olora(weight: HostTensor, rank: number) {
  const [outer, inner] = weight.shape as [number, number];
  if (rank > Math.min(outer, inner)) {
    throw new FewtuneError('OPTION_INVALID', `lora: init olora needs a rank of at most ${Math.min(outer, inner)}.`);
  }
  const columns = transposed(weight.data as Float32Array, outer, inner); // [in, out]
  const q = orthonormal(Float64Array.from(columns.subarray(0, rank * outer)), rank); // [r, out]
  return {
    down: Float32Array.from(products(columns, inner, outer, q, rank)), // [r, in]
    up: transposed(Float32Array.from(q), rank, outer),
  };
}
