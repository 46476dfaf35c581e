import type { HostTensor, Named, Tensor, TensorSpec } from '@fewtune/engine';
import { FewtuneError } from '../../errors.js';

/** What meta-learning needs of a model: its start weights and a pure function of them. `conv4` of the models is one. */
export interface MetaModel {
  /** What is meta-learned, float32. */
  readonly weights: Named<HostTensor>;
  /** What stays as it is, e.g. an encoder under LoRA weights; `forward` is given both under their names. */
  readonly frozen?: Named<HostTensor>;
  /** The weights that ANIL adapts and BOIL does not. */
  readonly headNames: readonly string[];
  /** Whether the sizes of a row may differ from task to task, as those of padded sentences do; else all must agree. */
  readonly freeSizes?: boolean;
  /** Numbers that `forward` returns a row. */
  readonly outputs: number;
  /**
   * x [rows, ...] → [rows, outputs]: logits, or values in a regression. Where rows are normalised by a batch's
   * statistics, these are `reference`'s when it is given, so that a query's result does not depend on other queries.
   */
  forward(weights: Named<Tensor>, x: Tensor, reference?: Tensor): Tensor;
}

/** Labelled rows: x [rows, ...]; y int64 [rows] (the way of each row), or float32 [rows, outputs] in a regression. */
export interface Examples {
  readonly x: HostTensor;
  readonly y: HostTensor;
}

/** One task of an episode's data: adapt to `support`, be judged on `query`. */
export interface MetaTask {
  readonly support: Examples;
  readonly query: Examples;
}

export type MetaLoss = 'cross-entropy' | 'squared-error';

/**
 * Finds in a support or query set what would otherwise be an error deep in a kernel, or silently wrong.
 *
 * @throws FewtuneError ROWS_EMPTY, LABEL_UNKNOWN, OPTION_INVALID
 */
export function checkExamples(name: string, { x, y }: Examples, loss: MetaLoss, outputs: number): void {
  const rows = x.shape[0] ?? 0;
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

/**
 * What a program is traced with for rows [rows, ...]: their number is the symbol `of`, and with `freeSizes` so are the
 * sizes of each.
 */
export function rowSpec(of: string, { dtype, shape }: HostTensor, freeSizes = false): TensorSpec {
  return { dtype, shape: shape.map((size, axis) => (axis === 0 ? of : freeSizes ? `${of}Axis${axis}` : size)) };
}
