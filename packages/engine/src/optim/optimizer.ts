import type { HostTensor } from '../host-tensor.js';
import type { Tensor } from '../tensor.js';

export type Named<T> = Readonly<Record<string, T>>;

export interface StepContext {
  /** Learning rate of this step, float32 scalar. */
  readonly lr: Tensor;
  /** 1 in the first step, float32 scalar. */
  readonly step: Tensor;
}

/** A pair of pure functions, as in Optax: what to remember, and how weights and memory change. */
export interface Optimizer {
  init(params: Named<HostTensor>): Named<HostTensor>;
  /** All of it is traced: it becomes part of the step's graph. */
  update(
    gradients: Named<Tensor>,
    state: Named<Tensor>,
    params: Named<Tensor>,
    at: StepContext,
  ): {
    params: Named<Tensor>;
    state: Named<Tensor>;
  };
}
