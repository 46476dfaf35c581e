import { EngineError } from '../../errors.js';
import type { DType, HostTensor } from '../../host-tensor.js';
import { hostTensor, zeros } from '../../host-tensor.js';
import type { Named } from '../../optim/optimizer.js';
import { uniforms } from '../../random.js';
import type { OnnxNode } from '../model.js';
import type { Adapter } from './adapter.js';
import type { NamePattern } from './names.js';
import { namesMatching } from './names.js';
import type { OnnxFunction, Parts } from './onnx-function.js';
import { domainOf } from './table.js';

export interface InsertLoraOptions {
  /**
   * Names or patterns of MatMul and Gemm nodes, of their weights, or of the PyTorch modules they were exported from;
   * every such node when left out.
   */
  readonly targets?: NamePattern;
  /** 8 when left out. */
  readonly rank?: number;
  /** The product of A and B is scaled by alpha / rank; twice the rank when left out. */
  readonly alpha?: number;
  /** Of the start values of A. */
  readonly seed?: number;
}

/** A matrix product with a weight, as LoRA sees it. */
interface Target {
  readonly node: OnnxNode;
  readonly weight: string;
  readonly layout: Adapter['layout'];
  readonly apart: string | undefined;
  readonly inner: number;
  readonly outer: number;
  readonly dtype: DType;
  readonly factor: number;
  readonly names: readonly string[];
}

/**
 * Low-rank adapters at matrix products of a model (Hu et al. 2021, arXiv:2106.09685): y = x W + alpha / rank · x Aᵀ Bᵀ.
 * The result has two more weights at each, `<weight>.lora_A` [rank, in], uniform within ±1/√in (what PEFT starts from),
 * and `<weight>.lora_B` [out, rank], zero: before training it is the same function.
 *
 * @throws EngineError ARGUMENT_INVALID when a pattern matches nothing, with near names
 */
export function insertLora(fn: OnnxFunction, options: InsertLoraOptions = {}): OnnxFunction {
  const { targets: wanted = '*', rank = 8, seed = 0 } = options;
  const { alpha = 2 * rank } = options;
  if (!Number.isInteger(rank) || rank < 1) throw new EngineError('ARGUMENT_INVALID', `a rank of ${rank}`);
  const all = targetsOf(fn.parts);
  const names = [...new Set(all.flatMap((target) => target.names))];
  const chosen = namesMatching(wanted, names, 'MatMul or Gemm node, or weight of one,');
  const random = uniforms(seed);
  const taken = new Set(Object.keys(fn.weights));
  const free = (base: string, end: string) => {
    let name = `${base}.${end}`;
    for (let i = 2; taken.has(name); i++) name = `${base}.${i}.${end}`;
    taken.add(name);
    return name;
  };
  const adapters = all
    .filter((target) => target.names.some((name) => chosen.has(name)))
    .map(({ inner, outer, dtype, names: _, ...target }): Adapter => {
      const [a, b] = [free(target.weight, 'lora_A'), free(target.weight, 'lora_B')];
      const bound = 1 / Math.sqrt(inner);
      const first = Array.from({ length: rank * inner }, () => (2 * random() - 1) * bound);
      const start = { [a]: hostTensor(dtype, [rank, inner], first), [b]: zeros(dtype, [outer, rank]) };
      return { ...target, a, b, scale: alpha / rank, start };
    });
  return fn.withAdapters(adapters);
}

/**
 * The plain weights that a model with adapters amounts to: each W + scale · B A, and whatever else was trained. They are
 * the original file's, for `toOnnx` and `saveOnnx`.
 *
 * @param weights trained values; those left out are as they started
 * @throws EngineError ARGUMENT_INVALID for an adapter beside a weight that is quantised or also used elsewhere
 */
export function mergeLora(fn: OnnxFunction, weights: Named<HostTensor>): Record<string, HostTensor> {
  fn.checkWeights(weights);
  const added = new Set(fn.adapters.flatMap(({ start }) => Object.keys(start)));
  const merged: Record<string, HostTensor> = Object.fromEntries(
    Object.entries(weights).filter(([name]) => !added.has(name)),
  );
  const trained = (name: string, start: Named<HostTensor>) =>
    Object.hasOwn(weights, name) ? weights[name]! : start[name]!;
  for (const { weight, layout, apart, a, b, scale, start, node } of fn.adapters) {
    if (apart) {
      throw new EngineError(
        'ARGUMENT_INVALID',
        `the adapter at node "${node.name || node.output[0]}" cannot be merged into "${weight}", which is ${apart}; write the function with its adapters (toOnnx) instead`,
      );
    }
    const base = Object.hasOwn(merged, weight) ? merged[weight]! : fn.parts.value(weight);
    merged[weight] = plusProduct(base, trained(a, start), trained(b, start), scale, layout);
  }
  return merged;
}

