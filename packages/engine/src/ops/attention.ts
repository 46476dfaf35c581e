import type { Dim } from '../dims.js';
import type { Tensor } from '../tensor.js';
import { add, mul, neg } from './arithmetic.js';
import { greater, where } from './compare.js';
import { arange, concat, slice } from './indexing.js';
import { matMul } from './matmul.js';
import { softmax } from './normalize.js';
import { reshape } from './shape.js';

export interface AttentionOptions {
  /** Added to the scaled scores, broadcasts to [..., queries, keys]: 0 to look at, very low to pass over. */
  readonly bias?: Tensor;
  /** A query sees no key after it. */
  readonly causal?: boolean;
  /** 1/√d when left out. */
  readonly scale?: number;
}

/**
 * softmax(Q Kᵀ · scale + bias) V. Vaswani et al. 2017, equation 1, arXiv:1706.03762.
 *
 * @param q [..., queries, d]
 * @param k [..., keys, d]
 * @param v [..., keys, e]
 * @returns [..., queries, e]
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, { bias, causal, scale }: AttentionOptions = {}): Tensor {
  const alpha = scale ?? 1 / Math.sqrt(q.shape.at(-1) as number);
  let scores = matMul(q, k, { transposeB: true, alpha });
  if (bias) scores = add(scores, bias);
  if (causal) scores = where(laterKeys(q.shape.at(-2)!, k.shape.at(-2)!), -1e9, scores);
  return matMul(softmax(scores), v);
}

/** true where a key stands after the query: bool [queries, keys]. */
function laterKeys(queries: Dim, keys: Dim): Tensor {
  return greater(reshape(arange(keys), [1, keys]), reshape(arange(queries), [queries, 1]));
}

/**
 * Rotary position embedding in the half-split form of Llama. Su et al. 2021, arXiv:2104.09864.
 *
 * @param x        [..., seq, d], d even
 * @param cos, sin [seq, d / 2]
 */
export function rotary(x: Tensor, cosine: Tensor, sine: Tensor): Tensor {
  const width = x.shape.at(-1) as number;
  const axis = x.rank - 1;
  const [first, second] = [slice(x, axis, 0, width / 2), slice(x, axis, width / 2, width)];
  return concat([add(mul(first, cosine), neg(mul(second, sine))), add(mul(second, cosine), mul(first, sine))], axis);
}
