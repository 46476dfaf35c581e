import { zeros } from '../host-tensor.js';
import { expand } from '../ops/arithmetic.js';
import { identity } from '../ops/control.js';
import { constant, type Tensor } from '../tensor.js';
import type { Tree } from '../tree.js';
import { leaves, mapTree } from '../tree.js';
import { isTensor, pullBack } from './grad.js';

/**
 * The derivative along a direction, J v (forward mode), beside the value. It is the reverse product of a reverse
 * product, which is linear in its cotangent (Townsend 2017, "A new trick for calculating Jacobian vector products"), so
 * every operator with a gradient has it, and nothing of the first reverse pass is left in the graph that does not count.
 *
 * @param primals  any tree of float tensors
 * @param tangents the same tree: the direction
 */
export function jvp<P extends Tree<Tensor>>(
  fn: (primals: P) => Tensor,
  primals: P,
  tangents: P,
): { value: Tensor; tangent: Tensor } {
  const inner = mapTree<Tensor, Tensor>(primals, isTensor, identity) as P;
  const wrt = leaves<Tensor>(inner, isTensor).map(([, tensor]) => tensor);
  const directions = leaves<Tensor>(tangents, isTensor).map(([, tensor]) => tensor);
  const value = fn(inner);
  const one = zeros(
    value.dtype,
    value.shape.map(() => 1),
  );
  const cotangent = identity(expand(constant(one), value.shape)); // any value: what follows is linear in it
  const pulled = pullBack([value], [cotangent], wrt);
  const [tangent] = pullBack(pulled, directions, [cotangent]);
  return { value, tangent: tangent! };
}

/** The reverse product: the value, and a function from its cotangent to those of the primals. */
export function vjp<P extends Tree<Tensor>>(
  fn: (primals: P) => Tensor,
  primals: P,
): { value: Tensor; pullBack: (cotangent: Tensor) => P } {
  const inner = mapTree<Tensor, Tensor>(primals, isTensor, identity) as P;
  const wrt = leaves<Tensor>(inner, isTensor).map(([, tensor]) => tensor);
  const value = fn(inner);
  return {
    value,
    pullBack: (cotangent) => {
      const found = pullBack([value], [cotangent], wrt);
      let next = 0;
      return mapTree<Tensor, Tensor>(inner, isTensor, () => found[next++]!) as P;
    },
  };
}
