import { FewtuneError } from '../../errors.js';
import { unitRows } from '../../evaluation/distances.js';
import type { LinearHead } from '../linear/logistic.js';
import type { Support } from '../support.js';
import { anchoredLogistic } from './anchored-logistic.js';
import type { LabelledFeatures } from './class-means.js';
import { type RowSolver, spreadSolver } from './spread-solver.js';
import {
  centredRows,
  classSums,
  labelResponsibilities,
  marginAttention,
  type Responsibilities,
  reassignment,
  supportMean,
} from './support-attention.js';

export interface AttentionPrototypeOptions {
  /**
   * `reassign`: an example that belongs to another class moves there (expectation maximisation). `margin`: it loses
   * weight. `none`: labels are believed.
   */
  readonly attention?: 'reassign' | 'margin' | 'none';
  /** `reassign`: how sharply a class is told by cosine. */
  readonly sharpness?: number;
  /** `reassign`: share of labels expected to be wrong, 0 to below 1; `estimated` from the support by default. */
  readonly mislabelled?: number | 'estimated';
  /** `reassign`: rounds of expectation maximisation. */
  readonly iterations?: number;
  /** `margin`: smaller takes more weight from an outlier. */
  readonly attentionTemperature?: number;
  /** `margin`: margins above its negative keep their whole weight. */
  readonly marginSlack?: number;
  /** Whether the mean of the support is taken off everything first. */
  readonly centre?: boolean;
  /** Examples that a label's name counts for, when the support has names. */
  readonly nameWeight?: number;
  /** Share of the identity in the covariance within classes that the metric is the inverse of; 1 is plain cosine. */
  readonly shrinkage?: number;
  /** Share of the identity in the diagonal metric over dimensions, 0 to 1; 1 leaves it out. Refused without `shrinkage` 1. */
  readonly dimensionShrinkage?: number;
  /** How far logistic regression on the support may move the head away from the prototypes, as its `C`; 0 leaves it out. */
  readonly refinement?: number;
}

/** Chosen on the training classes of CLINC150's and Banking77's folds (`docs/heads.md`). */
export const attentionDefaults: Required<AttentionPrototypeOptions> = {
  attention: 'reassign',
  sharpness: 12,
  mislabelled: 'estimated',
  iterations: 5,
  attentionTemperature: 0.05,
  marginSlack: 0.2,
  centre: true,
  nameWeight: 1,
  shrinkage: 0.85,
  dimensionShrinkage: 1,
  refinement: 3,
};

/** Length that a refined head's prototypes begin with: their cosines then tell classes as surely as the support's do. */
const ANCHOR_LENGTH = 8;

/** Own responsibility from which an example's label is trusted enough to measure the spread of its class. */
const TRUSTED = 0.9;

/**
 * The improved prototype as a linear head: p_c = Σ_i r[i, c] x_i + names, score_c(x) = (x − μ)ᵀ M p_c / √(p_cᵀ M p_c), with the
 * responsibilities r of attention over the support, μ the mean of the support and M the inverse of the shrunk covariance
 * within classes, measured on the examples whose labels are trusted: one wrong label makes the spread point from class to
 * class, and its inverse then hides just what tells them apart. Logistic regression on the support, with r for targets and
 * drawn towards the prototypes, then looks at the borders between classes. Once the support is known the head is the same
 * affine map as the plain prototype's (Snell et al. 2017, arXiv:1703.05175): saved, exported and served like it.
 *
 * @param support features of unit length, every class with a row; `names` are used when they are there
 * @throws FewtuneError OPTION_INVALID for an option out of range, or both metrics at once
 */
export function attentionPrototypeHead(support: Support, options: AttentionPrototypeOptions = {}): LinearHead {
  const settings = { ...attentionDefaults, ...options };
  requireInRange(settings);
  const { hidden } = support;
  const looked = attended(support, settings);
  const { centre, prototypes, trusted } = looked;
  const refined = (head: LinearHead) => (settings.refinement === 0 ? head : refinedHead(head, looked, settings));
  if (settings.dimensionShrinkage === 1) return refined(spreadHead(looked, settings.shrinkage));
  const metric = dimensionAttention(trusted, unitRows(prototypes, hidden), settings.dimensionShrinkage);
  return refined(
    metricHead(prototypes, centre, (rows) => Float64Array.from(rows, (value, k) => value * metric[k % hidden]!)),
  );
}

