/** What a training step is asked for. */
import type { SessionOptions } from '#backend';
import type { HostTensor } from '../host-tensor.js';
import type { Named } from '../optim/optimizer.js';
import type { Tensor, TensorSpec } from '../tensor.js';
import type { ShadowOptions } from './shadow.js';
import type { TracedBatch, UpdateOptions } from './update.js';

export interface TrainStepOptions<B extends Named<TensorSpec>> extends SessionOptions, UpdateOptions {
  /** Start values of the trained weights; copied, unless `takeParams` says otherwise. */
  readonly params: Named<HostTensor>;
  /**
   * The arrays of `params` become the step's own, as a module's weights are its optimiser's in PyTorch: one copy of all
   * weights less in memory. Nobody may read or share them afterwards; what was trained is read with `params()`.
   */
  readonly takeParams?: boolean;
  /** Weights that do not change. */
  readonly frozen?: Named<HostTensor>;
  /**
   * Frozen weights become part of the program, and the runtime lays them out once as its kernels read them: a step of few
   * tokens is up to a quarter faster, for two more copies in memory. Else they are inputs, of which several programs
   * share one copy. On by default on a processor, up to 256 MB.
   */
  readonly packFrozen?: boolean;
  /**
   * Embedding tables of which each step touches only the rows that a batch input (int64) names, by table. In the loss
   * the table holds just these rows and the input their places, so that `gather(table, input)` is written as always;
   * whatever else the input is used for must be another input. Rows that are not in the batch keep their moments and do
   * not decay, as with `torch.optim.SparseAdam`.
   */
  readonly rows?: { readonly [table: string]: keyof B & string };
  /** What each step is given. */
  readonly batch: B;
  /**
   * The loss, a float32 scalar; `step` (int64 scalar, 0 first) seeds dropout, and is another number for every
   * micro-batch.
   */
  readonly loss: (
    params: Named<Tensor>,
    given: { frozen: Named<Tensor>; batch: TracedBatch<B>; step: Tensor },
  ) => Tensor;
  /**
   * A step may be made of several micro-batches. Two programs then take the place of one: the first adds the gradient
   * of a micro-batch to sums, the second updates the weights.
   */
  readonly accumulate?: boolean | AccumulateOptions<B>;
  /** A check of the first batches against float32; on when `precision` computes in float16. */
  readonly shadow?: boolean | ShadowOptions;
  /**
   * Looks at the loss and the new weights of every step; where they are not finite, the error names the operator and its
   * line, and the step is not taken. For the time of a search: it reads all weights.
   */
  readonly debugNans?: boolean;
}

/** What the step's programs are traced with. */
export type TracedOptions<B extends Named<TensorSpec>> = Omit<TrainStepOptions<B>, 'params'>;

export interface AccumulateOptions<B> {
  /**
   * What the loss of a batch is a mean over: the loss of the whole step is Σ weight · loss / Σ weight. A float32 scalar,
   * traced: the sum of a mask for a mean over tokens, for example. When left out, it is the number of rows, that is the
   * size of the first axis of the batch's first tensor.
   */
  weight?(batch: TracedBatch<B>): Tensor;
  /**
   * Micro-batches that are worked on at once, each in a thread with a session of its own; the sums are added up in the
   * order of the micro-batches, so that the result does not depend on it. Operators too small to be shared among cores
   * gain most. Every session holds the packed weights, and every run copies the trained ones. `threads` counts for each
   * session; when left out, they share the cores. On `cpu` only, and not together with `shadow` or `rows`.
   */
  readonly replicas?: number;
}
