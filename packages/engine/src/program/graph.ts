import type { Backend } from '../backends/types.js';
import type { Node, Tensor } from '../tensor.js';
import { isPlaceholder } from '../tensor.js';
import type { Emitted } from './emitter.js';
import { emitTraced } from './emitter.js';
import { warnOfFallbacks } from './fallbacks.js';

/** A traced program, kept so that it can be looked at: printed, profiled, measured, searched for numbers gone wrong. */
export interface TracedGraph {
  readonly name: string;
  /** Placeholders by the name they are fed under. */
  readonly inputs: Readonly<Record<string, Tensor>>;
  readonly outputs: Readonly<Record<string, Tensor>>;
  /** Where it runs, if that is known. */
  readonly backend?: Backend;
}

export function emitGraph({ name, inputs, outputs, backend }: TracedGraph): Emitted {
  const emitted = emitTraced(inputs, outputs, { name, backend });
  if (backend === 'webgpu') warnOfFallbacks(name, emitted);
  return emitted;
}

/**
 * The operators that a graph computes, in the order in which they are written: what no output needs is left out, and of
 * equal ones all but the first.
 */
export function writtenNodes({ names, origins }: Emitted): Node[] {
  const computed = new Set(origins.values());
  return [...new Set([...names.keys()].map(({ node }) => node))].filter(
    (node) => computed.has(node) && !isPlaceholder(node),
  );
}
