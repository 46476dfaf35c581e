import {
  adamW,
  constantRate,
  cosineDecay,
  type HostTensor,
  hostTensor,
  type Named,
  scalar,
  sgd,
  type TensorSpec,
  type TrainStep,
  trainStep,
} from '@fewtune/engine';
import { FewtuneError } from '../../errors.js';
import { checkExamples, type MetaModel, type MetaTask, rowSpec } from './meta-model.js';
import { type BilevelOptions, type Phase, taskLoss } from './task-loss.js';

/** All that a run reads. */
export interface Bilevel extends BilevelOptions {
  readonly model: MetaModel;
  readonly metaLr: number;
  readonly threads?: number;
}

type Step = TrainStep<Named<TensorSpec>>;

/** The compiled steps of a run, one a phase, opened when it begins; the state moves on from one to the next. */
export class Programs {
  private current: { readonly key: string; readonly step: Step } | undefined;
  private first: MetaTask | undefined;

  constructor(
    private readonly bilevel: Bilevel,
    private readonly start: Named<HostTensor>,
    private readonly steps: number,
    /** State to go on from, of a checkpoint. */
    private readonly carried?: Named<HostTensor>,
  ) {}

  async run(phase: Phase, tasks: readonly MetaTask[], shares: Float32Array) {
    if (tasks.length === 0) throw new FewtuneError('ROWS_EMPTY', 'a batch has no task; give it at least one.');
    this.first ??= tasks[0]!;
    for (const task of tasks) this.check(task);
    const step = await this.open(phase, this.first);
    const stepWeights = hostTensor('float32', [shares.length], shares);
    return step.run(
      tasks.map(({ support, query }) => ({
        supportX: support.x,
        supportY: support.y,
        queryX: query.x,
        queryY: query.y,
        ...(phase.multiStep && { stepWeights }),
      })),
    );
  }

  /** The meta-learned tensors as they are now. */
  async params(): Promise<Named<HostTensor>> {
    if (this.current) return this.current.step.params();
    return this.carried ? paramsOf(this.carried) : this.start;
  }

  /** The whole state; undefined before the first step. */
  async snapshot(): Promise<Named<HostTensor> | undefined> {
    return this.current?.step.snapshot();
  }

  async dispose(): Promise<void> {
    await this.current?.step.dispose();
  }

  private async open(phase: Phase, task: MetaTask): Promise<Step> {
    const key = JSON.stringify(phase);
    if (this.current?.key === key) return this.current.step;
    const step = await openStep(this.bilevel, this.start, phase, task, this.steps);
    const state = this.current ? await this.current.step.snapshot() : this.carried;
    if (state) await step.restore(state);
    await this.current?.step.dispose();
    this.current = { key, step };
    return step;
  }

  private check({ support, query }: MetaTask): void {
    const { loss, model } = this.bilevel;
    checkExamples('support', support, loss, model.outputs);
    checkExamples('query', query, loss, model.outputs);
    const wanted = this.first!.support.x;
    for (const { x } of [support, query]) {
      if (model.freeSizes && x.dtype === wanted.dtype && x.shape.length === wanted.shape.length) continue;
      if (x.dtype === wanted.dtype && x.shape.slice(1).join() === wanted.shape.slice(1).join()) continue;
      throw new FewtuneError(
        'OPTION_INVALID',
        `a task's rows are ${x.dtype} [${x.shape.slice(1).join(', ')}], those of the first task ${wanted.dtype} [${wanted.shape.slice(1).join(', ')}]; all tasks must agree.`,
      );
    }
  }
}

/** Reptile walks along its own direction; the others descend with Adam, as the papers do. */
function openStep(bilevel: Bilevel, params: Named<HostTensor>, phase: Phase, task: MetaTask, steps: number) {
  const { model, metaLr, variant, threads } = bilevel;
  const batch: Record<string, TensorSpec> = {
    supportX: rowSpec('support', task.support.x, model.freeSizes),
    supportY: rowSpec('support', task.support.y),
    queryX: rowSpec('query', task.query.x, model.freeSizes),
    queryY: rowSpec('query', task.query.y),
  };
  if (phase.multiStep) batch.stepWeights = { dtype: 'float32', shape: [bilevel.innerSteps] };
  return trainStep<Named<TensorSpec>>({
    params,
    frozen: model.frozen,
    batch,
    loss: (traced, { frozen, batch }) => {
      const support = { x: batch.supportX!, y: batch.supportY! };
      const query = { x: batch.queryX!, y: batch.queryY! };
      return taskLoss(
        model,
        traced,
        frozen,
        { support, query, stepWeights: batch.stepWeights },
        { ...bilevel, ...phase },
      );
    },
    optimizer: variant === 'reptile' ? sgd() : adamW({ weightDecay: 0 }),
    schedule: variant === 'maml++' ? cosineDecay({ lr: metaLr, steps }) : constantRate(metaLr),
    accumulate: { weight: () => scalar(1) },
    // The scale stays 1: wanted is that a step whose gradient is not finite is not taken.
    lossScale: { init: 1, growth: 1, backoff: 1 },
    threads,
  });
}

/** Of a step's state, the meta-learned tensors. */
function paramsOf(state: Named<HostTensor>): Named<HostTensor> {
  const own = Object.entries(state).filter(([name]) => name.startsWith('param/'));
  return Object.fromEntries(own.map(([name, value]) => [name.slice('param/'.length), value]));
}
