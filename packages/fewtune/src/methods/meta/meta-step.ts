import {
  adamW,
  clipByGlobalNorm,
  constantRate,
  cosineDecay,
  type HostTensor,
  hostTensor,
  mul,
  type Named,
  type Optimizer,
  scalar,
  sgd,
  sub,
  type TensorSpec,
  type TrainStep,
  trainStep,
} from '@fewtune/engine';
import { FewtuneError } from '../../errors.js';
import { under } from '../named.js';
import {
  type AnyMetaModel,
  type AnyMetaTask,
  byName,
  checkExamples,
  fromNames,
  inputSpec,
  type ModelInput,
  rowSpec,
} from './meta-model.js';
import { isRunning } from './step-norms.js';
import { type BilevelOptions, type Phase, taskLoss } from './task-loss.js';

/** All that a run reads. */
export interface Bilevel extends BilevelOptions {
  readonly model: AnyMetaModel;
  readonly metaLr: number;
  /** Whether `metaLr` stays, or falls to 0 along a cosine until the run ends. */
  readonly metaSchedule: MetaSchedule;
  /** Largest global norm of the outer gradient; unlimited when left out. */
  readonly clipNorm?: number;
  readonly threads?: number;
  /** Tasks that are worked on at once. */
  readonly replicas?: number;
}

export const metaSchedules = ['constant', 'cosine'] as const;
export type MetaSchedule = (typeof metaSchedules)[number];

type Step = TrainStep<Named<TensorSpec>>;

/**
 * The compiled steps of a run, one a phase and rate, opened when it begins; the state moves on from one to the next.
 */
export class Programs {
  private current: { readonly key: string; readonly step: Step } | undefined;
  private first: AnyMetaTask | undefined;
  /** To go on from, when a step is opened. */
  private carried: Named<HostTensor> | undefined;

  constructor(
    private readonly bilevel: Bilevel,
    private readonly start: Named<HostTensor>,
    private readonly steps: number,
  ) {}

  /** Opens the step for such tasks, at a share of the rate. */
  async ready(phase: Phase, tasks: readonly AnyMetaTask[], rateShare: number): Promise<void> {
    this.first ??= tasks[0]!;
    for (const task of tasks) this.check(task);
    const key = JSON.stringify({ ...phase, rateShare });
    if (this.current?.key === key) return;
    const bilevel = { ...this.bilevel, metaLr: this.bilevel.metaLr * rateShare };
    const step = await openStep(bilevel, this.start, phase, this.first, this.steps);
    const state = this.current ? await this.current.step.snapshot() : this.carried;
    if (state) await step.restore(state);
    await this.current?.step.dispose();
    this.current = { key, step };
  }

  /** A step on the tasks that it was made ready for. */
  run(phase: Phase, tasks: readonly AnyMetaTask[], shares: Float32Array) {
    const stepWeights = hostTensor('float32', [shares.length], shares);
    return this.current!.step.run(
      tasks.map(({ support, query }) => ({
        ...byName('supportX', support.x),
        supportY: support.y,
        ...byName('queryX', query.x),
        queryY: query.y,
        ...(phase.multiStep && { stepWeights }),
      })),
    );
  }

  /** The meta-learned tensors as they are now. */
  async params(): Promise<Named<HostTensor>> {
    if (this.current) return this.current.step.params();
    return this.carried ? under('param', this.carried) : this.start;
  }

  /** The whole state; undefined before the first step is ready. */
  async snapshot(): Promise<Named<HostTensor> | undefined> {
    return this.current?.step.snapshot();
  }

  async restore(state: Named<HostTensor>): Promise<void> {
    if (this.current) await this.current.step.restore(state);
    else this.carried = state;
  }

  async dispose(): Promise<void> {
    await this.current?.step.dispose();
  }

  private check({ support, query }: AnyMetaTask): void {
    const { loss, model } = this.bilevel;
    checkExamples('support', support, loss, model.outputs);
    checkExamples('query', query, loss, model.outputs);
    const wanted = formOf(this.first!.support.x, model);
    for (const { x } of [support, query]) {
      const form = formOf(x, model);
      if (form === wanted) continue;
      throw new FewtuneError(
        'OPTION_INVALID',
        `a task's rows are ${form}, those of the first task ${wanted}; all tasks must agree.`,
      );
    }
  }
}

/** What must be the same in all tasks. */
function formOf(x: ModelInput, { inputs }: AnyMetaModel): string {
  const tensors = Object.entries(byName('', x)).map(([name, { dtype, shape }]) => {
    const sizes = inputs ? `rank ${shape.length}` : `[${shape.slice(1).join(', ')}]`;
    return `${name.slice(1)} ${dtype} ${sizes}`.trim();
  });
  return tensors.join(', ');
}

/** Reptile walks along its own direction; the others descend with Adam, as the papers do. */
function openStep(bilevel: Bilevel, params: Named<HostTensor>, phase: Phase, task: AnyMetaTask, steps: number) {
  const { model, metaLr, metaSchedule, clipNorm, variant, threads, replicas } = bilevel;
  const batch: Record<string, TensorSpec> = {
    ...byName('supportX', inputSpec(model, 'support', task.support.x)),
    supportY: rowSpec('support', task.support.y),
    ...byName('queryX', inputSpec(model, 'query', task.query.x)),
    queryY: rowSpec('query', task.query.y),
  };
  if (phase.multiStep) batch.stepWeights = { dtype: 'float32', shape: [bilevel.innerSteps] };
  return trainStep<Named<TensorSpec>>({
    params,
    frozen: model.frozen,
    batch,
    loss: (traced, { frozen, batch }) => {
      const support = { x: fromNames('supportX', batch), y: batch.supportY! };
      const query = { x: fromNames('queryX', batch), y: batch.queryY! };
      return taskLoss(
        model,
        traced,
        frozen,
        { support, query, stepWeights: batch.stepWeights },
        { ...bilevel, ...phase },
      );
    },
    optimizer: withRunning(variant === 'reptile' ? sgd() : adamW({ weightDecay: 0 }), clipNorm),
    schedule: metaSchedule === 'cosine' ? cosineDecay({ lr: metaLr, steps }) : constantRate(metaLr),
    accumulate: { weight: () => scalar(1), replicas },
    // The scale stays 1: wanted is that a step whose gradient is not finite is not taken.
    lossScale: { init: 1, growth: 1, backoff: 1 },
    threads,
  });
}

/** How far a running statistic goes towards what a step met, as in PyTorch. */
const momentum = 0.1;

/** Running statistics are averaged; all else is left to the optimiser, its gradient clipped. */
function withRunning(optimizer: Optimizer, clipNorm?: number): Optimizer {
  const others = <T>(named: Named<T>) => Object.fromEntries(Object.entries(named).filter(([name]) => !isRunning(name)));
  return {
    init: (params) => optimizer.init(others(params)),
    update: (gradients, state, params, at) => {
      const own = others(gradients);
      const clipped = clipNorm === undefined ? own : clipByGlobalNorm(own, clipNorm).gradients;
      const moved = optimizer.update(clipped, state, others(params), at);
      const running = Object.entries(params).filter(([name]) => isRunning(name));
      const averaged = running.map(([name, value]) => [name, sub(value, mul(gradients[name]!, momentum))]);
      return { params: { ...moved.params, ...Object.fromEntries(averaged) }, state: moved.state };
    },
  };
}
