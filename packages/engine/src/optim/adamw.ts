import { zeros } from '../host-tensor.js';
import { add, div, mul, sub } from '../ops/arithmetic.js';
import { exp, sqrt } from '../ops/elementwise.js';
import type { Tensor } from '../tensor.js';
import type { Optimizer } from './optimizer.js';

export interface AdamWOptions {
  readonly beta1?: number;
  readonly beta2?: number;
  readonly epsilon?: number;
  /** Decoupled decay, per step times the learning rate. */
  readonly weightDecay?: number;
  /** Which weights decay; all of them when left out. */
  readonly decays?: (name: string) => boolean;
  /** A factor on the learning rate of a weight; 1 when left out. */
  readonly lrScale?: (name: string) => number;
}

/**
 * AdamW with bias correction, in PyTorch's order of operations. Loshchilov & Hutter 2019, algorithm 2, arXiv:1711.05101.
 */
export function adamW(options: AdamWOptions = {}): Optimizer {
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0.01 } = options;
  const { decays = () => true, lrScale = () => 1 } = options;
  return {
    init: (params) =>
      Object.fromEntries(
        Object.entries(params).flatMap(([name, p]) => [
          [`${name}/m`, zeros(p.dtype, p.shape)],
          [`${name}/v`, zeros(p.dtype, p.shape)],
        ]),
      ),
    update: (gradients, state, params, { lr, step }) => {
      const newParams: Record<string, Tensor> = {};
      const newState: Record<string, Tensor> = {};
      // Scalars first: what they can take over costs nothing per weight.
      const correction1 = sub(1, exp(mul(step, Math.log(beta1))));
      const correction2 = sqrt(sub(1, exp(mul(step, Math.log(beta2)))));
      const rate = div(lr, correction1);
      for (const [name, p] of Object.entries(params)) {
        const g = gradients[name]!;
        const m = add(mul(state[`${name}/m`]!, beta1), mul(g, 1 - beta1));
        const v = add(mul(state[`${name}/v`]!, beta2), mul(mul(g, g), 1 - beta2));
        const direction = div(m, add(div(sqrt(v), correction2), epsilon));
        const scale = lrScale(name);
        const kept = weightDecay > 0 && decays(name) ? mul(p, sub(1, mul(lr, weightDecay * scale))) : p;
        newParams[name] = sub(kept, mul(direction, mul(rate, scale)));
        newState[`${name}/m`] = m;
        newState[`${name}/v`] = v;
      }
      return { params: newParams, state: newState };
    },
  };
}
