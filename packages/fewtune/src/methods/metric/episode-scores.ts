/** How queries are scored against a support set, traced: what metric learning learns through. */
import {
  add,
  cast,
  clip,
  concat,
  div,
  equal,
  exp,
  expand,
  greater,
  linear,
  matMul,
  mean,
  mul,
  type Named,
  reciprocal,
  relu,
  reshape,
  sigmoid,
  softmax,
  sub,
  sum,
  type Tensor,
  where,
} from '@fewtune/engine';
import { unitRows } from './unit-rows.js';

/** Embeddings of a support set. */
export interface SupportSet {
  /** [support, dim] */
  readonly z: Tensor;
  /** float32 [ways, support]: 1 where the row is of the way, else 0. */
  readonly members: Tensor;
}

/**
 * Share of each support row in its way's prototype [ways, support]: equal, or by attention.
 *
 * Attention asks of each row how much it resembles the others of its way: softmax over the way of
 * ⟨z_i, mean of the others⟩ / τ on rows of length 1, so that an outlier loses weight. With one or two rows of a way nobody
 * can be outvoted, and their shares are equal or nearly so.
 */
export function prototypeShares({ z, members }: SupportSet, attentionTemperature?: Tensor): Tensor {
  const counts = sum(members, { axes: [1], keepDims: true }); // [ways, 1]
  if (attentionTemperature === undefined) return div(members, counts);
  const unit = unitRows(z);
  const sums = matMul(members, unit); // [ways, dim]
  const toOwn = (x: Tensor) => matMul(members, x, { transposeA: true }); // [ways, …] → [support, …]
  const others = unitRows(sub(toOwn(sums), unit));
  const agreement = div(sum(mul(unit, others), { axes: [1] }), attentionTemperature); // [support]
  const alone = cast(equal(toOwn(counts), 1), 'float32'); // a single row has no others
  const scores = mul(agreement, sub(1, reshape(alone, [-1])));
  return softmax(where(greater(members, 0), expandTo(scores, members), -1e9), 1);
}

/** [support] → [ways, support] */
const expandTo = (row: Tensor, like: Tensor): Tensor => expand(reshape(row, [1, -1]), like.shape);

/**
 * Weight of each dimension [dim], of mean 1, from the support set alone: 1 / (variance within ways + its mean), so that
 * dimensions in which a way's examples agree count more. With one example a way all are equal.
 */
export function dimensionWeights({ z, members }: SupportSet): Tensor {
  const counts = sum(members, { axes: [1], keepDims: true });
  const centres = matMul(div(members, counts), z);
  const away = sub(z, matMul(members, centres, { transposeA: true }));
  const within = mean(mul(away, away), { axes: [0] }); // [dim]
  const raw = reciprocal(add(within, add(mean(within), 1e-6)));
  return div(raw, mean(raw));
}

/** −‖q − p‖² for each query and prototype, [queries, ways]; a sum over dimensions, times their weights if given. */
export function negativeSquaredDistances(q: Tensor, p: Tensor, weights?: Tensor): Tensor {
  const left = weights ? mul(q, weights) : q;
  const products = matMul(left, p, { transposeB: true, alpha: 2 });
  const ofQueries = sum(mul(left, q), { axes: [1], keepDims: true }); // [queries, 1]
  const ofPrototypes = sum(mul(weights ? mul(p, weights) : p, p), { axes: [1] }); // [ways]
  return sub(sub(products, ofQueries), ofPrototypes);
}

/** Cosine of each query and prototype, [queries, ways]. */
export const cosines = (q: Tensor, p: Tensor): Tensor => matMul(unitRows(q), unitRows(p), { transposeB: true });

/**
 * Matching networks without full-context embeddings: the probability of a way is the attention that a query pays to its
 * support rows, softmax of scaled cosines. Vinyals et al. 2016, section 2.1.1, arXiv:1606.04080.
 *
 * @returns probabilities [queries, ways]
 */
export function matchingProbabilities({ z, members }: SupportSet, q: Tensor, scale: Tensor): Tensor {
  const attention = softmax(mul(cosines(q, z), scale), 1); // [queries, support]
  return clip(matMul(attention, members, { transposeB: true }), 1e-7, 1);
}

/**
 * Relation networks: a small network tells from a query and the mean of a way whether they belong together. Sung et al.
 * 2018, section 3, arXiv:1711.06025; over vectors, so its layers are dense where the paper's convolve.
 *
 * @param weights `relation.0.weight` [hidden, 2 · dim], `relation.0.bias`, `relation.1.weight` [1, hidden], `relation.1.bias`
 * @returns relation scores [queries, ways] in 0..1
 */
export function relationScores(support: SupportSet, q: Tensor, weights: Named<Tensor>): Tensor {
  const p = matMul(prototypeShares(support), support.z); // [ways, dim]
  const [ways, dim] = p.shape as [number | string, number];
  const [queries] = q.shape as [number | string];
  const pairs = concat(
    [
      expand(reshape(p, [1, ways, dim]), [queries, ways, dim]),
      expand(reshape(q, [queries, 1, dim]), [queries, ways, dim]),
    ],
    2,
  );
  const hidden = relu(linear(pairs, weights['relation.0.weight']!, weights['relation.0.bias']!));
  const score = linear(hidden, weights['relation.1.weight']!, weights['relation.1.bias']!); // [queries, ways, 1]
  return sigmoid(reshape(score, [queries, ways]));
}

/** A learned positive number, from its logarithm. */
export const positive = (logarithm: Tensor): Tensor => exp(logarithm);
