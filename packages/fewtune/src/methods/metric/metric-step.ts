import {
  adamW,
  constantRate,
  type HostTensor,
  linearDecay,
  type Named,
  scalar,
  type Tensor,
  type TensorSpec,
  type TrainStep,
  trainStep,
} from '@fewtune/engine';
import { mapValues, prefixed, under } from '../named.js';
import type { EmbeddingModel } from './embedding-model.js';
import { episodeLoss } from './metric-loss.js';
import type { MetricLearnerOptions, MetricSettings } from './metric-options.js';
import { answersOf, checkInputs, episodeFeeds, episodeSpecs, type MetricTask } from './metric-task.js';

/** The training step: each episode is a micro-batch, so that a batch may hold any number, of any sizes. */
export function openMetricStep(
  model: EmbeddingModel,
  options: MetricSettings,
  params: Named<HostTensor>,
  { threads, replicas }: Pick<MetricLearnerOptions, 'threads' | 'replicas'> = {},
): Promise<TrainStep<Named<TensorSpec>>> {
  const { lr, decaySteps, weightDecay, clipNorm } = options;
  const viewed = options.viewContrast > 0;
  return trainStep<Named<TensorSpec>>({
    params,
    frozen: model.frozen,
    batch: {
      ...prefixed('x', model.inputs),
      ...(viewed && prefixed('views', freedFrom(model.inputs, 'views'))),
      ...episodeSpecs,
      answers: { dtype: 'float32', shape: ['queries', 'ways'] },
    },
    loss: (params, { frozen, batch }) => {
      const { supportRows, queryRows, members, answers } = batch as Record<string, Tensor>;
      const episode = { supportRows: supportRows!, queryRows: queryRows!, members: members!, answers: answers! };
      const views = viewed ? under('views', batch) : undefined;
      return episodeLoss(model, options, { ...frozen, ...params }, under('x', batch), episode, views);
    },
    // Biases and norms do not decay, as is usual.
    optimizer: adamW({ weightDecay, decays: (name) => !/bias$|norm|metric\//i.test(name) }),
    schedule: decaySteps
      ? linearDecay({ lr, steps: decaySteps, warmup: Math.round(decaySteps / 10) })
      : constantRate(lr),
    clipNorm,
    accumulate: { weight: () => scalar(1), replicas },
    // The scale stays 1: wanted is that a step whose gradient is not finite is not taken.
    lossScale: { init: 1, growth: 1, backoff: 1 },
    threads,
  });
}

/** What the step is given for a task. @throws FewtuneError OPTION_INVALID, ROWS_EMPTY, CLASS_SINGLE, LABEL_UNKNOWN */
export function metricFeeds(
  model: EmbeddingModel,
  { viewContrast }: Pick<MetricSettings, 'viewContrast'>,
  task: MetricTask,
): Record<string, HostTensor> {
  const episode = { ...episodeFeeds(task.support, task.query.length), answers: answersOf(task) };
  const rows = task.support.length + task.query.length;
  const viewed = viewContrast > 0;
  checkInputs(model, task.x, 'x', rows);
  if (viewed) checkInputs(model, task.views ?? {}, 'views', rows);
  return { ...prefixed('x', task.x), ...(viewed && prefixed('views', task.views!)), ...episode };
}

/** The same inputs, of sizes that have nothing to do with those they were named after. */
export const freedFrom = (inputs: Named<TensorSpec>, word: string): Record<string, TensorSpec> =>
  mapValues(inputs, ({ dtype, shape }) => ({
    dtype,
    shape: shape.map((size) => (typeof size === 'string' ? `${word}_${size}` : size)),
  }));
