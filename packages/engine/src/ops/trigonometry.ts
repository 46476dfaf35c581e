/** Circular and hyperbolic functions and their inverses; sin, cos and tanh stand in elementwise.ts. */
import type { Tensor } from '../tensor.js';
import { apply } from '../tensor.js';
import { add, div, mul, neg, sub } from './arithmetic.js';
import { sqrt, unaryOp } from './elementwise.js';

const square = (x: Tensor): Tensor => mul(x, x);

const tanOp = unaryOp('Tan', (_, y) => add(square(y), 1));
const asinOp = unaryOp('Asin', (x) => div(1, sqrt(sub(1, square(x)))));
const acosOp = unaryOp('Acos', (x) => neg(div(1, sqrt(sub(1, square(x))))));
const atanOp = unaryOp('Atan', (x) => div(1, add(square(x), 1)));
const sinhOp = unaryOp('Sinh', (x) => cosh(x));
const coshOp = unaryOp('Cosh', (x) => sinh(x));
const asinhOp = unaryOp('Asinh', (x) => div(1, sqrt(add(square(x), 1))));
const acoshOp = unaryOp('Acosh', (x) => div(1, sqrt(sub(square(x), 1))));
const atanhOp = unaryOp('Atanh', (x) => div(1, sub(1, square(x))));

export const tan = (x: Tensor): Tensor => apply(tanOp, [x]);
/** Of elements in [−1, 1]; the gradient has no value at the ends. */
export const asin = (x: Tensor): Tensor => apply(asinOp, [x]);
/** Of elements in [−1, 1]; the gradient has no value at the ends. */
export const acos = (x: Tensor): Tensor => apply(acosOp, [x]);
export const atan = (x: Tensor): Tensor => apply(atanOp, [x]);
export const sinh = (x: Tensor): Tensor => apply(sinhOp, [x]);
export const cosh = (x: Tensor): Tensor => apply(coshOp, [x]);
export const asinh = (x: Tensor): Tensor => apply(asinhOp, [x]);
/** Of elements from 1 on; the gradient has no value at 1. */
export const acosh = (x: Tensor): Tensor => apply(acoshOp, [x]);
/** Of elements in (−1, 1). */
export const atanh = (x: Tensor): Tensor => apply(atanhOp, [x]);
