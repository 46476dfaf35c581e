import type { HostTensor, Named } from '@fewtune/engine';
import { FewtuneError } from '../../errors.js';
import type { Run } from '../../run.js';
import { checkCount, checkStart } from '../checks.js';
import { Learned } from '../learned.js';
import { type Descent, type DescentOptions, descend, type Objective } from './descend.js';
import { type AnyExamples, type AnyMetaModel, checkExamples, type ModelInput } from './meta-model.js';
import { type Bilevel, type MetaSchedule, metaSchedules } from './meta-step.js';
import {
  type MetaTrainEvent,
  type MetaTrainOptions,
  type MetaTrainResult,
  metaTrain,
  type TaskBatches,
} from './meta-train.js';
import { hostNormsAt } from './step-norms.js';
import {
  type BilevelOptions,
  hasStepNorms,
  hostRates,
  isAdapted,
  mamlVariants,
  startParams,
  startWeights,
} from './task-loss.js';
import { TaskPrograms } from './task-programs.js';

export interface MamlOptions extends Partial<BilevelOptions> {
  readonly model: AnyMetaModel;
  /** Rate of Adam on the meta-learned weights, 0.001; of Reptile the share of the way it goes, 0.1. */
  readonly metaLr?: number;
  /** Whether `metaLr` stays or falls to 0 along a cosine; `constant` when left out, of MAML++ `cosine`. */
  readonly metaSchedule?: MetaSchedule;
  /** Largest global norm of the outer gradient; unlimited when left out. */
  readonly clipNorm?: number;
  /** The `params` of a meta-trained Maml of the same model and variant, to go on from; the model's start when left out. */
  readonly start?: Named<HostTensor>;
  readonly threads?: number;
  /**
   * Tasks of a batch that are worked on at once, each in a thread with a session of its own; 1 when left out. What is
   * learned is the same. Worth it for small models; `threads` then counts for each.
   */
  readonly replicas?: number;
}

export interface AdaptOptions extends Pick<DescentOptions, 'signal' | 'onStep'> {
  /** Inner steps; `innerSteps` when left out. */
  readonly steps?: number;
}

/** A model adapted to one task. Its programs belong to the {@link Maml} it came from. */
export interface AdaptedModel extends Pick<Descent, 'rateHalvings'> {
  /** All weights, adapted and not; of MAML++'s normalisations those of the last step. */
  readonly weights: Named<HostTensor>;
  /** On the support set, before the first step and after the last. */
  readonly supportLoss: Descent['loss'];
  /** x [rows, ...] → probabilities [rows, outputs]; in a regression the values themselves. */
  predict(x: ModelInput): Promise<HostTensor>;
  /** What `predict` computes, as an ONNX model of any number of rows: `x` → `output`. Batch statistics are the support set's. */
  toOnnx(): Uint8Array;
}

const defaults = {
  variant: 'maml',
  innerLr: 0.01,
  loss: 'cross-entropy',
  proximal: 1,
  transductive: false,
} as const;

/**
 * Model-agnostic meta-learning: start weights from which a few steps of gradient descent on a few examples do well. Finn
 * et al. 2017, arXiv:1703.03400, and its variants: FOMAML, ANIL, BOIL, Meta-SGD, MAML++, Reptile and implicit MAML.
 *
 * Options and defaults: `variant` maml, `innerLr` 0.01, `innerSteps` 5 (implicit MAML 16, as its inner loop must
 * converge), `metaLr` 0.001 (Reptile 0.1), `metaSchedule` constant (MAML++ cosine), `clipNorm` none, `loss` cross-entropy,
 * `proximal` (λ of implicit MAML) 1, `transductive` false.
 * Where the model normalises by batch statistics, those of the query set are only used with `transductive: true`, which is
 * how the papers measured; a query's prediction then depends on the other queries.
 *
 * @throws FewtuneError OPTION_INVALID
 * @example
 * await using maml = new Maml({ model: conv4({ ways: 5 }), innerLr: 0.4, innerSteps: 1 });
 * for await (const { step, loss } of maml.metaTrain(batches, { epochs: 10 })) console.log(step, loss);
 * const adapted = await maml.adapt({ support });
 * const probabilities = await adapted.predict(images); // [rows, 5]
 */
export class Maml {
  readonly options: BilevelOptions & Pick<Bilevel, 'metaLr' | 'metaSchedule' | 'clipNorm'>;
  private readonly model: AnyMetaModel;
  private readonly threads: number | undefined;
  private readonly replicas: number | undefined;
  private readonly learned: Learned;
  private readonly programs: TaskPrograms;

  constructor({ model, threads, replicas, start, ...given }: MamlOptions) {
    const metaLr = given.metaLr ?? (given.variant === 'reptile' ? 0.1 : 0.001);
    const innerSteps = given.innerSteps ?? (given.variant === 'imaml' ? 16 : 5);
    const metaSchedule = given.metaSchedule ?? (given.variant === 'maml++' ? 'cosine' : 'constant');
    this.options = { ...defaults, ...given, metaLr, metaSchedule, innerSteps };
    checkOptions(this.options, model);
    this.model = model;
    this.threads = threads;
    this.replicas = replicas;
    if (replicas !== undefined) checkCount('replicas', replicas, 1);
    this.programs = new TaskPrograms(model, this.options, threads);
    const fresh = startParams(model, this.options);
    if (start) checkStart(start, fresh, 'this model and variant');
    this.learned = new Learned(start ?? fresh);
  }

