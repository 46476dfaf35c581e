/** The parts that training programs share: their state, the gradient's way into it, and the optimiser's step. */
import type { Backend, DeviceTensor } from '#backend';
import { toDevice } from '#backend';
import { EngineError } from '../errors.js';
import type { HostTensor } from '../host-tensor.js';
import { convertFloat, zeros } from '../host-tensor.js';
import { add, div, mul, sub } from '../ops/arithmetic.js';
import { cast, equal, logicalNot } from '../ops/compare.js';
import { clipByGlobalNorm, globalNorm } from '../optim/clip.js';
import type { LossScaleOptions } from '../optim/loss-scale.js';
import { nextLossScale, startLossScale } from '../optim/loss-scale.js';
import type { Named, Optimizer } from '../optim/optimizer.js';
import type { Schedule } from '../optim/schedule.js';
import { Source, withSource } from '../source.js';
import type { Tensor, TensorSpec } from '../tensor.js';
import { constant, placeholder } from '../tensor.js';
import type { Precision } from '../transforms/precision.js';
import { checkInputs } from './program.js';
import type { StateTrace } from './state-program.js';

/** How gradients become new weights. */
export interface UpdateOptions {
  readonly optimizer: Optimizer;
  readonly schedule: Schedule;
  /** Largest global norm of the gradient; unlimited when left out. */
  readonly clipNorm?: number;
  /** Which float dtype is used for what; everything is computed as it is written when left out. */
  readonly precision?: Precision;
  /**
   * Dynamic loss scaling; on when `precision` computes in float16. A step whose gradients overflow is skipped: weights,
   * moments and count stay as they are, and the scale shrinks.
   */
  readonly lossScale?: boolean | LossScaleOptions;
}

/** What a step found. */
export interface StepMetrics {
  readonly loss: number;
  readonly lr: number;
  /** Global norm before clipping; only with `clipNorm`, loss scaling or a shadow check. */
  readonly gradientNorm?: number;
  /** The gradients overflowed and nothing was changed but the loss scale; only with loss scaling. */
  readonly skipped?: boolean;
  /** The scale that this step used; only with loss scaling. */
  readonly lossScale?: number;
}

/** How the loss is scaled, or undefined when it is not. */
export function lossScaleOf({ lossScale, precision }: UpdateOptions): LossScaleOptions | undefined {
  if (typeof lossScale === 'object') return lossScale;
  return (lossScale ?? precision?.compute === 'float16') ? {} : undefined;
}

/** Frozen weights as the policy stores them. Vectors (biases, norms) are few bytes and stay exact. */
export function storedWeights(frozen: Named<HostTensor>, precision?: Precision): Named<HostTensor> {
  if (precision?.weight !== 'float16') return frozen;
  const store = (name: string, tensor: HostTensor) => {
    if (tensor.dtype !== 'float32' || tensor.shape.length < 2) return tensor;
    const half = convertFloat(tensor, 'float16');
    const lost = (half.data as Uint16Array).findIndex((bits) => (bits & 0x7fff) === 0x7c00);
    if (lost < 0) return half;
    throw new EngineError(
      'PRECISION_LOST',
      `the frozen weight "${name}" holds ${tensor.data[lost]}, beyond float16's 65504; store weights in float32`,
    );
  };
  return Object.fromEntries(Object.entries(frozen).map(([name, tensor]) => [name, store(name, tensor)]));
}

export const prefixed = <T>(values: Named<T>, prefix: string): Record<string, T> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [`${prefix}/${name}`, value]));

/** The same names with other values. */
export const mapValues = <T, U>(values: Named<T>, change: (value: T) => U): Record<string, U> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, change(value)]));

/** The entries whose names begin with `prefix/`, without it. */
export function under<T>(values: Named<T>, prefix: string): Record<string, T> {
  const own = Object.entries(values).filter(([name]) => name.startsWith(`${prefix}/`));
  return Object.fromEntries(own.map(([name, value]) => [name.slice(prefix.length + 1), value]));
}

/** Placeholders by name, under a prefix in the program. */
export function placeholders(specs: Named<TensorSpec>, prefix: string): Record<string, Tensor> {
  return Object.fromEntries(
    Object.entries(specs).map(([name, spec]) => [name, placeholder(`${prefix}/${name}`, spec)]),
  );
}

/** Placeholders for values of a state; `names` begin with one of the given words. */
export function stateInputs(start: Named<TensorSpec>, ...words: readonly string[]): Record<string, Tensor> {
  const wanted = Object.entries(start).filter(([name]) => words.includes(name.split('/')[0]!));
  return Object.fromEntries(wanted.map(([name, value]) => [name, placeholder(name, value)]));
}

