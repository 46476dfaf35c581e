import {
  add,
  arange,
  cast,
  div,
  equal,
  logSoftmax,
  matMul,
  maximum,
  mul,
  neg,
  reshape,
  sub,
  sum,
  type Tensor,
} from '@fewtune/engine';

/**
 * Supervised contrastive loss with every positive of the batch: L_i = −1/|P(i)| Σ_{p ∈ P(i)} log softmax_{a ≠ i}(z_i·z_a / τ)_p,
 * averaged over the anchors that have a positive. Khosla et al. 2020, equation 2, arXiv:2004.11362.
 *
 * @param z      [batch, hidden], rows of length 1
 * @param labels int64 [batch]
 */
export function supervisedContrastive(z: Tensor, labels: Tensor, temperature: number): Tensor {
  const [batch] = z.shape as [number | string];
  const rows = arange(batch);
  const same = (x: Tensor) => cast(equal(reshape(x, [-1, 1]), reshape(x, [1, -1])), 'float32'); // [batch, batch]
  const self = same(rows);
  const positive = sub(same(labels), self);
  // −1e9 on the diagonal: a sentence is not compared with itself.
  const similarity = add(matMul(z, z, { transposeB: true, alpha: 1 / temperature }), mul(self, -1e9));
  const count = sum(positive, { axes: [1] }); // [batch]
  // The diagonal's −1e9 is multiplied by a positive of 0 and drops out.
  const picked = sum(mul(logSoftmax(similarity), positive), { axes: [1] });
  const perAnchor = div(picked, maximum(count, 1));
  const anchors = sum(cast(cast(count, 'bool'), 'float32'));
  return neg(div(sum(perAnchor), maximum(anchors, 1)));
}
