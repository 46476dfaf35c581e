import { add, div, grad, mul, type Named, sub, sum, type Tensor } from '@fewtune/engine';

const dot = (a: Named<Tensor>, b: Named<Tensor>): Tensor =>
  Object.keys(a)
    .map((name) => sum(mul(a[name]!, b[name]!)))
    .reduce((x, y) => add(x, y));

/** a + factor · b, name by name. */
const plus = (a: Named<Tensor>, b: Named<Tensor>, factor: Tensor): Named<Tensor> =>
  Object.fromEntries(Object.keys(a).map((name) => [name, add(a[name]!, mul(b[name]!, factor))]));

/**
 * The gradient of an outer loss with respect to θ, where the adapted weights minimise loss(φ) + λ/2 ‖φ − θ‖²: the
 * solution g of (I + H/λ) g = v, H the Hessian of the inner loss at the adapted weights and v the outer loss's gradient
 * there. By conjugate gradients, with products H p instead of H. Rajeswaran et al. 2019, algorithm 2, arXiv:1909.04630.
 */
export function implicitGradient(
  loss: (weights: Named<Tensor>) => Tensor,
  outer: (weights: Named<Tensor>) => Tensor,
  adapted: Named<Tensor>,
  { proximal, iterations = 5 }: { proximal: number; iterations?: number },
): Named<Tensor> {
  const hessianTimes = (p: Named<Tensor>) => grad((at: Named<Tensor>) => dot(grad(loss)(at), p))(adapted);
  const tiny = 1e-30; // where the residual is 0 already, 0 / 0 would be NaN
  let residual = grad(outer)(adapted);
  let direction = residual;
  let squared = dot(residual, residual);
  let solution: Named<Tensor> = Object.fromEntries(Object.entries(residual).map(([name, r]) => [name, mul(r, 0)]));
  for (let i = 0; i < iterations; i++) {
    const curved = hessianTimes(direction);
    const image = Object.fromEntries(
      Object.entries(direction).map(([name, p]) => [name, add(p, div(curved[name]!, proximal))]),
    );
    const step = div(squared, add(dot(direction, image), tiny));
    solution = plus(solution, direction, step);
    residual = plus(residual, image, sub(0, step));
    const next = dot(residual, residual);
    direction = plus(residual, direction, div(next, add(squared, tiny)));
    squared = next;
  }
  return solution;
}
