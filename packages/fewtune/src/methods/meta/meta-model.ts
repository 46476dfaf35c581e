import type { HostTensor, Named, Tensor, TensorSpec } from '@fewtune/engine';
import type { Normalise } from '@fewtune/models';
import { FewtuneError } from '../../errors.js';

/** What a model reads: one tensor of rows, or several by name, as a packed batch of sentences is. */
export type ModelInput<T = HostTensor> = T | Named<T>;

/** What meta-learning needs of a model: its start weights and a pure function of them. `conv4` of the models is one. */
export interface MetaModel<X extends ModelInput<Tensor> = Tensor> {
  /** What is meta-learned, float32. */
  readonly weights: Named<HostTensor>;
  /** What stays as it is, e.g. an encoder under LoRA weights; `forward` is given both under their names. */
  readonly frozen?: Named<HostTensor>;
  /** The weights that ANIL adapts and BOIL does not. */
  readonly headNames: readonly string[];
  /**
   * What x is made of, where that is more than one tensor or its sizes differ from task to task, as those of sentences
   * do. The first axis of the first is the number of rows; other symbols are sizes that may differ. When left out, x is
   * one tensor, and the sizes of a row are the same in all tasks.
   */
  readonly inputs?: Named<TensorSpec>;
  /** Numbers that `forward` returns a row. */
  readonly outputs: number;
  /** Batch normalisations with weights `<name>.weight` and `<name>.bias`: those MAML++ keeps for every inner step. */
  readonly normNames?: readonly string[];
  /** Whether a row's result depends on that row alone, whatever else is in its batch. */
  readonly rowsAlone?: boolean;
  /**
   * x [rows, ...] → [rows, outputs]: logits, or values in a regression. Where rows are normalised by a batch's
   * statistics, these are `reference`'s when it is given, so that a query's result does not depend on other queries; a
   * function normalises in place of the layers under `normNames`.
   */
  forward(weights: Named<Tensor>, x: X, reference?: X | Normalise): Tensor;
  /**
   * The head that a task begins with, made from its support set instead of meta-learned: `headNames` are then no names
   * of `weights`. It is differentiated through.
   */
  readonly headStart?: HeadStart<X>;
}

/** A head made from features, so that the features of a large support set may come in parts. */
export interface HeadStart<X extends ModelInput<Tensor> = Tensor> {
  /** x → [rows, hidden], what the head reads. */
  features(weights: Named<Tensor>, x: X): Tensor;
  /** features [rows, hidden], y int64 [rows] → the weights under `headNames`. */
  head(features: Tensor, y: Tensor): Named<Tensor>;
}

/** A model whatever it reads. */
export type AnyMetaModel = MetaModel<ModelInput<Tensor>>;

/** Labelled rows: x [rows, ...]; y int64 [rows] (the way of each row), or float32 [rows, outputs] in a regression. */
export interface Examples<X extends ModelInput = HostTensor> {
  readonly x: X;
  readonly y: HostTensor;
}

/** One task of an episode's data: adapt to `support`, be judged on `query`. */
export interface MetaTask<X extends ModelInput = HostTensor> {
  readonly support: Examples<X>;
  readonly query: Examples<X>;
}

export type AnyExamples = Examples<ModelInput>;
export type AnyMetaTask = MetaTask<ModelInput>;

export type MetaLoss = 'cross-entropy' | 'squared-error';

/**
 * Finds in a support or query set what would otherwise be an error deep in a kernel, or silently wrong.
 *
 * @throws FewtuneError ROWS_EMPTY, LABEL_UNKNOWN, OPTION_INVALID
 */
export function checkExamples(name: string, { x, y }: AnyExamples, loss: MetaLoss, outputs: number): void {
  const rows = rowsOf(x);
  if (rows === 0) throw new FewtuneError('ROWS_EMPTY', `the ${name} set has no rows; give it at least one example.`);
  const wanted = loss === 'cross-entropy' ? [rows] : [rows, outputs];
  const dtype = loss === 'cross-entropy' ? 'int64' : 'float32';
  if (y.dtype !== dtype || y.shape.join() !== wanted.join()) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `the ${name} set's labels are ${y.dtype} [${y.shape.join(', ')}]; for ${loss} on ${rows} rows they must be ${dtype} [${wanted.join(', ')}].`,
    );
  }
  if (loss !== 'cross-entropy') return;
  for (const [row, label] of (y.data as BigInt64Array).entries()) {
    if (label < 0n || label >= BigInt(outputs)) {
      throw new FewtuneError(
        'LABEL_UNKNOWN',
        `row ${row} of the ${name} set has label ${label}; the model has ${outputs} ways, labelled 0 to ${outputs - 1}.`,
      );
    }
  }
}

const isOne = <T extends { readonly shape: unknown }>(x: ModelInput<T>): x is T => Array.isArray(x.shape);

/** The tensors of an input by name: `prefix` alone, or `prefix/<name>` each. */
export function byName<T extends { readonly shape: unknown }>(prefix: string, x: ModelInput<T>): Record<string, T> {
  if (isOne(x)) return { [prefix]: x };
  return Object.fromEntries(Object.entries(x).map(([name, tensor]) => [`${prefix}/${name}`, tensor]));
}

/** What {@link byName} was given. */
export function fromNames<T>(prefix: string, named: Named<T>): ModelInput<T> {
  const one = named[prefix];
  if (one) return one;
  const own = Object.entries(named).filter(([name]) => name.startsWith(`${prefix}/`));
  return Object.fromEntries(own.map(([name, tensor]) => [name.slice(prefix.length + 1), tensor]));
}

/** How many rows an input holds. */
export function rowsOf(x: ModelInput): number {
  const first = isOne(x) ? x : Object.values(x)[0];
  return first?.shape[0] ?? 0;
}

/**
 * What a program is traced with for an input of any number of rows: that number is the symbol `of`, and other symbols
 * of the model's `inputs` are its own as well.
 */
export function inputSpec({ inputs }: Pick<AnyMetaModel, 'inputs'>, of: string, x: ModelInput): ModelInput<TensorSpec> {
  if (!inputs) return rowSpec(of, x as HostTensor);
  const rows = Object.values(inputs)[0]!.shape[0];
  const named = Object.entries(inputs).map(([name, { dtype, shape }]): [string, TensorSpec] => {
    const own = shape.map((size) => (typeof size === 'number' ? size : size === rows ? of : `${of}_${size}`));
    return [name, { dtype, shape: own }];
  });
  return Object.fromEntries(named);
}

/** One tensor of any number of rows, whose number is the symbol `of`. */
export function rowSpec(of: string, { dtype, shape }: HostTensor): TensorSpec {
  return { dtype, shape: [of, ...shape.slice(1)] };
}