/** Step count, weights (copied unless they may be taken), what the optimiser remembers, and the loss scale. */
export function startState(
  params: Named<HostTensor>,
  options: UpdateOptions & { readonly takeParams?: boolean },
): Record<string, HostTensor> {
  const { optimizer, takeParams = false } = options;
  const scaling = lossScaleOf(options);
  const own = takeParams ? params : mapValues(params, (p) => ({ ...p, data: p.data.slice() }));
  return {
    ...(scaling && startLossScale(scaling)),
    step: zeros('int64', []),
    ...prefixed(own, 'param'),
    ...prefixed(optimizer.init(params), 'optimizer'),
  };
}

/** Sums over micro-batches: of gradients and losses, each times its weight, of weights, and how many there were. */
export function startSums(params: Named<HostTensor>): Record<string, HostTensor> {
  const gradients = Object.entries(params).map(([name, { dtype, shape }]) => [
    `sum/gradient/${name}`,
    zeros(dtype, shape),
  ]);
  return {
    ...Object.fromEntries(gradients),
    'sum/loss': zeros('float32', []),
    'sum/weight': zeros('float32', []),
    'sum/count': zeros('int64', []),
  };
}

/** Gradient sums with one more gradient each, which is already times its micro-batch's weight. */
export function addGradients(sums: Named<Tensor>, gradients: Named<Tensor>): Record<string, Tensor> {
  const names = Object.entries(gradients).map(([name, gradient]) => [`sum/gradient/${name}`, gradient] as const);
  return Object.fromEntries(names.map(([name, gradient]) => [name, add(sums[name]!, gradient)]));
}

/** The other sums with one more micro-batch. */
export function addLoss(sums: Named<Tensor>, loss: Tensor, weight: Tensor): Record<string, Tensor> {
  return {
    'sum/loss': add(sums['sum/loss']!, mul(loss, weight)),
    'sum/weight': add(sums['sum/weight']!, weight),
    'sum/count': add(sums['sum/count']!, 1),
  };
}

/** Of the sums: the mean gradient's factor, and the mean loss. */
export function meanOfSums(sums: Named<Tensor>): { gradients: Record<string, Tensor>; factor: Tensor; loss: Tensor } {
  const factor = div(1, sums['sum/weight']!);
  return { gradients: under(sums, 'sum/gradient'), factor, loss: mul(sums['sum/loss']!, factor) };
}

/** Seed for the random numbers of a micro-batch; of the first, it is the step. */
export function seedOf(step: Tensor, microBatch: Tensor): Tensor {
  const stride = constant({ dtype: 'int64', shape: [], data: BigInt64Array.of(1n << 32n) });
  return add(step, mul(microBatch, stride));
}

/** The update by what is in the sums. */
export function traceSumsUpdate(start: Named<TensorSpec>, options: UpdateOptions): StateTrace {
  const reads = stateInputs(start, 'step', 'param', 'optimizer', 'scale', 'sum');
  const { gradients, factor, loss } = meanOfSums(reads);
  const { writes, metrics } = traceUpdate(reads, gradients, factor, options);
  return { reads, given: {}, writes, results: { loss, ...metrics } };
}

/** Numbers that a run returned. */
export function metricsOf(results: Named<HostTensor>): StepMetrics {
  const numbers = Object.entries(results).filter(([, { shape }]) => shape.length === 0);
  const values = numbers.map(([name, tensor]) => [
    name,
    tensor.dtype === 'bool' ? tensor.data[0] === 1 : Number(tensor.data[0]),
  ]);
  return Object.fromEntries(values) as unknown as StepMetrics;
}

/** What of a step's new state counts: of one that is skipped, only the loss scale. */
export function accepted(writes: readonly string[], results: Named<HostTensor>): readonly string[] {
  return results.skipped?.data[0] === 1 ? writes.filter((name) => name.startsWith('scale/')) : writes;
}

/** The traced tensors, and the host tensors, of a batch. */
export type TracedBatch<B> = { readonly [K in keyof B]: Tensor };
export type HostBatch<B> = { readonly [K in keyof B]: HostTensor };

/**
 * Frozen weights and a batch, traced: the batch as placeholders, and so are the weights unless they are to be packed into
 * the program.
 *
 * @returns besides both, the placeholders under their names in the program
 */
export function givenInputs<B extends Named<TensorSpec>>(frozen: Named<HostTensor>, batch: B, packed = false) {
  const fixed = packed
    ? Object.fromEntries(Object.entries(frozen).map(([name, value]) => [name, constant(value, `frozen/${name}`)]))
    : placeholders(frozen, 'frozen');
  const traced = { frozen: fixed, batch: placeholders(batch, 'batch') as TracedBatch<B> };
  const given = { ...(packed ? {} : prefixed(fixed, 'frozen')), ...prefixed<Tensor>(traced.batch, 'batch') };
  return { ...traced, given };
}

