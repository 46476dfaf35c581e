/** Low-rank adapters beside matrix products of an imported graph. */
import type { HostTensor } from '../../host-tensor.js';
import { add, mul } from '../../ops/arithmetic.js';
import { matMul } from '../../ops/matmul.js';
import type { Named } from '../../optim/optimizer.js';
import { constant, Tensor } from '../../tensor.js';
import type { OnnxNode } from '../model.js';
import type { Value } from './value.js';

/** One adapter: y = x (W + scale · Aᵀ Bᵀ). Hu et al. 2021, section 4.1, arXiv:2106.09685. */
export interface Adapter {
  readonly node: OnnxNode;
  /** The initialiser that the product's weight is, or is made of. */
  readonly weight: string;
  /** How the initialiser lies. */
  readonly layout: 'in-out' | 'out-in';
  /** Why the adapter cannot be merged into the initialiser, if so. */
  readonly apart: string | undefined;
  /** Names of A [rank, in] and B [out, rank]. */
  readonly a: string;
  readonly b: string;
  readonly scale: number;
  /** The product's own factor (alpha of a Gemm). */
  readonly factor: number;
  /** What they start from: B is zero, so that the function is unchanged. */
  readonly start: Named<HostTensor>;
}

/** Adds what the adapters make to the results of their nodes. */
export function adapted(adapters: readonly Adapter[], weights: Named<Tensor | HostTensor>) {
  const byNode = new Map<OnnxNode, Adapter[]>();
  for (const adapter of adapters) byNode.set(adapter.node, [...(byNode.get(adapter.node) ?? []), adapter]);
  const traced = (name: string, start: Named<HostTensor>): Tensor => {
    const given = Object.hasOwn(weights, name) ? weights[name]! : start[name]!;
    return given instanceof Tensor ? given : constant(given, name);
  };
  return (node: OnnxNode, outputs: Tensor[], inputs: readonly (Value | undefined)[]): Tensor[] => {
    const own = byNode.get(node);
    if (!own) return outputs;
    const x = inputs[0]!.tensor;
    return [
      own.reduce((y, { a, b, scale, factor, start }) => {
        const down = matMul(x, traced(a, start), { transposeB: true }); // [..., rank]
        return add(y, mul(matMul(down, traced(b, start), { transposeB: true }), scale * factor));
      }, outputs[0]!),
    ];
  };
}
