import type { HostTensor, Named } from '@fewtune/engine';
import { FewtuneError } from '../../errors.js';
import { checkCount } from '../checks.js';
import type { EmbeddingModel } from './embedding-model.js';
import { type MetricLossOptions, metricHeads, metrics } from './metric-loss.js';

export interface MetricLearnerOptions extends Partial<MetricLossOptions> {
  readonly model: EmbeddingModel;
  /** Largest rate of Adam; 0.001 when left out. */
  readonly lr?: number;
  /** Steps over which the rate falls to 0, after rising for a tenth of them; it is constant when left out. */
  readonly decaySteps?: number;
  readonly weightDecay?: number;
  /** Largest norm of the gradient; unlimited when left out. */
  readonly clipNorm?: number;
  /** The `params` of a learner of the same model and head, to go on from. */
  readonly start?: Named<HostTensor>;
  readonly threads?: number;
  /**
   * Episodes of a batch that are worked on at once, each in a thread with a session of its own; 1 when left out. What is
   * learned is the same. Worth it for small models; `threads` then counts for each.
   */
  readonly replicas?: number;
}

/** What a learner's training depends on, besides its model. */
export type MetricSettings = MetricLossOptions &
  Required<Pick<MetricLearnerOptions, 'lr' | 'weightDecay'>> &
  Pick<MetricLearnerOptions, 'decaySteps' | 'clipNorm'>;

const defaults = {
  head: 'prototype',
  metric: 'euclidean',
  attention: false,
  dimensionWeights: false,
  viewContrast: 0,
  viewTemperature: 0.05,
  correlation: 0,
  relationHidden: 64,
  lr: 1e-3,
  weightDecay: 0,
  seed: 7,
} as const;

/**
 * Options with their defaults, for embeddings of `dim` numbers. Distances are left as they are, cosines scaled by 10 or what is learned
 * from there.
 *
 * @throws FewtuneError OPTION_INVALID
 */
export function metricSettings(given: Partial<MetricSettings>, dim: number): MetricSettings {
  const cosine = given.head === 'matching' || given.metric === 'cosine';
  const settings = { ...defaults, scale: cosine ? 10 : 1, learnScale: cosine, ...given };
  check(settings, dim);
  checkUsed(given, settings);
  return settings;
}

/** What would have no effect is refused, so that nobody believes to have measured it. */
function checkUsed(given: Partial<MetricSettings>, { head, metric, viewContrast, learnScale }: MetricSettings): void {
  const unused: Partial<Record<keyof MetricSettings, string | false>> = {
    metric: head !== 'prototype' && `it is of prototypes; a ${head} head compares in its own way`,
    rank: (head !== 'prototype' || metric !== 'mahalanobis') && 'it is of the mahalanobis metric of prototypes',
    relationHidden: head !== 'relation' && 'it is of a relation head',
    scale: head === 'relation' && 'a relation head has none',
    learnScale: head === 'relation' && learnScale && 'a relation head has no scale',
    viewTemperature: viewContrast === 0 && 'it is of viewContrast, which is 0',
  };
  for (const [name, why] of Object.entries(unused)) {
    if (!why || given[name as keyof MetricSettings] === undefined) continue;
    throw new FewtuneError('OPTION_INVALID', `${name} would have no effect: ${why}. Leave it out.`);
  }
}

function check(options: MetricSettings, dim: number): void {
  const wrong = (message: string) => new FewtuneError('OPTION_INVALID', message);
  const named = { head: metricHeads, metric: metrics } as const;
  for (const [name, known] of Object.entries(named)) {
    const value = options[name as keyof typeof named];
    if (!(known as readonly string[]).includes(value)) {
      throw wrong(`${name} is ${JSON.stringify(value)}; it must be one of ${known.join(', ')}.`);
    }
  }
  for (const name of ['lr', 'scale', 'viewTemperature', 'clipNorm'] as const) {
    const value = options[name];
    if (value === undefined || (Number.isFinite(value) && value > 0)) continue;
    throw wrong(`${name} is ${value}; it must be a number above 0.`);
  }
  for (const name of ['viewContrast', 'correlation', 'weightDecay'] as const) {
    const value = options[name];
    if (!(Number.isFinite(value) && value >= 0)) throw wrong(`${name} is ${value}; it must be a number from 0 up.`);
  }
  for (const name of ['relationHidden', 'rank', 'decaySteps'] as const) checkCount(name, options[name] ?? 1, 1);
  const { head, metric, attention, dimensionWeights, rank = dim } = options;
  // A row of the map beyond the embedding's numbers would start at 0, and have no gradient there.
  if (rank > dim) throw wrong(`rank is ${rank}; an embedding has ${dim} numbers, and the map at most as many rows.`);
  if (attention && head !== 'prototype') throw wrong(`attention is of prototypes; a ${head} head has none to weigh.`);
  if (dimensionWeights && (head !== 'prototype' || metric === 'cosine')) {
    throw wrong('dimensionWeights are of distances to prototypes: head prototype, metric euclidean or mahalanobis.');
  }
}
