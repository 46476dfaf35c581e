import { compile, constant, type HostTensor, type Named, type Program, softmax, type Tensor } from '@fewtune/engine';
import { FewtuneError } from '../../errors.js';
import { type Run, startRun } from '../../run.js';
import { checkExamples, type MetaModel, type MetaTask, rowSpec } from './meta-model.js';
import {
  type MetaTrainEvent,
  type MetaTrainOptions,
  type MetaTrainResult,
  metaTrain,
  type TaskBatches,
} from './meta-train.js';
import { adaptTo, type BilevelOptions, isAdapted, mamlVariants, startParams, withoutRates } from './task-loss.js';

export interface MamlOptions extends Partial<BilevelOptions> {
  readonly model: MetaModel;
  /** Rate of Adam on the meta-learned weights, 0.001; of Reptile the share of the way it goes, 0.1. */
  readonly metaLr?: number;
  /** The `params` of a meta-trained Maml of the same model and variant, to go on from; the model's start when left out. */
  readonly start?: Named<HostTensor>;
  readonly threads?: number;
}

/** A model adapted to one task. Its programs belong to the {@link Maml} it came from. */
export interface AdaptedModel {
  /** All weights, adapted and not. */
  readonly weights: Named<HostTensor>;
  /** x [rows, ...] → probabilities [rows, outputs]; in a regression the values themselves. */
  predict(x: HostTensor): Promise<HostTensor>;
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
 * converge), `metaLr` 0.001 (Reptile 0.1), `loss` cross-entropy, `proximal` (λ of implicit MAML) 1, `transductive` false.
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
  readonly options: BilevelOptions & { readonly metaLr: number };
  private readonly model: MetaModel;
  private readonly threads: number | undefined;
  private learned: Named<HostTensor>;
  private training = false;
  private readonly programs = new Map<string, Promise<RowProgram>>();

  constructor({ model, threads, start, ...given }: MamlOptions) {
    const metaLr = given.metaLr ?? (given.variant === 'reptile' ? 0.1 : 0.001);
    const innerSteps = given.innerSteps ?? (given.variant === 'imaml' ? 16 : 5);
    this.options = { ...defaults, ...given, metaLr, innerSteps };
    checkOptions(this.options, model);
    this.model = model;
    this.threads = threads;
    const fresh = startParams(model.weights, this.options);
    if (start) checkStart(start, fresh);
    this.learned = start ?? fresh;
  }

  /** All that was meta-learned: the start weights, and the learned rates under `rate/`. What `start` takes. */
  get params(): Named<HostTensor> {
    return this.learned;
  }

  /** The meta-learned start weights as they are now. */
  get weights(): Named<HostTensor> {
    return withoutRates(this.learned);
  }

  /**
   * Learns the start weights from batches of tasks. The run goes on whether or not its events are read. When it is
   * interrupted or diverges, the weights of the last good step are kept.
   *
   * @throws (through `result` and through iteration) FewtuneError LOSS_NOT_FINITE, INTERRUPTED, ROWS_EMPTY,
   *   LABEL_UNKNOWN, OPTION_INVALID
   */
  metaTrain(batches: TaskBatches, options: MetaTrainOptions = {}): Run<MetaTrainEvent, MetaTrainResult> {
    return startRun(async (emit) => {
      checkCount('epochs', options.epochs ?? 1, 1);
      if (this.training) throw new FewtuneError('OPTION_INVALID', 'this Maml is being trained; await that run first.');
      this.training = true;
      try {
        const bilevel = { ...this.options, model: this.model, threads: this.threads };
        const ended = await metaTrain(bilevel, this.learned, batches, options, (event) => {
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

  /**
   * A model for one task, by `steps` (default: `innerSteps`) of gradient descent on its support set. 0 steps leave the
   * start weights as they are.
   *
   * @throws FewtuneError LOSS_NOT_FINITE when the descent diverges; ROWS_EMPTY, LABEL_UNKNOWN, OPTION_INVALID
   */
  async adapt(
    { support }: Pick<MetaTask, 'support'>,
    { steps = this.options.innerSteps }: { steps?: number } = {},
  ): Promise<AdaptedModel> {
    checkCount('steps', steps, 0);
    checkExamples('support', support, this.options.loss, this.model.outputs);
    const fast = steps === 0 ? {} : await this.descend(support, steps);
    for (const [name, { data }] of Object.entries(fast)) {
      if ((data as Float32Array).every(Number.isFinite)) continue;
      const { innerLr } = this.options;
      throw new FewtuneError(
        'LOSS_NOT_FINITE',
        `adaptation diverged: after ${steps} steps "${name}" is not finite. Lower innerLr (${innerLr}) or take fewer steps.`,
      );
    }
    const weights = { ...this.weights, ...fast };
    return { weights, predict: (x) => this.predict(weights, support.x, x) };
  }

  async dispose(): Promise<void> {
    const open = [...this.programs.values()];
    this.programs.clear();
    for (const program of open) await (await program).dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /** The adapted weights alone. */
  private async descend({ x, y }: MetaTask['support'], steps: number): Promise<Named<HostTensor>> {
    const adapted = isAdapted(this.options.variant, this.model.headNames);
    const program = await this.program(
      `adapt ${steps}`,
      { params: this.learned, rows: { x, y } },
      ({ params, rows }) => {
        const support = { x: rows.x!, y: rows.y! };
        const options = { ...this.options, firstOrder: true, steps };
        const fast = adaptTo(this.model, params, this.frozen(), support, options).at(-1)!;
        return Object.fromEntries(Object.entries(fast).filter(([name]) => adapted(name)));
      },
    );
    return program.run({ params: this.learned, rows: { x, y } });
  }

  private async predict(params: Named<HostTensor>, reference: HostTensor, x: HostTensor): Promise<HostTensor> {
    const { loss, transductive } = this.options;
    const given: Given = transductive ? { params, rows: { x } } : { params, rows: { x }, others: { reference } };
    const program = await this.program('predict', given, ({ params, rows, others }) => {
      const output = this.model.forward({ ...this.frozen(), ...params }, rows.x!, others?.reference);
      return { output: loss === 'cross-entropy' ? softmax(output) : output };
    });
    return (await program.run(given)).output!;
  }

  private frozen(): Named<Tensor> {
    const entries = Object.entries(this.model.frozen ?? {});
    return Object.fromEntries(entries.map(([name, value]) => [name, constant(value, name)]));
  }

  /** Compiled once for any number of rows. */
  private program(name: string, given: Given, trace: Trace): Promise<RowProgram> {
    const { freeSizes } = this.model;
    const key = freeSizes ? name : `${name} ${given.rows.x!.shape.slice(1).join()}`;
    const open = this.programs.get(key) ?? compileRows(name, given, trace, { freeSizes, threads: this.threads });
    this.programs.set(key, open);
    return open;
  }
}

/** Weights, and tensors whose first axis may differ from call to call: of one size in `rows`, of another in `others`. */
interface Given<T = HostTensor> {
  readonly params: Named<T>;
  readonly rows: Named<T>;
  readonly others?: Named<T>;
}

type Trace = (inputs: Given<Tensor>) => Named<Tensor>;
type RowProgram = Program<Given, Named<HostTensor>>;

async function compileRows(
  name: string,
  given: Given,
  trace: Trace,
  { freeSizes, threads }: { freeSizes?: boolean; threads?: number },
): Promise<RowProgram> {
  const free = (symbol: string, tensors: Named<HostTensor>) =>
    Object.fromEntries(
      Object.entries(tensors).map(([key, tensor]) => [key, rowSpec(symbol, tensor, freeSizes && key !== 'y')]),
    );
  const specs = {
    params: Object.fromEntries(Object.entries(given.params).map(([key, { dtype, shape }]) => [key, { dtype, shape }])),
    rows: free('rows', given.rows),
    ...(given.others && { others: free('others', given.others) }),
  };
  const program = await compile((inputs) => trace(inputs as Given<Tensor>), specs, { name, threads });
  return program as unknown as RowProgram; // the specs' type lists no names, the caller's does
}

function checkOptions(options: Maml['options'], { headNames, weights }: MetaModel): void {
  const { variant, innerLr, metaLr, innerSteps, proximal } = options;
  const wrong = (message: string) => new FewtuneError('OPTION_INVALID', message);
  if (!mamlVariants.includes(variant)) {
    throw wrong(`variant is ${JSON.stringify(variant)}; it must be one of ${mamlVariants.join(', ')}.`);
  }
  for (const [name, value] of Object.entries({ innerLr, metaLr, proximal })) {
    if (!(Number.isFinite(value) && value > 0)) throw wrong(`${name} is ${value}; it must be a number above 0.`);
  }
  checkCount('innerSteps', innerSteps, 1);
  const missing = headNames.filter((name) => !(name in weights));
  if (missing.length > 0) throw wrong(`the model's headNames name no weight of it: ${missing.join(', ')}.`);
  const adapted = Object.keys(weights).filter(isAdapted(variant, headNames));
  if (adapted.length === 0) throw wrong(`${variant} has no weight to adapt: the model's headNames leave none.`);
}

/** @throws FewtuneError OPTION_INVALID when names or shapes are not those of the model and the variant */
function checkStart(start: Named<HostTensor>, fresh: Named<HostTensor>): void {
  const shapeOf = (tensor?: HostTensor) => (tensor ? `[${tensor.shape.join(', ')}]` : 'missing');
  for (const name of new Set([...Object.keys(fresh), ...Object.keys(start)])) {
    const [given, wanted] = [shapeOf(start[name]), shapeOf(fresh[name])];
    if (given === wanted) continue;
    const what = wanted === 'missing' ? 'and this model and variant have no such tensor' : `it must be ${wanted}`;
    throw new FewtuneError('OPTION_INVALID', `start: "${name}" is ${given}, ${what}.`);
  }
}

function checkCount(name: string, value: number, least: number): void {
  if (Number.isInteger(value) && value >= least) return;
  throw new FewtuneError('OPTION_INVALID', `${name} is ${value}; it must be a whole number of at least ${least}.`);
}
