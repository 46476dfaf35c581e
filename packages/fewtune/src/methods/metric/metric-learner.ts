import {
  adamW,
  compile,
  constant,
  constantRate,
  exp,
  gather,
  type HostTensor,
  linearDecay,
  type Named,
  type Program,
  scalar,
  softmax,
  type Tensor,
  type TensorSpec,
  trainStep,
} from '@fewtune/engine';
import { FewtuneError } from '../../errors.js';
import { type Run, startRun } from '../../run.js';
import { type EpochOptions, type EpochResult, runEpochs } from '../epochs.js';
import type { EmbeddingModel } from './embedding-model.js';
import { episodeLoss, headParams, type MetricLossOptions, metricHeads, metrics, queryScores } from './metric-loss.js';
import { answersOf, checkInputs, episodeFeeds, type MetricTask } from './metric-task.js';

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
}

/** Batches of episodes, for every epoch the same or made anew; each batch is one step. */
export type EpisodeBatches =
  | Iterable<readonly MetricTask[]>
  | ((epoch: number) => Iterable<readonly MetricTask[]> | AsyncIterable<readonly MetricTask[]>);

export interface MetricTrainEvent {
  /** From 1. */
  readonly epoch: number;
  readonly epochs: number;
  readonly step: number;
  /** Mean loss of the batch's episodes, before the step. */
  readonly loss: number;
  readonly lr: number;
  readonly elapsedMs: number;
}

const defaults = {
  head: 'prototype',
  metric: 'euclidean',
  attention: false,
  dimensionWeights: false,
  viewContrast: 0,
  viewTemperature: 0.05,
  correlation: 0,
  relationHidden: 64,
  seed: 7,
} as const;

type Settings = MetricLossOptions &
  Required<Pick<MetricLearnerOptions, 'lr' | 'weightDecay'>> &
  Pick<MetricLearnerOptions, 'decaySteps' | 'clipNorm'>;

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
 * const { scores } = await learner.classify(task); // [queries, ways]
 */
export class MetricLearner {
  readonly options: Settings;
  private readonly model: EmbeddingModel;
  private readonly threads: number | undefined;
  private learned: Named<HostTensor>;
  private training = false;
  private readonly programs = new Map<string, Promise<Program<Given, Named<HostTensor>>>>();

  constructor({ model, start, threads, ...given }: MetricLearnerOptions) {
    const head = given.head ?? defaults.head;
    const cosine = head === 'matching' || given.metric === 'cosine';
    const own = { scale: cosine ? 10 : 1, learnScale: cosine, lr: 1e-3, weightDecay: 0 };
    this.options = { ...defaults, ...own, ...given };
    checkOptions(this.options);
    this.model = model;
    this.threads = threads;
    const fresh = { ...model.weights, ...headParams(this.options, model.dim) };
    if (start) checkStart(start, fresh);
    this.learned = start ?? fresh;
  }

  /** All that was learned: the model's weights, and what the head learns under `metric/`. What `start` takes. */
  get params(): Named<HostTensor> {
    return this.learned;
  }

  /** The model's weights as they are now. */
  get weights(): Named<HostTensor> {
    return Object.fromEntries(Object.entries(this.learned).filter(([name]) => !name.startsWith('metric/')));
  }

  /**
   * Learns from batches of episodes. The run goes on whether or not its events are read. When it is interrupted or
   * diverges, the weights of the last good step are kept.
   *
   * @throws (through `result` and through iteration) FewtuneError LOSS_NOT_FINITE, INTERRUPTED, ROWS_EMPTY,
   *   CLASS_SINGLE, LABEL_UNKNOWN, OPTION_INVALID
   */
  metaTrain(batches: EpisodeBatches, options: EpochOptions<MetricTrainEvent> = {}): Run<MetricTrainEvent, EpochResult> {
    return startRun(async (emit) => {
      if (this.training)
        throw new FewtuneError('OPTION_INVALID', 'this learner is being trained; await that run first.');
      this.training = true;
      try {
        const ended = await this.train(batches, options, (event) => {
          options.onProgress?.(event);
          emit(event);
        });
        this.learned = ended.params;
        if (!ended.result) throw ended.error;
        return ended.result;
      } finally {
        this.training = false;
      }
    });
  }

