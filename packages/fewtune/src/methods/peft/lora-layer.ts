import {
  add,
  div,
  type HostTensor,
  hostTensor,
  linear,
  matMul,
  mul,
  type Named,
  sqrt,
  stopGradient,
  sumSquares,
  type Tensor,
  zeros,
} from '@fewtune/engine';
import { type LinearFn, product } from '@fewtune/models';
import type { Random } from '../../data/random.js';
import { transposed } from './low-rank.js';

export interface LoraOptions {
  readonly rank: number;
  readonly alpha: number;
  /** Last part of the names of adapted layers, e.g. `query`, `value`; or `all-linear`. */
  readonly targets: readonly string[] | 'all-linear';
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
    const a = uniformDown(rank, inner, random);
    params[`${module}.lora_A.weight`] = hostTensor('float32', [rank, inner], a);
    params[`${module}.lora_B.weight`] = zeros('float32', [outer, rank]);
  }
  return params;
}

/** A [rank, inner], uniform in ±1/√in. */
export function uniformDown(rank: number, inner: number, random: Random): Float32Array {
  const bound = 1 / Math.sqrt(inner);
  return Float32Array.from({ length: rank * inner }, () => (2 * random.next() - 1) * bound);
}

/** One factor for every module, or a module's own. */
export type LoraScale = number | ((module: string) => number);

const scaleOf = (scale: LoraScale, module: string) => (typeof scale === 'number' ? scale : scale(module));

/**
 * LoRA: y = x Wᵀ + b + (alpha / r) · x Aᵀ Bᵀ, with W frozen. Hu et al. 2021, section 4.1, arXiv:2106.09685.
 *
 * Where a magnitude m [out] stands beside A and B it is DoRA: y = x W'ᵀ + b with W' = m · (W + (alpha / r) B A) / ‖·‖, norms by row
 * and constant in the gradient. Liu et al. 2024, equations 5 and 11, arXiv:2402.09353.
 *
 * @param params `<module>.lora_A.weight` [r, in] and `<module>.lora_B.weight` [out, r]; perhaps
 *               `<module>.lora_magnitude_vector` [out] and `<module>.lora_B.bias` [out]
 */
export function loraLinear(params: Named<Tensor>, scale: LoraScale): LinearFn {
  return (x, module, weight, bias) => {
    const a = params[`${module}.lora_A.weight`];
    if (!a) return product(x, weight, bias);
    const factor = scaleOf(scale, module);
    // The scale goes to B, which is small, not to the activations.
    const b = mul(params[`${module}.lora_B.weight`]!, factor);
    const own = params[`${module}.lora_B.bias`];
    const shift = own && mul(own, factor);
    const update = linear(linear(x, a), b, shift); // [..., out]
    const magnitude = params[`${module}.lora_magnitude_vector`];
    if (!magnitude) return add(product(x, weight, bias), update);
    const length = stopGradient(sqrt(sumSquares(add(weight, matMul(b, a)), { axes: [1] }))); // [out]
    const turned = mul(add(product(x, weight), update), div(magnitude, length));
    return bias ? add(turned, bias) : turned;
  };
}

/**
 * The plain weights that adapted ones amount to: W + (alpha / r) B A for every adapted module, with DoRA's magnitudes;
 * other weights as they are.
 *
 * @param params as in {@link loraLinear}; for tables of embeddings `<module>.lora_embedding_A` [r, rows] and
 *               `.lora_embedding_B` [width, r]
 */
export function mergeLora(
  weights: Named<HostTensor>,
  params: Named<HostTensor>,
  scale: LoraScale,
): Record<string, HostTensor> {
  const merged: Record<string, HostTensor> = { ...weights };
  for (const [name, a] of Object.entries(params)) {
    const [, module, table] = /^(.*)\.lora_(?:A\.weight|(embedding)_A)$/.exec(name) ?? [];
    if (module === undefined) continue;
    const base = weights[`${module}.weight`]!;
    const factor = scaleOf(scale, module);
    const b = params[table ? `${module}.lora_embedding_B` : `${module}.lora_B.weight`]!;
    const update = table ? multiply(turned(a), turned(b)) : multiply(b, a);
    const own = params[`${module}.lora_B.bias`];
    const magnitude = params[`${module}.lora_magnitude_vector`];
    const data = Float32Array.from(base.data as Float32Array);
    for (let i = 0; i < data.length; i++) data[i]! += factor * update[i]!;
    const length = magnitude && rowNorms(data, base.shape[0]!);
    const rowFactor = (row: number) => (magnitude ? (magnitude.data as Float32Array)[row]! / length![row]! : 1);
    if (magnitude) {
      const inner = base.shape[1]!;
      for (let i = 0; i < data.length; i++) data[i]! *= rowFactor(Math.floor(i / inner));
    }
    merged[`${module}.weight`] = hostTensor('float32', base.shape, data);
    if (own) {
      const bias = (weights[`${module}.bias`]?.data ?? new Float32Array(base.shape[0]!)) as Float32Array;
      const shift = own.data as Float32Array;
      const moved = Float32Array.from(bias, (value, row) => value + factor * shift[row]! * rowFactor(row));
      merged[`${module}.bias`] = hostTensor('float32', [moved.length], moved);
    }
  }
  return merged;
}

/** b [m, r] times a [r, n], row-major, in double precision. */
function multiply(b: HostTensor, a: HostTensor): Float64Array {
  const [outer, rank] = b.shape as [number, number];
  const inner = a.shape[1]!;
  const [up, down] = [b.data as Float32Array, a.data as Float32Array];
  const product = new Float64Array(outer * inner);
  for (let o = 0; o < outer; o++) {
    for (let r = 0; r < rank; r++) {
      const factor = up[o * rank + r]!;
      for (let i = 0; i < inner; i++) product[o * inner + i]! += factor * down[r * inner + i]!;
    }
  }
  return product;
}

function turned({ shape: [rows, columns], data }: HostTensor): HostTensor {
  return hostTensor('float32', [columns!, rows!], transposed(data as Float32Array, rows!, columns!));
}

/** √Σ w² of each row. */
export function rowNorms(data: Float32Array, rows: number): Float32Array {
  const inner = data.length / rows;
  return Float32Array.from({ length: rows }, (_, row) => {
    let sum = 0;
    for (let i = row * inner; i < (row + 1) * inner; i++) sum += data[i]! ** 2;
    return Math.sqrt(sum);
  });
}
