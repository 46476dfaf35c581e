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

/** Scales all gradients so that their global norm is at most `limit`, as `clip_grad_norm_` of PyTorch does. */
export function clipByGlobalNorm(gradients: Named<Tensor>, limit: number): { gradients: Named<Tensor>; norm: Tensor } {
  const norm = globalNorm(Object.values(gradients));
  const factor = minimum(div(limit, add(norm, 1e-6)), 1);
  return {
    norm,
    gradients: Object.fromEntries(Object.entries(gradients).map(([name, g]) => [name, mul(g, factor)])),
  };
}
