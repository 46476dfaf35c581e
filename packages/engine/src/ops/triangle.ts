import { showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import { hostTensor } from '../host-tensor.js';
import type { Op, Tensor } from '../tensor.js';
import { apply } from '../tensor.js';
import { elementwise } from './batching.js';

const triluOp: Op = {
  name: 'Trilu',
  shape: ([x]) => x!,
  emit: (context, node, [x]) => {
    const { upper, diagonal } = node.attributes as { upper: number; diagonal: number };
    return context.node('Trilu', [x!, context.constant(hostTensor('int64', [], [diagonal]))], { upper });
  },
  vjp: (_, dy, { attributes: { upper, diagonal } }) => [trilu(dy, upper as number, diagonal as number)],
  batch: elementwise,
};

function trilu(x: Tensor, upper: number, diagonal: number): Tensor {
  if (x.rank < 2)
    throw new EngineError('SHAPE_MISMATCH', `a triangle of ${showShape(x.shape)}: rank 2 or more is needed`);
  return apply(triluOp, [x], { upper, diagonal });
}

/** The elements of the last two axes on and above a diagonal (0 the main one, 1 the next above), the others 0. */
export const triu = (x: Tensor, diagonal = 0): Tensor => trilu(x, 1, diagonal);

/** The elements of the last two axes on and below a diagonal, the others 0. */
export const tril = (x: Tensor, diagonal = 0): Tensor => trilu(x, 0, diagonal);
