import { sameShape } from '../dims.js';
import { EngineError } from '../errors.js';
import { zeros } from '../host-tensor.js';
import { add, alignLeft, expand } from '../ops/arithmetic.js';
import { isFloat } from '../ops/compare.js';
import { identity } from '../ops/control.js';
import { withSource } from '../source.js';
import type { Node } from '../tensor.js';
import { constant, scalar, Tensor } from '../tensor.js';
import type { Tree } from '../tree.js';
import { mapTree } from '../tree.js';
import { nodesBetween } from './graph.js';

export const isTensor = (value: unknown): value is Tensor => value instanceof Tensor;

/**
 * Gradients of a scalar with respect to some of the values it was made from (reverse mode). What does not lie between
 * the two is never visited: a frozen trunk costs nothing.
 */
export function gradients(loss: Tensor, wrt: readonly Tensor[]): Tensor[] {
  if (loss.rank !== 0 || !isFloat(loss.dtype)) {
    throw new EngineError('ARGUMENT_INVALID', `only a float scalar has a gradient, not ${loss.dtype} [${loss.shape}]`);
  }
  return pullBack([loss], [scalar(1, loss.dtype)], wrt);
}

/** Cotangents of `wrt` from cotangents of `outputs`: vᵀ J, the product of reverse mode. */
export function pullBack(outputs: readonly Tensor[], seeds: readonly Tensor[], wrt: readonly Tensor[]): Tensor[] {
  return reached(outputs, seeds, wrt).map((cotangent, i) => {
    const { dtype, shape } = wrt[i]!;
    if (cotangent) return materialize(cotangent, wrt[i]!);
    const zero = zeros(
      dtype,
      shape.map(() => 1),
    );
    return expand(constant(zero), shape);
  });
}

/** The same, undefined where no path leads, and with size 1 where a cotangent does not differ along an axis. */
export function reached(
  outputs: readonly Tensor[],
  seeds: readonly Tensor[],
  wrt: readonly Tensor[],
): (Tensor | undefined)[] {
  const cotangents = new Map<Tensor, Tensor>();
  const accumulate = (tensor: Tensor, cotangent: Tensor) => {
    const sum = cotangents.get(tensor);
    cotangents.set(tensor, sum ? add(sum, cotangent) : cotangent);
  };
  for (const [i, output] of outputs.entries()) accumulate(output, seeds[i]!);
  const path = nodesBetween(new Set(wrt), outputs, ({ op }) => op.name !== 'StopGradient');
  for (const node of path.reverse()) {
    const own = node.outputs.map((output) => cotangents.get(output));
    if (own.every((cotangent) => cotangent === undefined)) continue;
    withSource(node.source, () => {
      for (const [i, cotangent] of applyRule(node, own).entries()) {
        const input = node.inputs[i]!;
        if (cotangent && isFloat(input.dtype)) accumulate(input, cotangent);
      }
    });
  }
  return wrt.map((tensor) => cotangents.get(tensor));
}

function applyRule(node: Node, cotangents: readonly (Tensor | undefined)[]): readonly (Tensor | undefined)[] {
  const { op, inputs, outputs, attributes } = node;
  if (op.vjp === 'none') {
    if (outputs.every((output) => !isFloat(output.dtype))) return [];
    throw new EngineError(
      'NOT_DIFFERENTIABLE',
      `${op.name} has no gradient; wrap its input in stopGradient if it needs none`,
    );
  }
  const full = op.acceptsBroadcastCotangent
    ? cotangents
    : cotangents.map((cotangent, i) => cotangent && materialize(cotangent, outputs[i]!));
  const first = full.find((cotangent) => cotangent !== undefined)!;
  return op.vjp(inputs, full[0] ?? first, { outputs, attributes, cotangents: full });
}

/** Gives a broadcast-shaped cotangent its whole shape. */
function materialize(cotangent: Tensor, like: Tensor): Tensor {
  return sameShape(cotangent.shape, like.shape) ? cotangent : expand(alignLeft(cotangent, like.rank), like.shape);
}

/** `{ value, gradient }` of a function that returns a scalar, with respect to its first argument (any tree). */
export function valueAndGrad<P extends Tree<Tensor>, Args extends unknown[]>(
  fn: (params: P, ...args: Args) => Tensor,
): (params: P, ...args: Args) => { value: Tensor; gradient: P } {
  return (params, ...args) => {
    // Fresh leaves: a parameter may itself be a traced value, and the gradient stops at it.
    const inner = mapTree<Tensor, Tensor>(params, isTensor, identity) as P;
    const wrt: Tensor[] = [];
    mapTree<Tensor, void>(inner, isTensor, (leaf) => void wrt.push(leaf));
    const value = fn(inner, ...args);
    const found = gradients(value, wrt);
    let next = 0;
    const gradient = mapTree<Tensor, Tensor>(inner, isTensor, () => found[next++]!) as P;
    return { value, gradient };
  };
}

/** The gradient of a scalar function with respect to its first argument; itself traceable, so `grad(grad(f))` works. */
export function grad<P extends Tree<Tensor>, Args extends unknown[]>(
  fn: (params: P, ...args: Args) => Tensor,
): (params: P, ...args: Args) => P {
  return (params, ...args) => valueAndGrad(fn)(params, ...args).gradient;
}
