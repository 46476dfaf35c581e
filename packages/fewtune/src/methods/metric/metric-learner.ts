import type { HostTensor, Named } from '@fewtune/engine';
import type { Run } from '../../run.js';
import { checkCount, checkStart } from '../checks.js';
import { type Batches, type EpochEvent, type EpochOptions, type EpochResult, runEpochs } from '../epochs.js';
import { Learned } from '../learned.js';
import { digestOf } from '../run-checkpoint.js';
import type { EmbeddingModel } from './embedding-model.js';
import { headParams } from './metric-loss.js';
import { type MetricLearnerOptions, type MetricSettings, metricSettings } from './metric-options.js';
import { MetricPrograms } from './metric-programs.js';
import { metricFeeds, openMetricStep } from './metric-step.js';
import { checkInputs, episodeFeeds, type MetricTask, waysOf } from './metric-task.js';

/** Batches of episodes, for every epoch the same or made anew; each batch is one step. */
export type EpisodeBatches = Batches<MetricTask>;

export type MetricTrainEvent = EpochEvent;

/**
 * Learns an embedding from episodes: rows of one class come to lie together, so that a new class is known from a few
 * examples by comparing. Prototypical networks (Snell et al. 2017, arXiv:1703.05175), matching networks (Vinyals et al.
 * 2016, arXiv:1606.04080), relation networks (Sung et al. 2018, arXiv:1711.06025).
 *
 * Options and defaults: `head` prototype, `metric` euclidean (squared; of prototypes), `scale` 1 and fixed for distances,
 * 10 and learned for cosines and matching, `attention` false, `dimensionWeights` false, `viewContrast` 0 with
 * `viewTemperature` 0.05, `correlation` 0, `relationHidden` 64, `lr` 0.001, `weightDecay` 0, `seed` 7.
 *
 * @throws FewtuneError OPTION_INVALID
 * @example
 * await using learner = new MetricLearner({ model: imageEmbedding(conv4()) });
 * for await (const { step, loss } of learner.metaTrain(batches, { epochs: 10 })) console.log(step, loss);
 * const scores = await learner.classify({ x: { images }, support, queries: 75 }); // [75, ways]
 */
export class MetricLearner {
  readonly options: MetricSettings;
  private readonly model: EmbeddingModel;
  private readonly where: Pick<MetricLearnerOptions, 'threads' | 'replicas'>;
  private readonly programs: MetricPrograms;
  private readonly learned: Learned;

  constructor({ model, start, threads, replicas, ...given }: MetricLearnerOptions) {
    this.options = metricSettings(given, model.dim);
    this.model = model;
    this.where = { threads, replicas };
    if (replicas !== undefined) checkCount('replicas', replicas, 1);
    this.programs = new MetricPrograms(model, this.options, threads);
    const fresh = { ...model.weights, ...headParams(this.options, model.dim) };
    if (start) checkStart(start, fresh, 'this model and head');
    this.learned = new Learned(start ?? fresh);
  }

  /** All that was learned: the model's weights, and what the head learns under `metric/`. What `start` takes. */
  get params(): Named<HostTensor> {
    return this.learned.params;
  }

  /** The model's weights as they are now. */
  get weights(): Named<HostTensor> {
    return Object.fromEntries(Object.entries(this.params).filter(([name]) => !name.startsWith('metric/')));
  }

  /**
   * Learns from batches of episodes. The run goes on whether or not its events are read. When it is interrupted or
   * diverges, the weights of the last good step are kept.
   *
   * @throws (through `result` and through iteration) FewtuneError LOSS_NOT_FINITE, INTERRUPTED, ROWS_EMPTY,
   *   CLASS_SINGLE, LABEL_UNKNOWN, OPTION_INVALID
   */
  metaTrain(batches: EpisodeBatches, options: EpochOptions<MetricTrainEvent> = {}): Run<MetricTrainEvent, EpochResult> {
    return this.learned.run(options, (params, onStep) => this.train(params, batches, options, onStep));
  }

  /** Embeddings [rows, dim] under the weights as they are now; `reference` is whose statistics normalise a batch. */
  async embed(x: Named<HostTensor>, reference?: Named<HostTensor>): Promise<HostTensor> {
    checkInputs(this.model, x, 'embed');
    return this.programs.embed(this.weights, x, reference);
  }

  /**
   * Scores of queries against a support set; `x` holds the rows of both, the support's first.
   *
   * Where the model normalises by a batch's statistics, they are those of the support, so that a query's scores do not
   * depend on the other queries; with `transductive` they are those of all rows together, as most papers measure.
   *
   * @returns probabilities [queries, ways]; of relation networks scores in 0..1 that do not sum to 1
   * @throws FewtuneError ROWS_EMPTY, CLASS_SINGLE, LABEL_UNKNOWN, OPTION_INVALID
   */
  async classify(
    { x, support, queries }: { x: Named<HostTensor>; support: Int32Array; queries: number },
    { transductive = false }: { transductive?: boolean } = {},
  ): Promise<HostTensor> {
    const episode = episodeFeeds(support, queries);
    checkInputs(this.model, x, 'classify', support.length + queries);
    return this.programs.classify(this.params, x, episode, transductive);
  }

  async dispose(): Promise<void> {
    await this.programs.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  private async train(
    params: Named<HostTensor>,
    batches: EpisodeBatches,
    options: EpochOptions<MetricTrainEvent>,
    onStep: (event: MetricTrainEvent) => void,
  ) {
    const { model } = this;
    const { lr, head } = this.options;
    const open = (rateShare: number) =>
      openMetricStep(model, { ...this.options, lr: lr * rateShare }, params, this.where);
    let current = { rateShare: 1, step: await open(1) };
    try {
      return await runEpochs<MetricTask, object>(
        batches,
        options,
        {
          configuration: () => this.configuration(),
          ready: async (_, { rateShare }) => {
            if (current.rateShare === rateShare) return;
            const { step: before } = current;
            current = { rateShare, step: await open(rateShare) };
            await current.step.restore(await before.snapshot());
            await before.dispose();
          },
          run: async (tasks) => {
            const feeds = tasks.map((task) => metricFeeds(model, this.options, task));
            return { ...(await current.step.run(feeds)), shown: {} };
          },
          snapshot: () => current.step.snapshot(),
          restore: (state) => current.step.restore(state),
          params: () => current.step.params(),
          // Twice the loss of an even guess.
          harmless: (tasks) => (head === 'relation' ? 1 : 2 * Math.log(Math.max(...tasks.map(waysOfTask)))),
          rate: { name: 'lr', value: lr },
          advice: `Lower lr (${lr}).`,
        },
        onStep,
      );
    } finally {
      await current.step.dispose();
    }
  }

  private configuration(): Record<string, unknown> {
    const shapes = Object.entries(this.params).map(([name, { shape }]) => `${name} [${shape.join(', ')}]`);
    return { ...this.options, params: shapes, frozen: digestOf(this.model.frozen) };
  }
}

const waysOfTask = ({ support }: MetricTask) => waysOf(support);
