import { product } from '../dims.js';
import { cast, equal } from '../ops/compare.js';
import { arange } from '../ops/indexing.js';
import { reshape } from '../ops/shape.js';
import type { Tensor } from '../tensor.js';
import type { Tree } from '../tree.js';
import { mapTree } from '../tree.js';
import { grad, isTensor } from './grad.js';
import { vjp } from './jvp.js';
import { vmap } from './vmap.js';

/**
 * All derivatives of a function's result by its argument, one reverse pass for each element of the result, all of them
 * as one batch.
 *
 * @returns for each tensor of the argument [...result, ...tensor]
 */
export function jacobian<P extends Tree<Tensor>>(fn: (x: P) => Tensor): (x: P) => P {
  return (x) => {
    const { value, pullBack } = vjp(fn, x);
    const count = product(value.shape);
    const unit = cast(equal(reshape(arange(count), [count, 1]), arange(count)), value.dtype);
    const rows = vmap(pullBack)(reshape(unit, [count, ...value.shape]));
    return mapTree<Tensor, Tensor>(rows, isTensor, (row) => reshape(row, [...value.shape, ...row.shape.slice(1)])) as P;
  };
}

/** Second derivatives of a scalar function of one tensor: [...x, ...x]. */
export const hessian = (fn: (x: Tensor) => Tensor): ((x: Tensor) => Tensor) => jacobian(grad(fn));
