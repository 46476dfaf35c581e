import { crossEntropy, grad, mul, type Named, sub, type Tensor } from '@fewtune/engine';
import type { Conv4 } from '@fewtune/models';

export const channels = 64;
export const blocks = 4;

export interface Task {
  readonly supportImages: Tensor;
  readonly supportLabels: Tensor;
  readonly queryImages: Tensor;
  readonly queryLabels: Tensor;
}

/** Outer loss of one task. MAML: Finn et al. 2017, algorithm 2, arXiv:1703.03400. */
export function mamlLoss(
  { forward }: Pick<Conv4, 'forward'>,
  params: Named<Tensor>,
  task: Task,
  { steps, lr }: { steps: number; lr: number },
): Tensor {
  const inner = (fast: Named<Tensor>) => crossEntropy(forward(fast, task.supportImages), task.supportLabels);
  let fast = params;
  for (let step = 0; step < steps; step++) {
    const gradient = grad(inner)(fast);
    fast = Object.fromEntries(Object.entries(fast).map(([name, p]) => [name, sub(p, mul(gradient[name]!, lr))]));
  }
  return crossEntropy(forward(fast, task.queryImages), task.queryLabels);
}