/** The head after logistic regression on the support's rows and names, anchored at it; logits are log odds from here on. */
function refinedHead(
  { weight }: LinearHead,
  { centre, rows, names, responsibilities }: AttendedSupport,
  { refinement, nameWeight }: Required<AttentionPrototypeOptions>,
): LinearHead {
  const hidden = centre.length;
  const classes = weight.length / hidden;
  let squares = 0;
  for (const value of weight) squares += value ** 2;
  const scale = ANCHOR_LENGTH / Math.sqrt(Math.max(squares / classes, 1e-24));
  const anchor = weight.map((value) => scale * value);
  const named = nameWeight > 0 ? (names ?? new Float32Array()) : new Float32Array();
  const features = new Float32Array(rows.length + named.length);
  features.set(rows);
  features.set(named, rows.length);
  const targets = new Float64Array((features.length / hidden) * classes);
  targets.set(responsibilities);
  if (named.length > 0) {
    for (let c = 0; c < classes; c++) targets[responsibilities.length + c * classes + c] = nameWeight;
  }
  const moved = anchoredLogistic({ hidden, classes, features, targets }, anchor, refinement);
  const bias = new Float32Array(classes);
  moved.forEach((value, k) => {
    bias[Math.floor(k / hidden)]! -= value * centre[k % hidden]!;
  });
  return { weight: moved, bias };
}

/** A support set that attention has looked at; every metric goes on from here. */
export interface AttendedSupport {
  /** [hidden], what is taken off every row. */
  readonly centre: Float32Array;
  /** Σ_i r[i, c] x_i + names, [classes, hidden]. */
  readonly prototypes: Float32Array;
  /** The rows that stand for their own label with {@link TRUSTED} or more. */
  readonly trusted: LabelledFeatures;
  /** Rows and names less the centre, of unit length, and r. */
  readonly rows: Float32Array;
  readonly names: Float32Array | undefined;
  readonly responsibilities: Responsibilities;
}

export function attended(support: Support, options: AttentionPrototypeOptions): AttendedSupport {
  const settings = { ...attentionDefaults, ...options };
  const { hidden, classes, labels } = support;
  const centre = settings.centre ? supportMean(support) : new Float32Array(hidden);
  const data: LabelledFeatures = { hidden, classes, labels, features: centredRows(support.features, centre) };
  const names = support.names && centredRows(support.names, centre);
  const responsibilities = responsibilitiesOf(data, settings, names);
  const prototypes = Float32Array.from(classSums(data, responsibilities, names, settings.nameWeight));
  return {
    centre,
    prototypes,
    trusted: trustedRows(data, responsibilities),
    rows: data.features,
    names,
    responsibilities,
  };
}

/** Cosine to the prototypes under the inverse of the trusted rows' covariance; plain cosine with shrinkage 1. */
export function spreadHead(
  { centre, prototypes, trusted }: Pick<AttendedSupport, 'centre' | 'prototypes' | 'trusted'>,
  shrinkage: number,
): LinearHead {
  return metricHead(
    prototypes,
    centre,
    shrinkage < 1 ? spreadSolver(trusted, shrinkage) : (rows) => Float64Array.from(rows),
  );
}

/** score_c(x) = (x − centre)ᵀ M p_c / √(p_cᵀ M p_c); M by its product with rows. */
function metricHead(prototypes: Float32Array, centre: Float32Array, solve: RowSolver): LinearHead {
  const hidden = centre.length;
  const weight = new Float32Array(prototypes.length);
  const bias = new Float32Array(prototypes.length / hidden);
  const directions = solve(prototypes);
  for (let c = 0; c < bias.length; c++) {
    let squared = 0;
    for (let j = c * hidden; j < (c + 1) * hidden; j++) squared += prototypes[j]! * directions[j]!;
    const scale = 1 / Math.sqrt(Math.max(squared, 1e-24));
    let shift = 0;
    for (let j = 0; j < hidden; j++) {
      const value = directions[c * hidden + j]! * scale;
      weight[c * hidden + j] = value;
      shift += value * centre[j]!;
    }
    bias[c] = -shift;
  }
  return { weight, bias };
}

