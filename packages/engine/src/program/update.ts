/** The parts that training programs share: their state, the gradient's way into it, and the optimiser's step. */
import type { HostTensor } from '../host-tensor.js';
import { zeros } from '../host-tensor.js';
import { add, div, mul } from '../ops/arithmetic.js';
import { cast } from '../ops/compare.js';
import { clipByGlobalNorm } from '../optim/clip.js';
import type { Named, Optimizer } from '../optim/optimizer.js';
import type { Schedule } from '../optim/schedule.js';
import type { Tensor, TensorSpec } from '../tensor.js';
import { constant, placeholder } from '../tensor.js';

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

const prefixed = <T>(values: Named<T>, prefix: string): Record<string, T> =>
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

/** Sums with one more micro-batch, whose `gradients` are already times `weight`. */
export function addToSums(
  sums: Named<Tensor>,
  gradients: Named<Tensor>,
  loss: Tensor,
  weight: Tensor,
): Record<string, Tensor> {
  const added: Record<string, Tensor> = {
    'sum/loss': add(sums['sum/loss']!, mul(loss, weight)),
    'sum/weight': add(sums['sum/weight']!, weight),
    'sum/count': add(sums['sum/count']!, 1),
  };
  for (const [name, gradient] of Object.entries(gradients)) {
    added[`sum/gradient/${name}`] = add(sums[`sum/gradient/${name}`]!, gradient);
  }
  return added;
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
  const { gradients: used, norm } =
    clipNorm === undefined
      ? { gradients: scaled(gradients, factor), norm: undefined }
      : clipByGlobalNorm(gradients, clipNorm, factor);
  const count = add(state.step!, 1);
  const at = { step: cast(count, 'float32'), lr: schedule(cast(count, 'float32')) };
  const updated = optimizer.update(used, under(state, 'optimizer'), under(state, 'param'), at);
  return {
    writes: { step: count, ...prefixed(updated.params, 'param'), ...prefixed(updated.state, 'optimizer') },
    metrics: { lr: at.lr, ...(norm && { gradientNorm: norm }) },
  };
}

const scaled = (gradients: Named<Tensor>, factor: Tensor | number): Named<Tensor> =>
  Object.fromEntries(Object.entries(gradients).map(([name, gradient]) => [name, mul(gradient, factor)]));
