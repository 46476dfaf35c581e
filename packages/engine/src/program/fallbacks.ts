import type { Backend } from '#backend';
import { isSymbolic } from '../dims.js';
import type { Tensor } from '../tensor.js';
import type { Precision } from '../transforms/precision.js';
import type { Emitted } from './emitter.js';

/**
 * What WebGPU has no kernel for in ONNX Runtime 1.30, as operator and element type of its first input. It is not read
 * off the runtime, which says nothing without a profile: test/backends/webgpu-node.test.ts compares it with where every
 * case of the catalogue ran. Sizes, counters and seeds are left out: those few numbers belong on the host.
 */
export const hostOnly: ReadonlySet<string> = new Set([
  'BitShift uint8',
  'BitwiseAnd uint8',
  'BitwiseXor int64',
  'Cast int8',
  'Concat int64',
  'Concat uint8',
  'Equal int64',
  'Greater int64',
  'GreaterOrEqual int64',
  'Less int64',
  'LessOrEqual int64',
  'Mod float32',
  'Mod int64',
  'Or bool',
  'Reshape int8',
  'Unsqueeze uint8',
  'Xor bool',
]);

/** Fewer elements are not worth a word. */
const few = 8;

function isSmall({ shape }: Tensor): boolean {
  return shape.every((dim) => !isSymbolic(dim)) && shape.reduce<number>((n, dim) => n * (dim as number), 1) <= few;
}

/** The operators of a graph that WebGPU leaves to the processor, by name, each once. */
export function fallbacksOf({ model, origins }: Pick<Emitted, 'model' | 'origins'>): string[] {
  const found = new Set<string>();
  for (const { name, opType } of model.graph.node) {
    const node = name === undefined ? undefined : origins.get(name);
    if (!node || node.inputs.length === 0 || node.inputs.every(isSmall)) continue;
    const double = [...node.inputs, ...node.outputs].some(({ dtype }) => dtype === 'float64');
    const { dtype } = node.inputs[0]!;
    if (double) found.add(`${opType} float64`);
    else if (hostOnly.has(`${opType} ${dtype}`)) found.add(`${opType} ${dtype}`);
  }
  return [...found].sort();
}

const said = new Set<string>();

function sayOnce(line: string): void {
  if (said.has(line)) return;
  said.add(line);
  console.warn(`fewtune: ${line}`);
}

/** One line a program for what WebGPU leaves to the processor. */
export function warnOfFallbacks(name: string, emitted: Pick<Emitted, 'model' | 'origins'>): void {
  const fallbacks = fallbacksOf(emitted);
  if (fallbacks.length === 0) return;
  const which = fallbacks.join(', ');
  sayOnce(`in "${name}", WebGPU has no kernel for ${which}: these run on the processor, which costs a copy each way`);
}

/** One line where half precision is asked of a processor, which computes in float32 all the same. */
export function warnOfHalfPrecision(precision: Precision | undefined, backend: Backend | undefined): void {
  const half = precision?.compute === 'float16' || precision?.weight === 'float16';
  if (!half || !(backend === undefined || backend === 'cpu' || backend === 'wasm')) return;
  sayOnce('on a processor half precision brings no speed; frozen weights stored in float16 take half the memory');
}