function responsibilitiesOf(
  data: LabelledFeatures,
  settings: Required<AttentionPrototypeOptions>,
  names: Float32Array | undefined,
): Responsibilities {
  switch (settings.attention) {
    case 'reassign':
      return reassignment(data, settings, names, settings.nameWeight);
    case 'margin':
      return marginAttention(data, { temperature: settings.attentionTemperature, slack: settings.marginSlack });
    case 'none':
      return labelResponsibilities(data);
  }
}

function trustedRows(data: LabelledFeatures, responsibilities: Responsibilities): LabelledFeatures {
  const { hidden, classes, features, labels } = data;
  const rows = [...labels.keys()].filter((i) => responsibilities[i * classes + labels[i]!]! >= TRUSTED);
  const chosen = new Float32Array(rows.length * hidden);
  rows.forEach((row, i) => {
    chosen.set(features.subarray(row * hidden, (row + 1) * hidden), i * hidden);
  });
  return { hidden, classes, features: chosen, labels: Int32Array.from(rows, (row) => labels[row]!) };
}

/**
 * Attention over dimensions: a diagonal metric [hidden] of mean 1, computed from this support alone.
 * m_j = (1 − λ) · r_j / mean r + λ, r_j = b_j / (w_j + mean w): b_j is the variance of the class means along dimension j, w_j that
 * of the rows about their class mean. Dimensions that tell classes apart more than they vary inside them count more.
 * All ones when no class has two rows, or when there is one class only.
 */
export function dimensionAttention(data: LabelledFeatures, means: Float32Array, shrinkage: number): Float32Array {
  const { hidden, classes, features, labels } = data;
  const metric = new Float32Array(hidden).fill(1);
  if (shrinkage === 1 || classes < 2) return metric;
  const within = new Float64Array(hidden);
  labels.forEach((label, i) => {
    for (let j = 0; j < hidden; j++) {
      within[j]! += (features[i * hidden + j]! - means[label * hidden + j]!) ** 2 / labels.length;
    }
  });
  const meanWithin = within.reduce((a, b) => a + b, 0) / hidden;
  if (meanWithin < 1e-12) return metric;
  const ratio = within.map((w, j) => {
    let centre = 0;
    for (let c = 0; c < classes; c++) centre += means[c * hidden + j]! / classes;
    let between = 0;
    for (let c = 0; c < classes; c++) between += (means[c * hidden + j]! - centre) ** 2 / (classes - 1);
    return between / (w + meanWithin);
  });
  const meanRatio = ratio.reduce((a, b) => a + b, 0) / hidden;
  return metric.map((_, j) => (1 - shrinkage) * (ratio[j]! / Math.max(meanRatio, 1e-12)) + shrinkage);
}

type Range = readonly [key: keyof AttentionPrototypeOptions, fits: (value: number) => boolean, range: string];

const ranges: readonly Range[] = [
  ['sharpness', (v) => v >= 0 && v < Number.POSITIVE_INFINITY, 'is 0 or more'],
  ['mislabelled', (v) => v >= 0 && v < 1, 'is 0 to below 1, or "estimated"'],
  ['iterations', (v) => Number.isSafeInteger(v) && v >= 0, 'is a whole number from 0'],
  ['attentionTemperature', (v) => v > 0, 'is above 0'],
  ['marginSlack', Number.isFinite, 'is a number'],
  ['nameWeight', (v) => v >= 0 && v < Number.POSITIVE_INFINITY, 'is 0 or more'],
  ['shrinkage', (v) => v > 0 && v <= 1, 'is above 0 to 1'],
  ['dimensionShrinkage', (v) => v >= 0 && v <= 1, 'is 0 to 1'],
  ['refinement', (v) => v >= 0 && v < Number.POSITIVE_INFINITY, 'is 0 or more'],
];

function requireInRange(settings: Required<AttentionPrototypeOptions>): void {
  for (const [key, fits, range] of ranges) {
    if (key === 'mislabelled' && settings[key] === 'estimated') continue;
    if (!fits(settings[key] as number))
      throw new FewtuneError('OPTION_INVALID', `${key} ${range}, not ${settings[key]}`);
  }
  if (settings.dimensionShrinkage < 1 && settings.shrinkage < 1) {
    throw new FewtuneError(
      'OPTION_INVALID',
      'dimensionShrinkage below 1 is another metric: set shrinkage to 1 with it',
    );
  }
}
