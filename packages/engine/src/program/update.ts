/** The parts that training programs share: their state, the gradient's way into it, and the optimiser's step. */
import type { DeviceTensor } from '#backend';
import { toDevice } from '#backend';
import type { HostTensor } from '../host-tensor.js';
import { zeros } from '../host-tensor.js';
import { add, div, mul } from '../ops/arithmetic.js';
import { cast } from '../ops/compare.js';
import { clipByGlobalNorm } from '../optim/clip.js';
import type { Named, Optimizer } from '../optim/optimizer.js';
import type { Schedule } from '../optim/schedule.js';
import { Source, withSource } from '../source.js';
import type { Tensor, TensorSpec } from '../tensor.js';
import { constant, placeholder } from '../tensor.js';
import { checkInputs } from './program.js';
import type { StateTrace } from './state-program.js';

/** How gradients become new weights. */
export interface UpdateOptions {
  readonly optimizer: Optimizer;
  readonly schedule: Schedule;
  /** Largest global norm of the gradient; unlimited when left out. */
  readonly clipNorm?: number;
}

/** What a step found. */
export interface StepMetrics {
  readonly loss: number;
  readonly lr: number;
  /** Global norm before clipping; only with `clipNorm`. */
  readonly gradientNorm?: number;
}

export const prefixed = <T>(values: Named<T>, prefix: string): Record<string, T> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [`${prefix}/${name}`, value]));

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
export function stateInputs(start: Named<HostTensor>, ...words: readonly string[]): Record<string, Tensor> {
  const wanted = Object.entries(start).filter(([name]) => words.includes(name.split('/')[0]!));
  return Object.fromEntries(wanted.map(([name, value]) => [name, placeholder(name, value)]));
}

/** Step count, weights and what the optimiser remembers. */
export function startState(params: Named<HostTensor>, optimizer: Optimizer): Record<string, HostTensor> {
  return {
    step: zeros('int64', []),
    ...prefixed(params, 'param'),
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
export function traceSumsUpdate(start: Named<HostTensor>, options: UpdateOptions): StateTrace {
  const reads = stateInputs(start, 'step', 'param', 'optimizer', 'sum');
  const { gradients, factor, loss } = meanOfSums(reads);
  const { writes, metrics } = traceUpdate(reads, gradients, factor, options);
  return { reads, given: {}, writes, results: { loss, ...metrics } };
}

/** Numbers that a run returned. */
export function metricsOf(results: Named<HostTensor>): StepMetrics {
  const values = Object.entries(results).map(([name, tensor]) => [name, Number(tensor.data[0])]);
  return Object.fromEntries(values) as unknown as StepMetrics;
}

/** The traced tensors, and the host tensors, of a batch. */
export type TracedBatch<B> = { readonly [K in keyof B]: Tensor };
export type HostBatch<B> = { readonly [K in keyof B]: HostTensor };

/** Placeholders of frozen weights and of a batch. */
export function givenInputs<B extends Named<TensorSpec>>(frozen: Named<HostTensor>, batch: B) {
  const traced = { frozen: placeholders(frozen, 'frozen'), batch: placeholders(batch, 'batch') as TracedBatch<B> };
  const given = { ...prefixed(traced.frozen, 'frozen'), ...prefixed<Tensor>(traced.batch, 'batch') };
  return { ...traced, given };
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
 * @param state     step, param/… and optimizer/…
 * @param gradients times `factor`, they are the gradient of the loss
 * @returns new values of the state, and the metrics `lr` and perhaps `gradientNorm`
 */
export function traceUpdate(
  state: Named<Tensor>,
  gradients: Named<Tensor>,
  factor: Tensor | number,
  { optimizer, schedule, clipNorm }: UpdateOptions,
): { writes: Record<string, Tensor>; metrics: Record<string, Tensor> } {
  const { gradients: used, norm } = named('clipping', () =>
    clipNorm === undefined
      ? { gradients: scaled(gradients, factor), norm: undefined }
      : clipByGlobalNorm(gradients, clipNorm, factor),
  );
  const count = named('step count', () => add(state.step!, 1));
  const at = named('schedule', () => ({ step: cast(count, 'float32'), lr: schedule(cast(count, 'float32')) }));
  const updated = named('optimizer', () =>
    optimizer.update(used, under(state, 'optimizer'), under(state, 'param'), at),
  );
  return {
    writes: { step: count, ...prefixed(updated.params, 'param'), ...prefixed(updated.state, 'optimizer') },
    metrics: { lr: at.lr, ...(norm && { gradientNorm: norm }) },
  };
}

/** In listings and profiles this work stands under its name: it belongs to no line of the model. */
const named = <T>(name: string, trace: () => T): T => withSource(Source.named(name), trace, false);

const scaled = (gradients: Named<Tensor>, factor: Tensor | number): Named<Tensor> =>
  Object.fromEntries(Object.entries(gradients).map(([name, gradient]) => [name, mul(gradient, factor)]));
