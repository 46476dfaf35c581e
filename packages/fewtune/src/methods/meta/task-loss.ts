import {
  add,
  crossEntropy,
  type HostTensor,
  hostTensor,
  mean,
  mul,
  type Named,
  reshape,
  slice,
  stopGradient,
  sub,
  sum,
  sumSquares,
  type Tensor,
} from '@fewtune/engine';
import { implicitGradient } from './implicit-gradient.js';
import { innerLoop } from './inner-loop.js';
import type { MetaLoss, MetaModel } from './meta-model.js';

export const mamlVariants = ['maml', 'fomaml', 'anil', 'boil', 'meta-sgd', 'maml++', 'reptile', 'imaml'] as const;
export type MamlVariant = (typeof mamlVariants)[number];

/** The learned rates stand among the meta-learned weights, under this prefix. */
const ratePrefix = 'rate/';
const isRate = (name: string) => name.startsWith(ratePrefix);

/** What decides the inner loop and the outer loss. */
export interface BilevelOptions {
  readonly variant: MamlVariant;
  readonly innerLr: number;
  readonly innerSteps: number;
  readonly loss: MetaLoss;
  /** λ of implicit MAML: how strongly adapted weights are held to the start. Its inner loop must converge: take 16 steps. */
  readonly proximal: number;
  /** Whether queries are normalised by the statistics of the query set instead of the support set's. */
  readonly transductive: boolean;
}

/** A support or query set, traced. */
export interface TracedExamples {
  readonly x: Tensor;
  readonly y: Tensor;
}

/** ANIL adapts the head alone (Raghu et al. 2020, arXiv:1909.09157), BOIL all but it (Oh et al. 2021, arXiv:2008.08882). */
export function isAdapted(variant: MamlVariant, headNames: readonly string[]): (name: string) => boolean {
  if (variant === 'anil') return (name) => headNames.includes(name);
  if (variant === 'boil') return (name) => !headNames.includes(name);
  return () => true;
}

/**
 * The meta-learned tensors: the weights, and the learned rates where the variant has them. Meta-SGD: one rate an element
 * (Li et al. 2017, arXiv:1707.09835). MAML++: one a weight tensor and step (Antoniou et al. 2019, section 4,
 * arXiv:1810.09502).
 */
export function startParams(
  weights: Named<HostTensor>,
  { variant, innerLr, innerSteps }: BilevelOptions,
): Record<string, HostTensor> {
  const params: Record<string, HostTensor> = { ...weights };
  if (variant !== 'meta-sgd' && variant !== 'maml++') return params;
  for (const [name, { shape, data }] of Object.entries(weights)) {
    const [own, length] = variant === 'meta-sgd' ? [shape, data.length] : [[innerSteps], innerSteps];
    params[`${ratePrefix}${name}`] = hostTensor('float32', own, new Float32Array(length).fill(innerLr));
  }
  return params;
}

/** Without the learned rates. */
export const withoutRates = <T>(params: Named<T>): Record<string, T> =>
  Object.fromEntries(Object.entries(params).filter(([name]) => !isRate(name)));

/** The rate of each weight in each step; after more steps than were trained, MAML++ keeps the last one's. */
function rateOf(params: Named<Tensor>, { variant, innerLr, innerSteps }: BilevelOptions) {
  return (name: string, step: number): number | Tensor => {
    if (variant === 'meta-sgd') return params[ratePrefix + name]!;
    if (variant !== 'maml++') return innerLr;
    const at = Math.min(step, innerSteps - 1);
    return elementAt(params[ratePrefix + name]!, at);
  };
}

/** One element of a vector, as a scalar. */
const elementAt = (x: Tensor, at: number): Tensor => reshape(slice(x, 0, at, at + 1), []);

