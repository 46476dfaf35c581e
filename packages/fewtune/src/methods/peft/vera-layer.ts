import { add, type HostTensor, hostTensor, linear, mul, type Named, slice, type Tensor, zeros } from '@fewtune/engine';
import { type LinearFn, product } from '@fewtune/models';
import type { Random } from '../../data/random.js';
import { FewtuneError } from '../../errors.js';
import { linearsMeant, type Targets } from './targets.js';

export interface VeraSettings {
  readonly rank: number;
  readonly targets: Targets;
}

/** What is trained, and the two random matrices that all layers share and nothing trains. */
export interface VeraStart {
  /** `<module>.vera_lambda_d` [r] and `<module>.vera_lambda_b` [out] */
  readonly params: Record<string, HostTensor>;
  /** `vera_A` [r, widest in] and `vera_B` [widest out, r] */
  readonly shared: Record<string, HostTensor>;
}

/** Of λ_d at the start, as in the paper and in PEFT. */
const firstD = 0.1;

/**
 * VeRA at its start: λ_b is zero, so that each layer equals its base.
 *
 * @throws FewtuneError OPTION_INVALID when a target means no layer
 */
export function startVera(weights: Named<HostTensor>, { rank, targets }: VeraSettings, random: Random): VeraStart {
  const modules = linearsMeant(weights, targets, 'vera');
  const sizes = modules.map((module) => weights[`${module}.weight`]!.shape as [number, number]);
  const outer = Math.max(...sizes.map(([out]) => out));
  const inner = Math.max(...sizes.map(([, input]) => input));
  if (rank > Math.min(outer, inner)) {
    throw new FewtuneError('OPTION_INVALID', `vera: a rank of ${rank}; the widest layers are ${outer} x ${inner}.`);
  }
  const params: Record<string, HostTensor> = {};
  for (const [i, module] of modules.entries()) {
    params[`${module}.vera_lambda_d`] = hostTensor('float32', [rank], new Float32Array(rank).fill(firstD));
    params[`${module}.vera_lambda_b`] = zeros('float32', [sizes[i]![0]]);
  }
  // Kaiming's uniform: ±√(6 / fan-in).
  const drawn = (rows: number, columns: number) => {
    const bound = Math.sqrt(6 / columns);
    const data = Float32Array.from({ length: rows * columns }, () => (2 * random.next() - 1) * bound);
    return hostTensor('float32', [rows, columns], data);
  };
  return { params, shared: { vera_A: drawn(rank, inner), vera_B: drawn(outer, rank) } };
}

/**
 * VeRA: y = x Wᵀ + b + λ_b · ((λ_d · (x Aᵀ)) Bᵀ), where A and B are random, frozen and shared by all layers: each takes
 * its first columns of A and rows of B. Kopiczko et al. 2024, equation 2, arXiv:2310.11454.
 *
 * @param params as in {@link VeraStart}, both parts together
 */
export function veraLinear(params: Named<Tensor>): LinearFn {
  return (x, module, weight, bias) => {
    const base = product(x, weight, bias);
    const d = params[`${module}.vera_lambda_d`];
    if (!d) return base;
    const [outer, inner] = weight.shape as [number, number];
    const a = slice(params.vera_A!, 1, 0, inner); // [r, in]
    const b = slice(params.vera_B!, 0, 0, outer); // [out, r]
    return add(base, mul(linear(mul(linear(x, a), d), b), params[`${module}.vera_lambda_b`]!));
  };
}

/** W + Λ_b B Λ_d A for every adapted module; other weights as they are. */
export function mergeVera(weights: Named<HostTensor>, params: Named<HostTensor>): Record<string, HostTensor> {
  const merged: Record<string, HostTensor> = { ...weights };
  const numbers = (name: string) => params[name]!.data as Float32Array;
  for (const name of Object.keys(params)) {
    if (!name.endsWith('.vera_lambda_d')) continue;
    const module = name.slice(0, -'.vera_lambda_d'.length);
    const { shape, data } = weights[`${module}.weight`]!;
    const [outer, inner] = shape as [number, number];
    const [a, b, d, rows] = [numbers('vera_A'), numbers('vera_B'), numbers(name), numbers(`${module}.vera_lambda_b`)];
    const [rank, width] = params.vera_A!.shape as [number, number];
    const moved = Float64Array.from(data as Float32Array);
    for (let o = 0; o < outer; o++) {
      for (let r = 0; r < rank; r++) {
        const factor = rows[o]! * b[o * rank + r]! * d[r]!;
        if (factor === 0) continue;
        for (let i = 0; i < inner; i++) moved[o * inner + i]! += factor * a[r * width + i]!;
      }
    }
    merged[`${module}.weight`] = hostTensor('float32', shape, Float32Array.from(moved));
  }
  return merged;
}
