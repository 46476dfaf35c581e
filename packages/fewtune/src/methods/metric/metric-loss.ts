import {
  add,
  gather,
  type HostTensor,
  hostTensor,
  log,
  logSoftmax,
  matMul,
  mean,
  mul,
  type Named,
  neg,
  normals,
  scalar,
  sub,
  sum,
  type Tensor,
} from '@fewtune/engine';
import type { EmbeddingModel } from './embedding-model.js';
import {
  cosines,
  dimensionWeights,
  matchingProbabilities,
  negativeSquaredDistances,
  positive,
  prototypeShares,
  relationScores,
  type SupportSet,
} from './episode-scores.js';
import { correlationPenalty, viewContrast } from './isotropy.js';

export const metricHeads = ['prototype', 'matching', 'relation'] as const;
export type MetricHead = (typeof metricHeads)[number];
export const metrics = ['euclidean', 'cosine', 'mahalanobis'] as const;
export type Metric = (typeof metrics)[number];

export interface MetricLossOptions {
  readonly head: MetricHead;
  readonly metric: Metric;
  /** What distances or cosines are multiplied with; where it is learned, its start. */
  readonly scale: number;
  readonly learnScale: boolean;
  /** Prototypes weigh their support rows by attention, its temperature learned. */
  readonly attention: boolean;
  /** Distances weigh dimensions by how much the support set's ways agree in them. */
  readonly dimensionWeights: boolean;
  /** Weight of the contrast between two views of each row (`views` of the tasks), and its temperature. */
  readonly viewContrast: number;
  readonly viewTemperature: number;
  /** Weight of the penalty on correlated dimensions. */
  readonly correlation: number;
  /** Rows of the Mahalanobis map; as many as the embedding's numbers when left out. */
  readonly rank?: number;
  /** Hidden numbers of the relation module. */
  readonly relationHidden: number;
  readonly seed: number;
}

/** What the head itself learns, under `metric/`. */
export function headParams(options: MetricLossOptions, dim: number): Record<string, HostTensor> {
  const { head, metric, scale, learnScale, attention, rank = dim, relationHidden, seed } = options;
  const number = (value: number) => hostTensor('float32', [], [value]);
  const params: Record<string, HostTensor> = {};
  if (head !== 'relation' && learnScale) params['metric/log_scale'] = number(Math.log(scale));
  if (head === 'prototype' && attention) params['metric/log_attention_temperature'] = number(Math.log(0.2));
  if (head === 'prototype' && metric === 'mahalanobis') {
    const identity = new Float32Array(rank * dim);
    for (let i = 0; i < Math.min(rank, dim); i++) identity[i * dim + i] = 1;
    params['metric/map'] = hostTensor('float32', [rank, dim], identity);
  }
  if (head === 'relation') {
    const normal = normals(seed);
    const he = (rows: number, columns: number) => {
      const values = Float32Array.from({ length: rows * columns }, () => normal() * Math.sqrt(2 / columns));
      return hostTensor('float32', [rows, columns], values);
    };
    params['metric/relation.0.weight'] = he(relationHidden, 2 * dim);
    params['metric/relation.0.bias'] = hostTensor('float32', [relationHidden], new Float32Array(relationHidden));
    params['metric/relation.1.weight'] = he(1, relationHidden);
    params['metric/relation.1.bias'] = hostTensor('float32', [1], [0]);
  }
  return params;
}

/**
 * Scores of queries [queries, ways]: logits of a softmax for prototypes; for matching networks logarithms of
 * probabilities; for relation networks scores in 0..1, which do not sum to 1.
 */
export function queryScores(
  options: MetricLossOptions,
  params: Named<Tensor>,
  { z, members }: SupportSet,
  q: Tensor,
): Tensor {
  const { head, metric, attention } = options;
  const scale = params['metric/log_scale'] ? positive(params['metric/log_scale']) : scalar(options.scale);
  if (head === 'matching') return log(matchingProbabilities({ z, members }, q, scale));
  if (head === 'relation') {
    const own = Object.entries(params).filter(([name]) => name.startsWith('metric/relation'));
    return relationScores({ z, members }, q, Object.fromEntries(own.map(([name, w]) => [name.slice(7), w])));
  }
  const map = params['metric/map'];
  const [support, asked] = map ? [matMul(z, map, { transposeB: true }), matMul(q, map, { transposeB: true })] : [z, q];
  const temperature = attention ? positive(params['metric/log_attention_temperature']!) : undefined;
  const p = matMul(prototypeShares({ z: support, members }, temperature), support);
  if (metric === 'cosine') return mul(cosines(asked, p), scale);
  const weights = options.dimensionWeights ? dimensionWeights({ z: support, members }) : undefined;
  return mul(negativeSquaredDistances(asked, p, weights), scale);
}

/** The traced inputs of an episode. */
export interface TracedEpisode {
  /** int64 [support], int64 [queries]: which rows of the embeddings they are. */
  readonly supportRows: Tensor;
  readonly queryRows: Tensor;
  /** float32 [ways, support] */
  readonly members: Tensor;
  /** float32 [queries, ways]: 1 at the way of each query. */
  readonly answers: Tensor;
}

/** The loss of an episode, a float32 scalar, with the regularisers on the embeddings of all its rows. */
export function episodeLoss(
  { embed }: Pick<EmbeddingModel, 'embed'>,
  options: MetricLossOptions,
  weights: Named<Tensor>,
  x: Named<Tensor>,
  { supportRows, queryRows, members, answers }: TracedEpisode,
  views?: Named<Tensor>,
): Tensor {
  const z = embed(weights, x);
  const scores = queryScores(options, weights, { z: gather(z, supportRows), members }, gather(z, queryRows));
  let loss = scoresLoss(options.head, scores, answers);
  if (views && options.viewContrast > 0) {
    loss = add(loss, mul(viewContrast(z, embed(weights, views), options.viewTemperature), options.viewContrast));
  }
  if (options.correlation > 0) loss = add(loss, mul(correlationPenalty(z), options.correlation));
  return loss;
}

/** Cross-entropy; of relation scores the mean square of their difference to the truth (Sung et al. 2018, equation 2). */
function scoresLoss(head: MetricHead, scores: Tensor, answers: Tensor): Tensor {
  if (head !== 'relation') return neg(mean(sum(mul(logSoftmax(scores), answers), { axes: [1] })));
  const away = sub(scores, answers);
  return mean(mul(away, away));
}