/** Up to here the runtime's second copy of frozen weights, in the order its kernels read them, is worth its memory. */
const packedLimit = 256 << 20;

/** Whether frozen weights go into the program: on a processor, while they are not large, and as they are. */
export function packsWeights(frozen: Named<HostTensor>, backend: Backend | undefined, precision?: Precision): boolean {
  const onProcessor = backend === undefined || backend === 'cpu' || backend === 'wasm';
  const bytes = Object.values(frozen).reduce((sum, { data }) => sum + data.byteLength, 0);
  return onProcessor && bytes <= packedLimit && precision?.weight !== 'float16';
}

/** Feeds of a batch, checked. @throws EngineError INPUT_MISMATCH */
export function batchFeeds(specs: Named<TensorSpec>, batch: Named<HostTensor>): Record<string, DeviceTensor> {
  const given = new Map<string, HostTensor>(Object.entries(batch));
  checkInputs('training step', new Map(Object.entries(specs)), given);
  return Object.fromEntries([...given].map(([name, tensor]) => [`batch/${name}`, toDevice(tensor)]));
}

/**
 * Clipping, schedule and optimiser, traced.
 *
 * @param state     step, param/…, optimizer/… and, if the loss is scaled, scale/…
 * @param unordered gradients; times `factor`, they are those of the loss
 * @returns new values of the state, and the metrics but the loss
 */
export function traceUpdate(
  state: Named<Tensor>,
  unordered: Named<Tensor>,
  factor: Tensor | number,
  options: UpdateOptions & { readonly wantsNorm?: boolean },
): { writes: Record<string, Tensor>; metrics: Record<string, Tensor> } {
  const { optimizer, schedule, clipNorm, wantsNorm } = options;
  const scaling = lossScaleOf(options);
  const gradients = inOrder(unordered);
  const { gradients: used, norm } = named('clipping', () => {
    const share = scaling ? div(factor, state['scale/value']!) : factor;
    return clipNorm === undefined
      ? { gradients: scaled(gradients, share), norm: scaling || wantsNorm ? normOf(gradients, share) : undefined }
      : clipByGlobalNorm(gradients, clipNorm, share);
  });
  const scale = scaling && named('loss scale', () => lossScaleAfter(state, norm!, scaling));
  const count = named('step count', () => add(state.step!, 1));
  const at = named('schedule', () => ({ step: cast(count, 'float32'), lr: schedule(cast(count, 'float32')) }));
  const updated = named('optimizer', () =>
    optimizer.update(used, under(state, 'optimizer'), under(state, 'param'), at),
  );
  return {
    writes: {
      step: count,
      ...prefixed(lastFirst(updated.params, gradients), 'param'),
      ...prefixed(updated.state, 'optimizer'),
      ...scale?.writes,
    },
    metrics: { lr: at.lr, ...(norm && { gradientNorm: norm }), ...scale?.metrics },
  };
}

/**
 * ONNX Runtime runs operators depth first, from results that nothing reads, the last of them first, and from an
 * operator's later inputs. Gradients are asked for in the order in which the backward pass finds them, so that a weight's
 * gradient is computed when it gets there: else it would run down to the first layer before, and hold what all the others
 * wait for (half of a MiniLM step's memory between operators).
 */
const inOrder = (gradients: Named<Tensor>): Named<Tensor> =>
  Object.fromEntries(Object.entries(gradients).sort(([, a], [, b]) => a.node.id - b.node.id));

/** New weights, those whose gradients are found first at the end. */
const lastFirst = (weights: Named<Tensor>, order: Named<Tensor>): Named<Tensor> =>
  Object.fromEntries(
    Object.keys(order)
      .reverse()
      .map((name) => [name, weights[name]!]),
  );

/** In listings and profiles this work stands under its name: it belongs to no line of the model. */
const named = <T>(name: string, trace: () => T): T => withSource(Source.named(name), trace, false);

const normOf = (gradients: Named<Tensor>, factor: Tensor | number): Tensor =>
  mul(globalNorm(Object.values(gradients)), factor);

function lossScaleAfter(state: Named<Tensor>, norm: Tensor, options: LossScaleOptions) {
  const finite = equal(sub(norm, norm), 0); // infinity and NaN, less themselves, are NaN
  return {
    writes: nextLossScale(state, finite, options),
    metrics: { skipped: logicalNot(finite), lossScale: state['scale/value']! },
  };
}

const scaled = (gradients: Named<Tensor>, factor: Tensor | number): Named<Tensor> =>
  Object.fromEntries(Object.entries(gradients).map(([name, gradient]) => [name, mul(gradient, factor)]));
