import type { Op, Tensor } from '../tensor.js';
import { apply } from '../tensor.js';
import type { Operand } from './arithmetic.js';
import { binaryOp, div, mul, neg, operands, sub, sumTo } from './arithmetic.js';
import { isFloat } from './compare.js';
import { floor, trunc } from './elementwise.js';

// y = a − b trunc(a / b)  =>  da = dy, db = −dy trunc(a / b)
const remainderOp: Op = binaryOp('Mod', ([a, b], dy, { outputs: [y] }) => [
  sumTo(dy, a!.shape, y!.shape),
  sumTo(neg(mul(dy, trunc(div(a!, b!)))), b!.shape, y!.shape),
]);

/**
 * Remainder of a division, with the sign of the divisor as in Python; with `truncated` that of the dividend, as in C and
 * JavaScript. The gradient passes where the quotient does not jump.
 */
export function mod(a: Operand, b: Operand, { truncated = false }: { truncated?: boolean } = {}): Tensor {
  const [x, y] = operands(a, b);
  // ONNX's operator has the first meaning for whole numbers only, the second for all.
  if (truncated || !isFloat(x.dtype)) return apply(remainderOp, [x, y], { fmod: Number(truncated) });
  return sub(x, mul(y, floor(div(x, y))));
}
