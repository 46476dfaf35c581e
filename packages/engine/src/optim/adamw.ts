import { zeros } from '../host-tensor.js';
import { add, div, mul, sub } from '../ops/arithmetic.js';
import { exp, sqrt } from '../ops/elementwise.js';
import type { Tensor } from '../tensor.js';
import type { Optimizer } from './optimizer.js';
import { updateTogether } from './together.js';

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
  /** Climb instead of descend. */
  readonly maximize?: boolean;
}

/**
 * AdamW with bias correction. Loshchilov & Hutter 2019, algorithm 2, arXiv:1711.05101; the result is PyTorch's.
 *
 * The moments are kept without their factors, M = m / (1 − β₁) and V = v / (1 − β₂), so that a running sum is one
 * product and one sum. Factors and corrections then meet in two scalars, which cost nothing per weight:
 * lr · m̂ / (√v̂ + ε) = rate · M / (√V + shift) with rate = lr (1 − β₁) / (1 − β₁ᵗ) · s, shift = ε s,
 * s = √((1 − β₂ᵗ) / (1 − β₂)).
 */
export function adamW(options: AdamWOptions = {}): Optimizer {
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0.01 } = options;
  const { decays = () => true, lrScale = () => 1, maximize = false } = options;
  return {
    init: (params) =>
      Object.fromEntries(
        Object.entries(params).flatMap(([name, p]) => [
          [`${name}/first`, zeros(p.dtype, p.shape)],
          [`${name}/second`, zeros(p.dtype, p.shape)],
        ]),
      ),
    update: (gradients, state, params, { lr, step }) => {
      const remaining = (beta: number) => sub(1, exp(mul(step, Math.log(beta)))); // 1 − βᵗ
      const s = sqrt(mul(remaining(beta2), 1 / (1 - beta2)));
      const rate = mul(div(mul(lr, 1 - beta1), remaining(beta1)), s);
      const shift = mul(s, epsilon);
      const updated = updateTogether(
        Object.keys(params),
        (name) => `${decays(name)} ${lrScale(name)}`,
        (name) => [params[name]!, gradients[name]!, state[`${name}/first`]!, state[`${name}/second`]!],
        ([p, g, oldFirst, oldSecond], name) => {
          const first = maximize ? sub(mul(oldFirst!, beta1), g!) : add(mul(oldFirst!, beta1), g!);
          const second = add(mul(oldSecond!, beta2), mul(g!, g!));
          const scale = lrScale(name);
          const kept = weightDecay > 0 && decays(name) ? mul(p!, sub(1, mul(lr, weightDecay * scale))) : p!;
          // The runtime computes what stands first of a sum first: the decayed weight, for large tables, only then.
          return [add(mul(div(first, add(sqrt(second), shift)), mul(rate, -scale)), kept), first, second];
        },
      );
      const newParams: Record<string, Tensor> = {};
      const newState: Record<string, Tensor> = {};
      for (const [name, [p, first, second]] of updated) {
        newParams[name] = p!;
        newState[`${name}/first`] = first!;
        newState[`${name}/second`] = second!;
      }
      return { params: newParams, state: newState };
    },
  };
}
