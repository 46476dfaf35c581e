import { FewtuneError } from '../../errors.js';
import { type LinearHead, selectRows } from '../linear/logistic.js';
import { classMeans, type LabelledFeatures } from './class-means.js';
import { choleskySolveRows, shrunkCholesky } from './covariance.js';
import { gramRows, productRows, spreadSolver, transposed } from './spread-solver.js';

/**
 * Linear discriminant analysis: score_c(x) = m_cᵀ Σ⁻¹ x − ½ m_cᵀ Σ⁻¹ m_c + log π_c, Σ the covariance within classes shrunk towards
 * the identity (Friedman 1989), π the shares of the classes in the support. The prototypes of `metric: 'lda'` point the same
 * way and drop the lengths and the shares. Labels are believed: a wrong one spoils Σ (`attentionPrototypeHead` doubts them).
 *
 * @param shrinkage λ, above 0 to 1
 * @throws FewtuneError OPTION_INVALID for a shrinkage outside that, LABEL_UNKNOWN for a class without rows
 */
export function ldaHead(data: LabelledFeatures, shrinkage: number): LinearHead {
  if (!(shrinkage > 0 && shrinkage <= 1)) {
    throw new FewtuneError('OPTION_INVALID', `shrinkage is above 0 to 1, not ${shrinkage}`);
  }
  const { hidden, classes, labels } = data;
  const sizes = classSizes(data);
  const means = classMeans(data, false);
  const weight = spreadSolver(data, shrinkage)(means);
  const bias = Float32Array.from({ length: classes }, (_, c) => {
    let squared = 0;
    for (let j = c * hidden; j < (c + 1) * hidden; j++) squared += weight[j]! * means[j]!;
    return Math.log(sizes[c]! / labels.length) - squared / 2;
  });
  return { weight: Float32Array.from(weight), bias };
}

/**
 * Nearest class by a Mahalanobis distance of its own: logit_c(x) = −½ (x − m_c)ᵀ Q_c⁻¹ (x − m_c),
 * Q_c = λ_c Σ_c + (1 − λ_c) Σ + β (trace Σ / hidden) I, λ_c = n_c / (n_c + 1), Σ_c the covariance of the class and Σ that of the whole
 * support. Simple CNAPS, Bateni et al. 2020, section 4.1, arXiv:1912.03432, where β I is absolute with β = 1: it is
 * measured here in the mean variance of the support, so that the scale of the features does not matter.
 * Quadratic in x, so it is no linear head: the function it returns gives logits [rows, classes].
 *
 * @throws FewtuneError OPTION_INVALID for a ridge that is not above 0, LABEL_UNKNOWN for a class without rows
 */
export function mahalanobisHead(data: LabelledFeatures, ridge = 1): (features: Float32Array) => Float32Array {
  if (!(ridge > 0)) throw new FewtuneError('OPTION_INVALID', `the ridge is above 0, not ${ridge}`);
  const { hidden, classes, features, labels } = data;
  const sizes = classSizes(data);
  const means = classMeans(data, false);
  const total = scaledResiduals(features, hidden); // Dᵀ D is the covariance of all rows
  const variance = total.reduce((sum, value) => sum + value ** 2, 0) / hidden;
  const floor = ridge * Math.max(variance, 1e-12);
  const metrics = Array.from({ length: classes }, (_, c) => {
    const rows = [...labels.keys()].filter((i) => labels[i] === c);
    const own = scaledResiduals(selectRows(features, hidden, Int32Array.from(rows)), hidden);
    const share = sizes[c]! / (sizes[c]! + 1);
    // Q = floor I + Uᵀ U, inverted on the rows of U (Woodbury) where they are fewer than the dimensions.
    const u = new Float64Array(own.length + total.length);
    own.forEach((value, k) => {
      u[k] = Math.sqrt(share) * value;
    });
    total.forEach((value, k) => {
      u[own.length + k] = Math.sqrt(1 - share) * value;
    });
    return inverseForm(u, floor, hidden);
  });
  return (queries) => {
    const rows = queries.length / hidden;
    const out = new Float32Array(rows * classes);
    metrics.forEach((squared, c) => {
      const offsets = Float64Array.from(queries, (value, k) => value - means[c * hidden + (k % hidden)]!);
      squared(offsets).forEach((value, i) => {
        out[i * classes + c] = -value / 2;
      });
    });
    return out;
  };
}

/** d ↦ dᵀ (floor I + Uᵀ U)⁻¹ d for each row of [rows, hidden]. */
function inverseForm(u: Float64Array, floor: number, hidden: number): (offsets: Float64Array) => Float64Array {
  const wide = u.length / hidden < hidden;
  const size = wide ? u.length / hidden : hidden;
  const matrix = wide ? gramRows(u, hidden) : gramRows(transposed(u, hidden), u.length / hidden);
  for (let i = 0; i < size; i++) matrix[i * size + i]! += floor;
  const lower = shrunkCholesky(matrix, size, 0);
  return (offsets) => {
    const reduced = wide ? productRows(offsets, u, hidden) : offsets;
    const solved = choleskySolveRows(lower, reduced, size);
    return Float64Array.from({ length: offsets.length / hidden }, (_, i) => {
      let inner = 0;
      for (let k = i * size; k < (i + 1) * size; k++) inner += reduced[k]! * solved[k]!;
      if (!wide) return inner;
      let squared = 0;
      for (let k = i * hidden; k < (i + 1) * hidden; k++) squared += offsets[k]! ** 2;
      return (squared - inner) / floor;
    });
  };
}

/** Rows less their mean, scaled so that Dᵀ D is their unbiased covariance; nothing but zeros for a single row. */
function scaledResiduals(features: Float32Array, hidden: number): Float64Array {
  const rows = features.length / hidden;
  const mean = new Float64Array(hidden);
  for (let k = 0; k < features.length; k++) mean[k % hidden]! += features[k]! / rows;
  const scale = 1 / Math.sqrt(Math.max(1, rows - 1));
  return Float64Array.from(features, (value, k) => (value - mean[k % hidden]!) * scale);
}

function classSizes({ classes, labels }: LabelledFeatures): Float64Array {
  const sizes = new Float64Array(classes);
  for (const label of labels) sizes[label]!++;
  const empty = sizes.indexOf(0);
  if (empty >= 0) throw new FewtuneError('LABEL_UNKNOWN', `class ${empty} of the support has no example`);
  return sizes;
}