/** Loss of the model on some examples, a scalar. */
export function lossOn(
  model: MetaModel,
  kind: MetaLoss,
  weights: Named<Tensor>,
  { x, y }: TracedExamples,
  reference?: Tensor,
): Tensor {
  const output = model.forward(weights, x, reference);
  if (kind === 'cross-entropy') return crossEntropy(output, y);
  const difference = sub(output, y);
  return mean(mul(difference, difference));
}

/** The weights before and after each inner step on a support set; `params` as `startParams` names them. */
export function adaptTo(
  model: MetaModel,
  params: Named<Tensor>,
  frozen: Named<Tensor>,
  support: TracedExamples,
  options: BilevelOptions & { readonly firstOrder?: boolean; readonly steps?: number },
): Named<Tensor>[] {
  const weights = withoutRates(params);
  const plain = (fast: Named<Tensor>) => lossOn(model, options.loss, { ...frozen, ...fast }, support);
  const held = (fast: Named<Tensor>) => add(plain(fast), mul(squaredDistance(fast, weights), options.proximal / 2));
  return innerLoop(options.variant === 'imaml' ? held : plain, weights, {
    steps: options.steps ?? options.innerSteps,
    rate: rateOf(params, options),
    adapted: isAdapted(options.variant, model.headNames),
    firstOrder: options.firstOrder,
  });
}

/** ‖a − b‖² over all weights. */
const squaredDistance = (a: Named<Tensor>, b: Named<Tensor>): Tensor =>
  Object.keys(a)
    .map((name) => sumSquares(sub(a[name]!, b[name]!)))
    .reduce((x, y) => add(x, y));

/** What differs between the programs of one run. */
export interface Phase {
  /** Differentiate as if the inner gradient were a constant. */
  readonly firstOrder: boolean;
  /** Judge the weights after every inner step, not the last alone. */
  readonly multiStep: boolean;
}

/**
 * Outer loss of one task: the query loss of the weights that the inner loop reaches. Finn et al. 2017, algorithm 2.
 *
 * @param stepWeights float32 [innerSteps], the share of each step's weights in the loss (MAML++, multi-step loss); read
 *   only in a multi-step phase
 */
export function taskLoss(
  model: MetaModel,
  params: Named<Tensor>,
  frozen: Named<Tensor>,
  { support, query, stepWeights }: { support: TracedExamples; query: TracedExamples; stepWeights?: Tensor },
  options: BilevelOptions & Phase,
): Tensor {
  const reference = options.transductive ? undefined : support.x;
  const onQuery = (fast: Named<Tensor>) => lossOn(model, options.loss, { ...frozen, ...fast }, query, reference);
  const trajectory = adaptTo(model, params, frozen, support, options);
  const last = trajectory.at(-1)!;
  if (options.variant === 'reptile')
    return withGradient(onQuery(last), params, (name) => sub(params[name]!, last[name]!));
  if (options.variant === 'imaml') {
    const onSupport = (fast: Named<Tensor>) => lossOn(model, options.loss, { ...frozen, ...fast }, support);
    const gradient = implicitGradient(onSupport, onQuery, last, options);
    return withGradient(onQuery(last), params, (name) => gradient[name]!);
  }
  if (!options.multiStep) return onQuery(last);
  const shares = trajectory.slice(1).map((fast, step) => {
    return mul(onQuery(fast), elementAt(stepWeights!, step));
  });
  return shares.reduce((a, b) => add(a, b));
}

/**
 * A scalar of this value whose gradient with respect to each parameter is what `direction` says. Reptile is gradient
 * descent along θ − θ̃, θ̃ the adapted weights: θ ← θ + ε (θ̃ − θ). Nichol et al. 2018, algorithm 2, arXiv:1803.02999.
 */
function withGradient(value: Tensor, params: Named<Tensor>, direction: (name: string) => Tensor): Tensor {
  const along = Object.keys(params)
    .map((name) => sum(mul(params[name]!, stopGradient(direction(name)))))
    .reduce((a, b) => add(a, b));
  return add(stopGradient(value), sub(along, stopGradient(along)));
}
