import { zeros } from '../host-tensor.js';
import { add, mul, neg, sub } from '../ops/arithmetic.js';
import type { Tensor } from '../tensor.js';
import type { Optimizer } from './optimizer.js';

export interface SgdOptions {
  readonly momentum?: number;
  readonly nesterov?: boolean;
  /** L2 penalty added to the gradient, as in PyTorch. */
  readonly weightDecay?: number;
  /** Climb instead of descend. */
  readonly maximize?: boolean;
}

/** Stochastic gradient descent with momentum, in PyTorch's form: v ← μ v + g, p ← p − lr v. */
export function sgd({ momentum = 0, nesterov = false, weightDecay = 0, maximize = false }: SgdOptions = {}): Optimizer {
  return {
    init: (params) =>
      momentum === 0
        ? {}
        : Object.fromEntries(Object.entries(params).map(([name, p]) => [`${name}/velocity`, zeros(p.dtype, p.shape)])),
    update: (gradients, state, params, { lr }) => {
      const newParams: Record<string, Tensor> = {};
      const newState: Record<string, Tensor> = {};
      for (const [name, p] of Object.entries(params)) {
        const g = add(maximize ? neg(gradients[name]!) : gradients[name]!, weightDecay === 0 ? 0 : mul(p, weightDecay));
        let direction = g;
        if (momentum !== 0) {
          const velocity = add(mul(state[`${name}/velocity`]!, momentum), g);
          newState[`${name}/velocity`] = velocity;
          direction = nesterov ? add(g, mul(velocity, momentum)) : velocity;
        }
        newParams[name] = sub(p, mul(direction, lr));
      }
      return { params: newParams, state: newState };
    },
  };
}
