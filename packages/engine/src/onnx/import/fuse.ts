/** Products that exporters write out and the engine has as one operator, with a gradient in fewer passes. */
import { mul } from '../../ops/arithmetic.js';
import { gelu } from '../../ops/elementwise.js';
import type { Tensor } from '../../tensor.js';
import { constantValue } from '../../tensor.js';

/** The single number behind a constant. */
function numberOf(tensor: Tensor): number | undefined {
  const value = constantValue(tensor);
  return value?.data.length === 1 && value.dtype === 'float32' ? Number(value.data[0]) : undefined;
}

const close = (a: number | undefined, b: number) => a !== undefined && Math.abs(a - b) < 1e-5 * Math.abs(b);

const operandsOf = (tensor: Tensor, type: string) => (tensor.node.op.name === type ? tensor.node.inputs : undefined);

/** x, if the tensor is 1 + erf(x / √2), its parts in any order. */
function insideGate(tensor: Tensor): Tensor | undefined {
  const sum = operandsOf(tensor, 'Add');
  const one = sum?.findIndex((part) => numberOf(part) === 1) ?? -1;
  const scaled = sum && one >= 0 ? operandsOf(sum[1 - one]!, 'Erf')?.[0] : undefined;
  if (!scaled) return undefined;
  const ratio = operandsOf(scaled, 'Div');
  if (ratio) return close(numberOf(ratio[1]!), Math.SQRT2) ? ratio[0] : undefined;
  const product = operandsOf(scaled, 'Mul');
  const factor = product?.findIndex((part) => close(numberOf(part), Math.SQRT1_2)) ?? -1;
  return product && factor >= 0 ? product[1 - factor] : undefined;
}

/** a · b, or GELU where it is x · 1/2 · (1 + erf(x / √2)) in any order. Hendrycks & Gimpel 2016, arXiv:1606.08415. */
export function product(a: Tensor, b: Tensor): Tensor {
  const outer = [a, b];
  for (const [i, part] of outer.entries()) {
    const inner = operandsOf(part, 'Mul');
    if (!inner) continue;
    const factors = [outer[1 - i]!, ...inner];
    const x = factors.map(insideGate).find((found) => found !== undefined);
    const half = factors.some((factor) => numberOf(factor) === 0.5);
    if (x && half && x.dtype === 'float32' && factors.includes(x)) return gelu(x);
  }
  return mul(a, b);
}
