import { add, div, mul, sub } from '../ops/arithmetic.js';
import { less, maximum, minimum, where } from '../ops/compare.js';
import { cos } from '../ops/elementwise.js';
import type { Tensor } from '../tensor.js';
import { scalar } from '../tensor.js';

/** Learning rate of a step (1 in the first), traced: it is computed inside the step's graph. */
export type Schedule = (step: Tensor) => Tensor;

export const constantRate =
  (lr: number): Schedule =>
  () =>
    scalar(lr);

interface Decay {
  readonly lr: number;
  readonly steps: number;
  /** Steps of linear rise from 0; 0 by default. */
  readonly warmup?: number;
  /** The rate at the end as a share of `lr`; 0 by default. */
  readonly floor?: number;
}

/** Linear rise, then linear fall, as `get_linear_schedule_with_warmup` of transformers has it. */
export const linearDecay = (options: Decay): Schedule => withWarmup(options, (progress) => sub(1, progress));

/** Linear rise, then half a cosine. Loshchilov & Hutter 2017, arXiv:1608.03983. */
export const cosineDecay = (options: Decay): Schedule =>
  withWarmup(options, (progress) => mul(add(cos(mul(progress, Math.PI)), 1), 0.5));

function withWarmup({ lr, steps, warmup = 0, floor = 0 }: Decay, shape: (progress: Tensor) => Tensor): Schedule {
  return (step) => {
    // The n-th step uses the rate at n − 1, as PyTorch's schedulers do.
    const at = sub(step, 1);
    const progress = minimum(maximum(div(sub(at, warmup), Math.max(1, steps - warmup)), 0), 1);
    const falling = add(mul(shape(progress), lr * (1 - floor)), lr * floor);
    return warmup > 0 ? where(less(at, warmup), mul(at, lr / warmup), falling) : falling;
  };
}