/** W + scale · (B A)ᵀ for W [in, out], or W + scale · B A for W [out, in]. */
function plusProduct(
  base: HostTensor,
  a: HostTensor,
  b: HostTensor,
  scale: number,
  layout: 'in-out' | 'out-in',
): HostTensor {
  const [rank, inner] = a.shape as [number, number];
  const outer = b.shape[0]!;
  const data = base.data.slice() as Float32Array;
  const [down, up] = [a.data as Float32Array, b.data as Float32Array];
  const row = new Float64Array(inner);
  for (let o = 0; o < outer; o++) {
    row.fill(0);
    for (let r = 0; r < rank; r++) {
      const factor = up[o * rank + r]! * scale;
      for (let i = 0; i < inner; i++) row[i]! += factor * down[r * inner + i]!;
    }
    for (let i = 0; i < inner; i++) data[layout === 'in-out' ? i * outer + o : o * inner + i]! += row[i]!;
  }
  return { ...base, data };
}

/** Every product with a weight: the weight is an initialiser, or one turned, converted or widened before. */
function targetsOf(parts: Parts): Target[] {
  const makers = new Map(parts.nodes.flatMap((node) => node.output.map((name) => [name, node] as const)));
  const users = new Map<string, number>();
  for (const name of parts.nodes.flatMap(({ input }) => input)) users.set(name, (users.get(name) ?? 0) + 1);
  return parts.nodes.flatMap((node): Target[] => {
    const type = domainOf(node.domain) === '' ? node.opType : '';
    if (type !== 'MatMul' && type !== 'Gemm') return [];
    if (node.attribute?.some(({ name, i }) => name === 'transA' && i)) return [];
    const turned = node.attribute?.some(({ name, i }) => name === 'transB' && i) ?? false;
    const source = sourceOf(node.input[1] ?? '', makers, users, parts);
    if (!source) return [];
    const outIn = turned !== source.swapped;
    const [inner, outer] = outIn ? [source.shape[1]!, source.shape[0]!] : [source.shape[0]!, source.shape[1]!];
    const alpha = node.attribute?.find(({ name }) => name === 'alpha')?.f ?? 1;
    const names = [source.weight, node.input[1]!, node.name ?? '', moduleOf(node)].filter((name) => name !== '');
    const { weight, dtype, apart } = source;
    return [{ node, weight, layout: outIn ? 'out-in' : 'in-out', apart, inner, outer, dtype, factor: alpha, names }];
  });
}

/** The module that PyTorch's exporter says a node is from: its newer form renames weights, and keeps that beside. */
function moduleOf(node: OnnxNode): string {
  const scopes = node.metadataProps?.find(({ key }) => key === 'pkg.torch.onnx.name_scopes')?.value ?? '';
  return [...scopes.matchAll(/'([^']*)'/g)].at(-2)?.[1] ?? '';
}

interface Source {
  readonly weight: string;
  readonly shape: readonly number[];
  readonly dtype: DType;
  /** It reaches the product with its two axes swapped. */
  readonly swapped: boolean;
  readonly apart: string | undefined;
}

function sourceOf(
  name: string,
  makers: ReadonlyMap<string, OnnxNode>,
  users: ReadonlyMap<string, number>,
  parts: Parts,
): Source | undefined {
  let at = name;
  let swapped = false;
  let apart: string | undefined;
  for (let steps = 0; steps < 8; steps++) {
    if ((users.get(at) ?? 0) > 1) apart = 'also used elsewhere in the graph';
    const info = parts.weights.get(at);
    if (info) {
      if (info.shape.length !== 2 || info.dtype === 'float16') return undefined;
      const float = info.dtype === 'float32' || info.dtype === 'float64';
      if (!float) apart = 'quantised';
      return { weight: at, shape: info.shape, dtype: float ? (info.dtype as DType) : 'float32', swapped, apart };
    }
    const maker = makers.get(at);
    const type = maker && domainOf(maker.domain) === '' ? maker.opType : '';
    if (type === 'Transpose') {
      const perm = maker!.attribute?.find(({ name: key }) => key === 'perm')?.ints ?? [1, 0];
      if (perm.length !== 2) return undefined;
      if (perm[0] === 1) swapped = !swapped;
    } else if (type !== 'DequantizeLinear' && type !== 'Identity') return undefined;
    at = maker!.input[0] ?? '';
  }
  return undefined;
}
