import { type Dim, knownSizes } from '../dims.js';
import type { DType } from '../host-tensor.js';
import type { Tensor } from '../tensor.js';
import { scalar } from '../tensor.js';
import { customVjp } from '../transforms/custom-vjp.js';
import { add, mul, neg, sub, sum, sumTo } from './arithmetic.js';
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
  const alpha = scale ?? 1 / Math.sqrt(knownSizes('attention', [q.shape.at(-1)!], q.shape)[0]!);
  const unseen = causal ? laterKeys(q.shape.at(-2)!, k.shape.at(-2)!, q.dtype) : undefined;
  const added = bias && unseen ? add(bias, unseen) : (bias ?? unseen);
  return scaledAttention(alpha)(q, k, v, ...(added ? [added] : []));
}

/**
 * Attention with its own gradient. With P the weights, O = P V and dP = dO Vᵀ, that of the scores is P ∘ (dP − Σ dP ∘ P),
 * and Σ dP ∘ P = Σ dO ∘ O over the width of a head instead of all keys (Dao et al. 2022, section 3.1 and appendix B.2,
 * arXiv:2205.14135). P and O are those of the forward pass: equal operators are written once.
 */
function scaledAttention(alpha: number) {
  const weigh = (q: Tensor, k: Tensor, bias?: Tensor) => {
    const scores = matMul(q, k, { transposeB: true, alpha });
    return softmax(bias ? add(scores, bias) : scores);
  };
  return customVjp(
    (...[q, k, v, bias]: readonly Tensor[]) => matMul(weigh(q!, k!, bias), v!),
    ([q, k, v, bias], dO) => {
      const P = weigh(q!, k!, bias);
      const O = matMul(P, v!);
      const dScores = mul(
        P,
        sub(matMul(dO, v!, { transposeB: true }), sum(mul(dO, O), { axes: [-1], keepDims: true })),
      );
      const to = (x: Tensor, dx: Tensor) => sumTo(dx, x.shape, [...O.shape.slice(0, -2), ...x.shape.slice(-2)]);
      return [
        to(q!, matMul(dScores, k!, { alpha })),
        to(k!, matMul(dScores, q!, { transposeA: true, alpha })),
        to(v!, matMul(P, dO, { transposeA: true })),
        ...(bias ? [sumTo(dScores, bias.shape, dScores.shape)] : []),
      ];
    },
  );
}

/**
 * Very low where a key stands after the query, else 0: [queries, keys]. It is added, not chosen by a condition: the
 * backward pass then has nothing to do, as what softmax makes of it is exactly 0.
 */
function laterKeys(queries: Dim, keys: Dim, dtype: DType): Tensor {
  const later = greater(reshape(arange(keys, 'int32'), [1, keys]), reshape(arange(queries, 'int32'), [queries, 1]));
  return where(later, scalar(dtype === 'float16' ? -6e4 : -1e9, dtype), scalar(0, dtype));
}

/**
 * Rotary position embedding in the half-split form of Llama. Su et al. 2021, arXiv:2104.09864.
 *
 * @param x        [..., seq, d], d even
 * @param cos, sin [seq, d / 2]
 */
export function rotary(x: Tensor, cosine: Tensor, sine: Tensor): Tensor {
  const [width] = knownSizes('rotary', [x.shape.at(-1)!], x.shape) as [number];
  const axis = x.rank - 1;
  const [first, second] = [slice(x, axis, 0, width / 2), slice(x, axis, width / 2, width)];
  return concat([add(mul(first, cosine), neg(mul(second, sine))), add(mul(second, cosine), mul(first, sine))], axis);
}
