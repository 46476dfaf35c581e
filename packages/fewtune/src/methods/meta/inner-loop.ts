import { grad, mul, type Named, stopGradient, sub, type Tensor } from '@fewtune/engine';

export interface InnerLoopOptions {
  readonly steps: number;
  /** Learning rate of a weight in a step (0 first): a number, or a tensor that broadcasts over the weight. */
  readonly rate: (name: string, step: number) => number | Tensor;
  /** Which weights are adapted; all of them when left out. */
  readonly adapted?: (name: string) => boolean;
  /** Takes the inner gradient as a constant: what is differentiated through the loop is then first order. */
  readonly firstOrder?: boolean;
}

/**
 * Gradient descent inside a traced function: θ ← θ − α ∇L(θ), kept as a function of the weights it began with, so that
 * whoever differentiates what it returns differentiates through the descent. Finn et al. 2017, equation 1,
 * arXiv:1703.03400. The variants of MAML are choices of `adapted`, `rate` and `firstOrder`.
 *
 * @param loss    scalar, of weights under the names of `weights`, in a step (0 first)
 * @param weights all weights; those that are not adapted are passed on as they are
 * @returns the weights before the first step and after each: steps + 1 of them
 */
export function innerLoop(
  loss: (weights: Named<Tensor>, step: number) => Tensor,
  weights: Named<Tensor>,
  { steps, rate, adapted = () => true, firstOrder = false }: InnerLoopOptions,
): Named<Tensor>[] {
  const fixed = Object.fromEntries(Object.entries(weights).filter(([name]) => !adapted(name)));
  let fast: Named<Tensor> = Object.fromEntries(Object.entries(weights).filter(([name]) => adapted(name)));
  const trajectory = [weights];
  const gradientOf = grad((own: Named<Tensor>, step: number) => loss({ ...fixed, ...own }, step));
  for (let step = 0; step < steps; step++) {
    const gradient = gradientOf(fast, step);
    const moved = Object.entries(fast).map(([name, p]): [string, Tensor] => {
      const g = firstOrder ? stopGradient(gradient[name]!) : gradient[name]!;
      return [name, sub(p, mul(g, rate(name, step)))];
    });
    fast = Object.fromEntries(moved);
    trajectory.push({ ...fixed, ...fast });
  }
  return trajectory;
}
