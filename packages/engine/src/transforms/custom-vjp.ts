import type { Op, Tensor } from '../tensor.js';
import { apply } from '../tensor.js';

/**
 * A function with a gradient rule of your own, e.g. one that is cheaper or steadier than the derived one, or a
 * straight-through estimator.
 *
 * @param fn       the function; its result may have any shape
 * @param backward cotangents of the arguments from that of the result; undefined where there is none
 * @example
 * const roundThrough = customVjp(round, (_, dy) => [dy]);
 */
export function customVjp<Args extends readonly Tensor[]>(
  fn: (...args: Args) => Tensor,
  backward: (args: Args, cotangent: Tensor) => readonly (Tensor | undefined)[],
): (...args: Args) => Tensor {
  const op: Op = {
    name: 'CustomVjp',
    shape: ([value]) => value!,
    emit: (_context, _node, [value]) => [value!],
    // The value itself gets no cotangent: the derived rule is never asked.
    vjp: ([, ...args], dy) => [undefined, ...backward(args as unknown as Args, dy)],
  };
  return (...args) => apply(op, [fn(...args), ...args]);
}
