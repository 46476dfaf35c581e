import { cast, type Dim, div, matMul, maximum, reshape, slice, sum, type Tensor } from '@fewtune/engine';

export type Pooling = 'mean' | 'cls';

/**
 * One vector a text: the mean over real tokens, or the first token's.
 *
 * @param hidden        [batch, seq, hidden]
 * @param attentionMask int64 [batch, seq]
 * @returns [batch, hidden], not normalised
 */
export function pool(hidden: Tensor, attentionMask: Tensor, pooling: Pooling): Tensor {
  const [batch, seq, width] = hidden.shape as [Dim, Dim, Dim];
  switch (pooling) {
    case 'cls':
      return reshape(slice(hidden, 1, 0, 1), [batch, width]);
    case 'mean': {
      const mask = cast(attentionMask, 'float32');
      const total = reshape(matMul(reshape(mask, [batch, 1, seq]), hidden), [batch, width]);
      return div(total, maximum(sum(mask, { axes: [1], keepDims: true }), 1e-9)); // a row of padding only gives 0
    }
    default:
      return pooling satisfies never;
  }
}
