import { add, div, mul } from '../ops/arithmetic.js';
import { minimum } from '../ops/compare.js';
import { sqrt } from '../ops/elementwise.js';
import { sumSquares } from '../ops/reduce.js';
import type { Tensor } from '../tensor.js';
import { scalar } from '../tensor.js';
import type { Named } from './optimizer.js';

/** Euclidean norm over all elements of all tensors. */
export function globalNorm(tensors: readonly Tensor[]): Tensor {
  const squares = tensors.map((tensor) => sumSquares(tensor));
  return sqrt(squares.reduce((a, b) => add(a, b), scalar(0)));
}

/**
 * Scales all gradients so that their global norm is at most `limit`, as `clip_grad_norm_` of PyTorch does.
 *
 * @param factor the gradients are first multiplied by it, at no cost: both factors meet in one product
 */
export function clipByGlobalNorm(
  gradients: Named<Tensor>,
  limit: number,
  factor: Tensor | number = 1,
): { gradients: Named<Tensor>; norm: Tensor } {
  const norm = mul(globalNorm(Object.values(gradients)), factor);
  const share = mul(minimum(div(limit, add(norm, 1e-6)), 1), factor);
  return {
    norm,
    gradients: Object.fromEntries(Object.entries(gradients).map(([name, g]) => [name, mul(g, share)])),
  };
}
