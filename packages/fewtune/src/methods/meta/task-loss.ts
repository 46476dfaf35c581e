import {
  add,
  concat,
  crossEntropy,
  div,
  elementCount,
  type HostTensor,
  hostTensor,
  mean,
  mul,
  type Named,
  reshape,
  scalar,
  slice,
  stopGradient,
  sub,
  sum,
  sumSquares,
  type Tensor,
  unsqueeze,
} from '@fewtune/engine';
import type { Normalise } from '@fewtune/models';
import { implicitGradient } from './implicit-gradient.js';
import { type InnerLoopOptions, innerLoop } from './inner-loop.js';
import type { AnyMetaModel, MetaLoss, ModelInput } from './meta-model.js';
import { isRunning, isStepNorm, MetStatistics, normsAt, startStepNorms } from './step-norms.js';

export const mamlVariants = ['maml', 'fomaml', 'anil', 'boil', 'meta-sgd', 'maml++', 'reptile', 'imaml'] as const;
export type MamlVariant = (typeof mamlVariants)[number];

/** The learned rates stand among the meta-learned weights, under this prefix. */
const ratePrefix = 'rate/';
export const isRate = (name: string) => name.startsWith(ratePrefix);

/** Meta-SGD and MAML++ learn the rates of their inner loop. */
export const learnsRates = (variant: MamlVariant): boolean => variant === 'meta-sgd' || variant === 'maml++';

/** What decides the inner loop and the outer loss. */
export interface BilevelOptions {
  readonly variant: MamlVariant;
  /** Where rates are learned, what they begin with: without effect with a `start`, which has its own. */
  readonly innerLr: number;
  readonly innerSteps: number;
  readonly loss: MetaLoss;
  /** λ of implicit MAML: how strongly adapted weights are held to the start. Its inner loop must converge: take 16 steps. */
  readonly proximal: number;
  /**
   * Whether queries are normalised by the statistics of the query set, instead of the support set's or, in MAML++, of
   * running ones.
   */
  readonly transductive: boolean;
}

/** A support or query set, traced. */
export interface TracedExamples {
  readonly x: ModelInput<Tensor>;
  readonly y: Tensor;
}

/** ANIL adapts the head alone (Raghu et al. 2020, arXiv:1909.09157), BOIL all but it (Oh et al. 2021, arXiv:2008.08882). */
export function isAdapted(variant: MamlVariant, headNames: readonly string[]): (name: string) => boolean {
  if (variant === 'anil') return (name) => headNames.includes(name);
  if (variant === 'boil') return (name) => !headNames.includes(name);
  return () => true;
}

/** Whether the variant keeps the model's batch normalisations for every inner step. */
export const hasStepNorms = ({ normNames = [] }: AnyMetaModel, variant: MamlVariant): boolean =>
  variant === 'maml++' && normNames.length > 0;

/**
 * The meta-learned tensors: the weights, and the learned rates where the variant has them. Meta-SGD: one rate an element
 * (Li et al. 2017, arXiv:1707.09835). MAML++: one a weight tensor and step (Antoniou et al. 2019, section 4,
 * arXiv:1810.09502).
 */
export function startParams(
  model: AnyMetaModel,
  { variant, innerLr, innerSteps }: BilevelOptions,
): Record<string, HostTensor> {
  const params = hasStepNorms(model, variant) ? startStepNorms(model, innerSteps) : { ...model.weights };
  if (!learnsRates(variant)) return params;
  const weights = startWeights(params);
  // A head that each task makes for itself has as many elements as the task has ways: all share a rate.
  for (const name of new Set([...Object.keys(weights), ...model.headNames])) {
    const shape = variant === 'maml++' ? [innerSteps] : (weights[name]?.shape ?? []);
    params[`${ratePrefix}${name}`] = hostTensor('float32', shape, new Float32Array(elementCount(shape)).fill(innerLr));
  }
  return params;
}

/** What an inner loop begins with: no learned rates, no normalisations of single steps. */
export const startWeights = <T>(params: Named<T>): Record<string, T> =>
  Object.fromEntries(Object.entries(params).filter(([name]) => !isRate(name) && !isStepNorm(name)));

/** The rate of each weight in each step; after more steps than were trained, MAML++ keeps the last one's. */
function rateOf(params: Named<Tensor>, { variant, innerLr, innerSteps }: BilevelOptions): InnerLoopOptions['rate'] {
  return (name, step) => {
    if (variant === 'meta-sgd') return params[ratePrefix + name]!;
    if (variant !== 'maml++') return innerLr;
    return elementAt(params[ratePrefix + name]!, Math.min(step, innerSteps - 1));
  };
}

/** The same for a descent outside of a program. */
export function hostRates(params: Named<HostTensor>, { variant, innerLr, innerSteps }: BilevelOptions) {
  return (name: string, step: number): number | Float32Array => {
    if (!learnsRates(variant)) return innerLr;
    const rates = params[ratePrefix + name]!.data as Float32Array;
    return variant === 'meta-sgd' ? rates : rates[Math.min(step, innerSteps - 1)]!;
  };
}