  /** Embeddings [rows, dim] under the weights as they are now; `reference` is whose statistics normalise a batch. */
  async embed(x: Named<HostTensor>, reference?: Named<HostTensor>): Promise<HostTensor> {
    checkInputs(this.model, x, 'embed');
    const given = { params: this.weights, x, ...(reference && { reference }) };
    const program = await this.program(
      reference ? 'embed by reference' : 'embed',
      given,
      ({ params, x, reference }) => ({
        z: this.model.embed({ ...this.frozen(), ...params }, x, reference),
      }),
    );
    return (await program.run(given)).z!;
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
    checkInputs(this.model, x, 'classify');
    const given = { params: this.learned, x, episode: episodeFeeds(support, queries) };
    const program = await this.program(`classify ${transductive}`, given, ({ params, x, episode }) => {
      const weights = { ...this.frozen(), ...params };
      const { supportRows, queryRows, members } = episode as Record<string, Tensor>;
      const shown = mapValues(x, (rows) => gather(rows, supportRows!));
      const z = this.model.embed(weights, x, transductive || !this.byRow ? undefined : shown);
      const set = { z: gather(z, supportRows!), members: members! };
      const scores = queryScores(this.options, weights, set, gather(z, queryRows!));
      return { scores: probabilitiesOf(this.options.head, scores) };
    });
    return (await program.run(given)).scores!;
  }

  async dispose(): Promise<void> {
    const open = [...this.programs.values()];
    this.programs.clear();
    for (const program of open) await (await program).dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /** Inputs of one row each (images) can be taken apart; packed tokens cannot, and have no batch statistics. */
  private get byRow(): boolean {
    return Object.values(this.model.inputs).every(({ shape }) => shape[0] === 'rows');
  }

  private async train(
    batches: EpisodeBatches,
    options: EpochOptions<MetricTrainEvent>,
    emit: (event: MetricTrainEvent) => void,
  ) {
    const step = await this.openStep();
    try {
      return await runEpochs<MetricTask, MetricTrainEvent>(batches, options, {
        configuration: this.configuration(),
        run: async (tasks) => {
          const { loss, lr, skipped } = await step.run(tasks.map((task) => this.feedsOf(task)));
          return { loss, skipped, shown: { lr } };
        },
        snapshot: () => step.snapshot(),
        restore: (state) => step.restore(state),
        params: () => step.params(),
        emit,
        advice: `Lower lr (${this.options.lr}).`,
      });
    } finally {
      await step.dispose();
    }
  }

  private feedsOf(task: MetricTask): Record<string, HostTensor> {
    checkInputs(this.model, task.x, 'x');
    const viewed = this.options.viewContrast > 0;
    if (viewed) checkInputs(this.model, task.views ?? {}, 'views');
    return {
      ...prefixed('x', task.x),
      ...(viewed && prefixed('views', task.views!)),
      ...episodeFeeds(task.support, task.query.length),
      answers: answersOf(task),
    };
  }

  private openStep() {
    const { options, model } = this;
    const { lr, decaySteps, weightDecay, clipNorm } = options;
    const viewed = options.viewContrast > 0;
    const batch: Record<string, TensorSpec> = {
      ...prefixed('x', model.inputs),
      ...(viewed &&
        prefixed(
          'views',
          mapValues(model.inputs, (spec) => renamed(spec, 'views')),
        )),
      supportRows: { dtype: 'int64', shape: ['support'] },
      queryRows: { dtype: 'int64', shape: ['queries'] },
      members: { dtype: 'float32', shape: ['ways', 'support'] },
      answers: { dtype: 'float32', shape: ['queries', 'ways'] },
    };
    return trainStep<Named<TensorSpec>>({
      params: this.learned,
      frozen: model.frozen,
      batch,
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
      accumulate: { weight: () => scalar(1) },
      // The scale stays 1: wanted is that a step whose gradient is not finite is not taken.
      lossScale: { init: 1, growth: 1, backoff: 1 },
      threads: this.threads,
    });
  }

  private configuration(): Record<string, unknown> {
    const shapes = (tensors: Named<HostTensor>) =>
      Object.entries(tensors).map(([name, { shape }]) => `${name} [${shape.join(', ')}]`);
    return { ...this.options, params: shapes(this.learned), frozen: shapes(this.model.frozen ?? {}) };
  }

  private frozen(): Named<Tensor> {
    return Object.fromEntries(
      Object.entries(this.model.frozen ?? {}).map(([name, value]) => [name, constant(value, name)]),
    );
  }

  private async program(name: string, given: Given, trace: Trace): Promise<Program<Given, Named<HostTensor>>> {
    let program = this.programs.get(name);
    if (!program) {
      const spec = ({ dtype, shape }: HostTensor): TensorSpec => ({ dtype, shape });
      const specs = {
        params: mapValues(given.params, spec),
        x: this.model.inputs,
        ...(given.reference && { reference: mapValues(this.model.inputs, (own) => renamed(own, 'reference')) }),
        ...(given.episode && { episode: episodeSpecs }),
      };
      program = compile((inputs) => trace(inputs as unknown as Given<Tensor>), specs, {
        name,
        threads: this.threads,
      }) as unknown as Promise<Program<Given, Named<HostTensor>>>;
      this.programs.set(name, program);
    }
    return program;
  }
}

interface Given<T = HostTensor> {
  readonly params: Named<T>;
  readonly x: Named<T>;
  readonly reference?: Named<T>;
  readonly episode?: Named<T>;
}

type Trace = (inputs: Given<Tensor>) => Named<Tensor>;

const episodeSpecs: Named<TensorSpec> = {
  supportRows: { dtype: 'int64', shape: ['support'] },
  queryRows: { dtype: 'int64', shape: ['queries'] },
  members: { dtype: 'float32', shape: ['ways', 'support'] },
};

function probabilitiesOf(head: MetricLossOptions['head'], scores: Tensor): Tensor {
  if (head === 'prototype') return softmax(scores);
  return head === 'matching' ? exp(scores) : scores;
}

/** The same sizes, free of those they are named after. */
const renamed = ({ dtype, shape }: TensorSpec, word: string): TensorSpec => ({
  dtype,
  shape: shape.map((size) => (typeof size === 'string' ? `${word}_${size}` : size)),
});

const mapValues = <T, U>(values: Named<T>, change: (value: T) => U): Record<string, U> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, change(value)]));

