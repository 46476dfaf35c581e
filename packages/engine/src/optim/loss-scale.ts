import type { HostTensor } from '../host-tensor.js';
import { hostTensor, zeros } from '../host-tensor.js';
import { add, mul } from '../ops/arithmetic.js';
import { greater, where } from '../ops/compare.js';
import type { Tensor } from '../tensor.js';
import type { Named } from './optimizer.js';

/** Defaults are those of PyTorch's GradScaler, with a smaller start. */
export interface LossScaleOptions {
  /** 2¹⁵ when left out. */
  readonly init?: number;
  /** After so many good steps in a row the scale grows; 2000 when left out. */
  readonly growthInterval?: number;
  /** By this factor; 2 when left out. */
  readonly growth?: number;
  /** After an overflow it shrinks by this factor; 0.5 when left out. */
  readonly backoff?: number;
}

/**
 * Dynamic loss scaling (Micikevicius et al. 2018, section 3.2, arXiv:1710.03740): the backward pass starts from the scale
 * instead of from 1, so that small float16 gradients do not vanish, and the scale follows what the gradients can bear.
 *
 * @returns the state: the scale, and how many good steps there were since it changed
 */
export function startLossScale({ init = 2 ** 15 }: LossScaleOptions): Record<string, HostTensor> {
  return { 'scale/value': hostTensor('float32', [], [init]), 'scale/good': zeros('int64', []) };
}

/** The state after a step. @param finite bool scalar: no gradient was infinite or NaN */
export function nextLossScale(state: Named<Tensor>, finite: Tensor, options: LossScaleOptions): Record<string, Tensor> {
  const { growthInterval = 2000, growth = 2, backoff = 0.5 } = options;
  const scale = state['scale/value']!;
  const good = add(state['scale/good']!, 1);
  const grows = greater(good, growthInterval - 1);
  return {
    'scale/value': where(finite, where(grows, mul(scale, growth), scale), mul(scale, backoff)),
    'scale/good': where(finite, where(grows, mul(good, 0), good), mul(good, 0)),
  };
}