/** One element of a vector, as a scalar. */
const elementAt = (x: Tensor, at: number): Tensor => reshape(slice(x, 0, at, at + 1), []);

/** Loss of the model on some examples, a scalar. */
export function lossOn(
  model: AnyMetaModel,
  kind: MetaLoss,
  weights: Named<Tensor>,
  { x, y }: TracedExamples,
  reference?: ModelInput<Tensor> | Normalise,
): Tensor {
  const output = model.forward(weights, x, reference);
  if (kind === 'cross-entropy') return crossEntropy(output, y);
  const difference = sub(output, y);
  return mean(mul(difference, difference));
}

/** The head that the support set makes, where the model has such a one. */
function headOf({ headStart }: AnyMetaModel, weights: Named<Tensor>, { x, y }: TracedExamples): Named<Tensor> {
  return headStart ? headStart.head(headStart.features(weights, x), y) : {};
}

/** Loss on the support set as the inner loop sees it; implicit MAML holds it to the start. */
export function innerLoss(
  model: AnyMetaModel,
  start: Named<Tensor>,
  fast: Named<Tensor>,
  support: TracedExamples,
  { variant, loss, proximal }: BilevelOptions,
  given: { readonly fixed: Named<Tensor>; readonly normalise?: Normalise },
): Tensor {
  const plain = lossOn(model, loss, { ...given.fixed, ...fast }, support, given.normalise);
  return variant === 'imaml' ? add(plain, mul(squaredDistance(fast, start), proximal / 2)) : plain;
}

/** The weights before and after each inner step on a support set; `params` as `startParams` names them. */
export function adaptTo(
  model: AnyMetaModel,
  params: Named<Tensor>,
  frozen: Named<Tensor>,
  support: TracedExamples,
  options: BilevelOptions & { readonly firstOrder?: boolean },
  met?: MetStatistics,
): Named<Tensor>[] {
  const start = { ...startWeights(params), ...headOf(model, { ...frozen, ...params }, support) };
  const loss = (fast: Named<Tensor>, step: number) => {
    const fixed = { ...frozen, ...normsAt(params, step) };
    return innerLoss(model, start, fast, support, options, { fixed, normalise: met?.at(step) });
  };
  return innerLoop(loss, start, {
    steps: options.innerSteps,
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
  model: AnyMetaModel,
  params: Named<Tensor>,
  frozen: Named<Tensor>,
  { support, query, stepWeights }: { support: TracedExamples; query: TracedExamples; stepWeights?: Tensor },
  options: BilevelOptions & Phase,
): Tensor {
  // Running statistics are gathered where the passes use each batch's own, as batch normalisation does.
  const met = hasStepNorms(model, options.variant) ? new MetStatistics() : undefined;
  const reference = options.transductive || met ? undefined : support.x;
  const trajectory = adaptTo(model, params, frozen, support, options, met);
  /** Of the weights after so many steps. */
  const onQuery = (fast: Named<Tensor>, steps: number) => {
    const at = Math.max(steps - 1, 0);
    const weights = { ...frozen, ...normsAt(params, at), ...fast };
    return lossOn(model, options.loss, weights, query, met?.at(at) ?? reference);
  };
  const last = trajectory.at(-1)!;
  if (options.variant === 'reptile')
    return withGradient(onQuery(last, options.innerSteps), params, (name) => sub(params[name]!, last[name]!));
  if (options.variant === 'imaml') {
    const onSupport = (fast: Named<Tensor>) => lossOn(model, options.loss, { ...frozen, ...fast }, support);
    const outer = (fast: Named<Tensor>) => onQuery(fast, options.innerSteps);
    const gradient = implicitGradient(onSupport, outer, last, options);
    return withGradient(outer(last), params, (name) => gradient[name]!);
  }
  const outer = options.multiStep
    ? trajectory
        .slice(1)
        .map((fast, step) => mul(onQuery(fast, step + 1), elementAt(stepWeights!, step)))
        .reduce((a, b) => add(a, b))
    : onQuery(last, options.innerSteps);
  return met ? add(outer, towardsMet(params, met, options.innerSteps)) : outer;
}

/** A scalar 0 whose gradient with respect to each running statistic is its distance from what was met. */
function towardsMet(params: Named<Tensor>, met: MetStatistics, steps: number): Tensor {
  const running = Object.fromEntries(Object.entries(params).filter(([name]) => isRunning(name)));
  return withGradient(scalar(0), running, (name) => {
    const rows = met.of(name, steps).map((found, step) => {
      const own = reshape(slice(params[name]!, 0, step, step + 1), [-1]);
      const mean =
        found &&
        div(
          found.reduce((a, b) => add(a, b)),
          found.length,
        );
      return unsqueeze(mean ? sub(own, mean) : mul(own, 0), 0); // [1, channels]
    });
    return concat(rows, 0); // [steps, channels]
  });
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