const prefixed = <T>(word: string, values: Named<T>): Record<string, T> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [`${word}/${name}`, value]));

const under = <T>(word: string, values: Named<T>): Record<string, T> =>
  Object.fromEntries(
    Object.entries(values).flatMap(([name, value]) =>
      name.startsWith(`${word}/`) ? [[name.slice(word.length + 1), value]] : [],
    ),
  );

function checkOptions(options: Settings): void {
  const wrong = (message: string) => new FewtuneError('OPTION_INVALID', message);
  const named = { head: metricHeads, metric: metrics } as const;
  for (const [name, known] of Object.entries(named)) {
    const value = options[name as keyof typeof named];
    if (!(known as readonly string[]).includes(value)) {
      throw wrong(`${name} is ${JSON.stringify(value)}; it must be one of ${known.join(', ')}.`);
    }
  }
  for (const name of ['lr', 'scale', 'viewTemperature'] as const) {
    const value = options[name];
    if (!(Number.isFinite(value) && value > 0)) throw wrong(`${name} is ${value}; it must be a number above 0.`);
  }
  for (const name of ['viewContrast', 'correlation', 'weightDecay'] as const) {
    const value = options[name];
    if (!(Number.isFinite(value) && value >= 0)) throw wrong(`${name} is ${value}; it must be a number from 0 up.`);
  }
}

/** @throws FewtuneError OPTION_INVALID when names or shapes are not those of the model and the head */
function checkStart(start: Named<HostTensor>, fresh: Named<HostTensor>): void {
  const shapeOf = (tensor?: HostTensor) => (tensor ? `[${tensor.shape.join(', ')}]` : 'missing');
  for (const name of new Set([...Object.keys(fresh), ...Object.keys(start)])) {
    const [given, wanted] = [shapeOf(start[name]), shapeOf(fresh[name])];
    if (given === wanted) continue;
    const what = wanted === 'missing' ? 'and this model and head have no such tensor' : `it must be ${wanted}`;
    throw new FewtuneError('OPTION_INVALID', `start: "${name}" is ${given}, ${what}.`);
  }
}
