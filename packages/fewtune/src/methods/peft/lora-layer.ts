import { add, type HostTensor, hostTensor, linear, mul, type Named, type Tensor, zeros } from '@fewtune/engine';
import type { LinearFn } from '@fewtune/models';
import type { Random } from '../../data/random.js';

export interface LoraOptions {
  readonly rank: number;
  readonly alpha: number;
  /** Last part of the names of adapted layers, e.g. `query`, `value`; or `all-linear`. */
  readonly targets: readonly string[] | 'all-linear';
}

/** The linear layers of an encoder that `targets` name, by their module's name. */
export function loraTargets(weights: Named<HostTensor>, targets: LoraOptions['targets']): string[] {
  return Object.keys(weights)
    .filter((name) => name.endsWith('.weight') && weights[name]!.shape.length === 2 && !/embedding|pooler/.test(name))
    .map((name) => name.slice(0, -'.weight'.length))
    .filter(
      (module) =>
        targets === 'all-linear' || targets.some((target) => module === target || module.endsWith(`.${target}`)),
    );
}

/** A uniform in ±1/√in (PyTorch's Kaiming uniform with a = √5, as PEFT has it), B zero: the start equals the base. */
export function initLora(
  weights: Named<HostTensor>,
  modules: readonly string[],
  rank: number,
  random: Random,
): Record<string, HostTensor> {
  const params: Record<string, HostTensor> = {};
  for (const module of modules) {
    const [outer, inner] = weights[`${module}.weight`]!.shape as [number, number];
    const bound = 1 / Math.sqrt(inner);
    const a = Float32Array.from({ length: rank * inner }, () => (2 * random.next() - 1) * bound);
    params[`${module}.lora_A.weight`] = hostTensor('float32', [rank, inner], a);
    params[`${module}.lora_B.weight`] = zeros('float32', [outer, rank]);
  }
  return params;
}

/**
 * LoRA: y = x Wᵀ + b + (alpha / r) · x Aᵀ Bᵀ, with W frozen. Hu et al. 2021, section 4.1, arXiv:2106.09685.
 *
 * @param params `<module>.lora_A.weight` [r, in] and `<module>.lora_B.weight` [out, r]
 */
export function loraLinear(params: Named<Tensor>, scale: number): LinearFn {
  return (x, module, weight, bias) => {
    const base = linear(x, weight, bias);
    const a = params[`${module}.lora_A.weight`];
    if (!a) return base;
    // The scale goes to B, which is small, not to the activations.
    const b = mul(params[`${module}.lora_B.weight`]!, scale);
    return add(base, linear(linear(x, a), b)); // [..., out]
  };
}

/** W + (alpha / r) B A for every adapted module; other weights as they are. */
export function mergeLora(
  weights: Named<HostTensor>,
  params: Named<HostTensor>,
  scale: number,
): Record<string, HostTensor> {
  const merged: Record<string, HostTensor> = { ...weights };
  for (const [name, a] of Object.entries(params)) {
    if (!name.endsWith('.lora_A.weight')) continue;
    const module = name.slice(0, -'.lora_A.weight'.length);
    const base = weights[`${module}.weight`]!;
    const [outer, inner] = base.shape as [number, number];
    const rank = a.shape[0]!;
    const down = a.data as Float32Array;
    const up = params[`${module}.lora_B.weight`]!.data as Float32Array;
    const data = Float32Array.from(base.data as Float32Array);
    for (let o = 0; o < outer; o++) {
      for (let r = 0; r < rank; r++) {
        const factor = scale * up[o * rank + r]!;
        for (let i = 0; i < inner; i++) data[o * inner + i]! += factor * down[r * inner + i]!;
      }
    }
    merged[`${module}.weight`] = hostTensor('float32', [outer, inner], data);
  }
  return merged;
}
