import type { HostTensor } from '@fewtune/engine';
import { type Adapter, adaptedModules, adapterScale, type LoraAdapter } from './adapter.js';
import { isOwn, ownConfig } from './own-files.js';
import { writePeftConfig } from './peft-config.js';

/** How two adapters differ in one place: a module, for LoRA, else a tensor. */
export interface AdapterDifference {
  readonly name: string;
  /** Length of what each adds (its update, all its numbers as one vector); absent where it adds nothing there. */
  readonly a?: number;
  readonly b?: number;
  /** Length of the difference, and the cosine between the two; only where both are. */
  readonly difference?: number;
  readonly cosine?: number;
}

export interface AdapterDiff {
  /** What is compared: `updates` scale · B A of two LoRA adapters, or the `tensors` as they are stored. */
  readonly of: 'updates' | 'tensors';
  readonly places: readonly AdapterDifference[];
  /** The same for all places together. */
  readonly whole: AdapterDifference;
  /** Fields of `adapter_config.json` that differ, by their names there. */
  readonly config: Readonly<Record<string, readonly [a: unknown, b: unknown]>>;
}

/** Compares two adapters. Updates are compared without multiplying them out: all products are of the size of the ranks. */
export function diffAdapters(a: Adapter, b: Adapter): AdapterDiff {
  const asUpdates = isPlain(a) && isPlain(b);
  const sums = asUpdates ? updateSums(a, b) : tensorSums(a, b);
  const total = (key: keyof Sums) => [...sums.values()].reduce((sum, own) => sum + (own[key] ?? 0), 0);
  const whole = { aa: total('aa'), ab: total('ab'), bb: total('bb') };
  return {
    of: asUpdates ? 'updates' : 'tensors',
    places: [...sums].map(([name, own]) => described(name, own)),
    whole: described('', whole),
    config: configDifferences(a, b),
  };
}

/** Inner products of what two adapters add: a·a, a·b, b·b. */
interface Sums {
  readonly aa?: number;
  readonly ab?: number;
  readonly bb?: number;
}

function described(name: string, { aa, ab, bb }: Sums): AdapterDifference {
  const own = { name, ...(aa !== undefined && { a: Math.sqrt(aa) }), ...(bb !== undefined && { b: Math.sqrt(bb) }) };
  if (aa === undefined || bb === undefined || ab === undefined) return own;
  const difference = Math.sqrt(Math.max(0, aa - 2 * ab + bb));
  const lengths = Math.sqrt(aa * bb);
  return { ...own, difference, ...(lengths > 0 && { cosine: ab / lengths }) };
}

/** LoRA of A and B of linear layers alone. */
const isPlain = (adapter: Adapter): adapter is LoraAdapter =>
  adapter.method === 'lora' && Object.keys(adapter.weights).every((key) => /\.lora_[AB]\.weight$/.test(key));

function updateSums(a: LoraAdapter, b: LoraAdapter): Map<string, Sums> {
  const modules = [...new Set([...adaptedModules(a), ...adaptedModules(b)])];
  return new Map(
    modules.map((module) => {
      const [x, y] = [factorsOf(a, module), factorsOf(b, module)];
      const both = x && y && x.a.shape[1] === y.a.shape[1] && x.b.shape[0] === y.b.shape[0];
      return [
        module,
        { ...(x && { aa: inner(x, x) }), ...(y && { bb: inner(y, y) }), ...(both && { ab: inner(x, y) }) },
      ];
    }),
  );
}

interface Factors {
  readonly a: HostTensor;
  readonly b: HostTensor;
  readonly scale: number;
}

function factorsOf(adapter: LoraAdapter, module: string): Factors | undefined {
  const [a, b] = [adapter.weights[`${module}.lora_A.weight`], adapter.weights[`${module}.lora_B.weight`]];
  return a && b && { a, b, scale: adapterScale(adapter, module) };
}

/** ⟨s B A, t D C⟩ = s t Σᵢⱼ (Bᵀ D)ᵢⱼ (A Cᵀ)ᵢⱼ. */
function inner(x: Factors, y: Factors): number {
  const [r, q] = [x.a.shape[0]!, y.a.shape[0]!];
  const [width, outer] = [x.a.shape[1]!, x.b.shape[0]!];
  const [a, b, c, d] = [x.a, x.b, y.a, y.b].map(({ data }) => data as Float32Array) as [
    Float32Array,
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  let total = 0;
  for (let i = 0; i < r; i++) {
    for (let j = 0; j < q; j++) {
      let [up, down] = [0, 0];
      for (let o = 0; o < outer; o++) up += b[o * r + i]! * d[o * q + j]!;
      for (let n = 0; n < width; n++) down += a[i * width + n]! * c[j * width + n]!;
      total += up * down;
    }
  }
  return x.scale * y.scale * total;
}

function tensorSums(a: Adapter, b: Adapter): Map<string, Sums> {
  const [own, other] = [
    { ...a.weights, ...a.saved },
    { ...b.weights, ...b.saved },
  ];
  return new Map(
    [...new Set([...Object.keys(own), ...Object.keys(other)])].map((name) => {
      const [x, y] = [own[name], other[name]];
      const both = x && y && x.shape.join() === y.shape.join();
      return [name, { ...(x && { aa: dot(x, x) }), ...(y && { bb: dot(y, y) }), ...(both && { ab: dot(x, y) }) }];
    }),
  );
}

const dot = (x: HostTensor, y: HostTensor): number => {
  const [a, b] = [x.data as Float32Array, y.data as Float32Array];
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
};

function configDifferences(a: Adapter, b: Adapter): Record<string, readonly [unknown, unknown]> {
  const config = (adapter: Adapter) => (isOwn(adapter) ? ownConfig(adapter) : writePeftConfig(adapter));
  const [own, other] = [a, b].map((adapter) => JSON.parse(config(adapter)) as Record<string, unknown>) as [
    Record<string, unknown>,
    Record<string, unknown>,
  ];
  const names = [...new Set([...Object.keys(own), ...Object.keys(other)])];
  const differing = names.filter((name) => JSON.stringify(own[name]) !== JSON.stringify(other[name]));
  return Object.fromEntries(differing.map((name) => [name, [own[name] ?? null, other[name] ?? null] as const]));
}
