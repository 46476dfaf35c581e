import { sum } from '../ops/arithmetic.js';
import { alignExample } from '../ops/batching.js';
import { cast } from '../ops/compare.js';
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
  const op = ruleOp((args, cotangent) => backward(args as Args, cotangent));
  return (...args) => apply(op, [fn(...args), ...args]);
}

/** [value, ...args] -> value, with a gradient rule for the arguments. */
function ruleOp(backward: (args: readonly Tensor[], cotangent: Tensor) => readonly (Tensor | undefined)[]): Op {
  return {
    name: 'CustomVjp',
    shape: ([value]) => value!,
    emit: (_context, _node, [value]) => [value!],
    // The value itself gets no cotangent: the derived rule is never asked.
    vjp: ([, ...args], dy) => [undefined, ...backward(args, dy)],
    lower: (wrap) => {
      const lowered = wrap(([dy, ...args]) => backward(args, dy!));
      return ruleOp((args, dy) =>
        lowered([dy, ...args]).map((cotangent, i) => cotangent && cast(cotangent, args[i]!.dtype)),
      );
    },
    batch: ([, ...args], { node, batched, full, map }) => {
      // The rule is one for an example; over the batch it is mapped, and what the examples share gets the sum.
      const [, ...which] = batched;
      const mapped = ruleOp((given, dy) =>
        map(([one, ...rest]) => backward(rest, one!), [dy, ...given], [true, ...which]).map(
          (cotangent, i) => cotangent && (which[i] ? cotangent : sumOver(cotangent, node.inputs[i + 1]!)),
        ),
      );
      return apply(mapped, [full(0), ...args]);
    },
  };
}

/** The sum over a batch of cotangents of one shared value; they may have size 1 where it has not. */
function sumOver(cotangents: Tensor, shared: Tensor): Tensor {
  return sum(alignExample(cotangents, shared.rank), { axes: [0] });
}