  /** All that was meta-learned: the start weights, and the learned rates under `rate/`. What `start` takes. */
  get params(): Named<HostTensor> {
    return this.learned.params;
  }

  /** The meta-learned start weights as they are now. */
  get weights(): Named<HostTensor> {
    return startWeights(this.params);
  }

  /**
   * Learns the start weights from batches of tasks. The run goes on whether or not its events are read. When it is
   * interrupted or diverges, the weights of the last good step are kept.
   *
   * @throws (through `result` and through iteration) FewtuneError LOSS_NOT_FINITE, INTERRUPTED, ROWS_EMPTY,
   *   LABEL_UNKNOWN, OPTION_INVALID
   */
  metaTrain(batches: TaskBatches, options: MetaTrainOptions = {}): Run<MetaTrainEvent, MetaTrainResult> {
    const { model, threads, replicas } = this;
    const bilevel = { ...this.options, model, threads, replicas };
    return this.learned.run(options, (params, onStep) => metaTrain(bilevel, params, batches, options, onStep));
  }

  /**
   * A model for one task, by `steps` (default: `innerSteps`) of gradient descent on its support set. 0 steps leave the
   * start weights as they are. Where the descent diverges (a support loss that is not finite, or worse than before it and
   * worse than a guess), its rates are halved; the result says how often.
   *
   * @param task.support in several parts where it is large and each row is judged alone: their gradients are averaged
   * @throws FewtuneError LOSS_NOT_FINITE when halving does not help; ROWS_EMPTY, LABEL_UNKNOWN, OPTION_INVALID, INTERRUPTED
   */
  async adapt(
    { support }: { readonly support: AnyExamples | readonly AnyExamples[] },
    { steps = this.options.innerSteps, ...watch }: AdaptOptions = {},
  ): Promise<AdaptedModel> {
    checkCount('steps', steps, 0);
    const parts = Array.isArray(support) ? (support as readonly AnyExamples[]) : [support as AnyExamples];
    if (parts.length !== 1 && !this.model.rowsAlone) {
      throw new FewtuneError(
        'OPTION_INVALID',
        'this model looks at all rows of a support set together: give one part.',
      );
    }
    const { loss } = this.options;
    for (const part of parts) checkExamples('support', part, loss, this.model.outputs);
    const start = { ...this.weights, ...(await this.programs.headFrom(this.weights, parts)) };
    const normsAfter = (steps: number) => hostNormsAt(this.params, Math.max(steps - 1, 0));
    const objective: Objective = {
      gradientAt: (weights, step) =>
        this.programs.gradientAt({ start, weights, norms: hostNormsAt(this.params, step) }, parts),
      lossAt: (weights) => this.programs.lossAt({ ...weights, ...normsAfter(steps) }, parts),
    };
    const found = await descend(start, objective, {
      ...watch,
      steps,
      // The normalisations of two steps are not compared.
      ...(hasStepNorms(this.model, this.options.variant) && { before: await objective.lossAt(start) }),
      rate: hostRates(this.params, this.options),
      // Worse than an even guess, or than twice a regression's loss at the start.
      tolerated: (before) => (loss === 'cross-entropy' ? Math.log(this.model.outputs) : 2 * before),
    });
    const weights = { ...found.weights, ...normsAfter(steps) };
    const { loss: supportLoss, rateHalvings } = found;
    const reference = parts[0]!.x;
    return {
      weights,
      supportLoss,
      rateHalvings,
      predict: (x) => this.programs.predict(weights, x, reference),
      toOnnx: () => this.programs.toOnnx(weights, reference),
    };
  }

  async dispose(): Promise<void> {
    await this.programs.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}

function checkOptions(options: Maml['options'], { headNames, weights, headStart }: AnyMetaModel): void {
  const { variant, innerLr, metaLr, metaSchedule, innerSteps, proximal, clipNorm = 1 } = options;
  const wrong = (message: string) => new FewtuneError('OPTION_INVALID', message);
  if (!mamlVariants.includes(variant)) {
    throw wrong(`variant is ${JSON.stringify(variant)}; it must be one of ${mamlVariants.join(', ')}.`);
  }
  if (!metaSchedules.includes(metaSchedule)) {
    throw wrong(`metaSchedule is ${JSON.stringify(metaSchedule)}; it must be one of ${metaSchedules.join(', ')}.`);
  }
  for (const [name, value] of Object.entries({ innerLr, metaLr, proximal, clipNorm })) {
    if (!(Number.isFinite(value) && value > 0)) throw wrong(`${name} is ${value}; it must be a number above 0.`);
  }
  // Without a step it is a prototypical network; MAML++ has rates for each step, and so needs one.
  checkCount('innerSteps', innerSteps, headStart && variant !== 'maml++' ? 0 : 1);
  const missing = headStart ? [] : headNames.filter((name) => !(name in weights));
  if (missing.length > 0) throw wrong(`the model's headNames name no weight of it: ${missing.join(', ')}.`);
  const adapted = [...Object.keys(weights), ...(headStart ? headNames : [])].filter(isAdapted(variant, headNames));
  if (adapted.length === 0) throw wrong(`${variant} has no weight to adapt: the model's headNames leave none.`);
}
