import { type HostTensor, hostTensor, type Named } from '@fewtune/engine';
import { FewtuneError, throwIfAborted } from '../../errors.js';

export interface DescentOptions {
  readonly steps: number;
  /** Learning rate of a weight in a step (0 first): a number, or one for each of its elements. */
  readonly rate: (name: string, step: number) => number | ArrayLike<number>;
  /** The loss before the first step, where that is not the first step's own. */
  readonly before?: number;
  /** From the loss before the first step: one that rose, and to this or more, is of a descent that diverged. */
  readonly tolerated: (before: number) => number;
  readonly signal?: AbortSignal;
  /** After each step (from 1), with the loss before it; from the first step again where the rates are halved. */
  readonly onStep?: (step: number, loss: number) => void;
}

export interface Descent {
  readonly weights: Named<HostTensor>;
  /** Before the first step, and after the last. */
  readonly loss: { readonly before: number; readonly after: number };
  /** How often all rates were halved and the descent begun anew, because it diverged; 0 as a rule. */
  readonly rateHalvings: number;
}

/** What a descent needs of a loss. */
export interface Objective {
  gradientAt(weights: Named<HostTensor>, step: number): Promise<{ loss: number; gradient: Named<HostTensor> }>;
  lossAt(weights: Named<HostTensor>): Promise<number>;
}

/** After this many the rates are 1.6 % of what they were: the fault lies elsewhere. */
const mostHalvings = 6;

/**
 * Gradient descent from some weights. Where the loss becomes infinite, or rises beyond what is tolerated, all rates are
 * halved and it begins anew.
 *
 * @throws FewtuneError LOSS_NOT_FINITE when that does not help; INTERRUPTED
 */
export async function descend(
  start: Named<HostTensor>,
  objective: Objective,
  options: DescentOptions,
): Promise<Descent> {
  for (let halvings = 0; halvings <= mostHalvings; halvings++) {
    const found = await attempt(start, objective, options, 0.5 ** halvings);
    if (found) return { ...found, rateHalvings: halvings };
  }
  throw new FewtuneError(
    'LOSS_NOT_FINITE',
    `adaptation diverged: its loss on the support set rises or is not finite, at ${0.5 ** mostHalvings} of the inner rate as well. ` +
      'Lower innerLr, take fewer steps, and look for values in the support set that are not finite.',
  );
}

/** One descent; undefined when it diverges. */
async function attempt(
  start: Named<HostTensor>,
  { gradientAt, lossAt }: Objective,
  { steps, rate, tolerated, signal, onStep, ...given }: DescentOptions,
  share: number,
): Promise<Pick<Descent, 'weights' | 'loss'> | undefined> {
  let weights = start;
  let before = given.before;
  for (let step = 0; step < steps; step++) {
    throwIfAborted(signal);
    const { loss, gradient } = await gradientAt(weights, step);
    before ??= loss;
    if (!Number.isFinite(loss)) return undefined;
    weights = moved(weights, gradient, (name) => scaled(rate(name, step), share));
    onStep?.(step + 1, loss);
  }
  const after = await lossAt(weights);
  before ??= after;
  if (!Number.isFinite(after) || (after > before && after >= tolerated(before))) return undefined;
  return { weights, loss: { before, after } };
}

const scaled = (rate: number | ArrayLike<number>, share: number) => (i: number) =>
  share * (typeof rate === 'number' ? rate : rate.length === 1 ? rate[0]! : rate[i]!);

/** θ − α g for every weight that has a gradient. */
function moved(
  weights: Named<HostTensor>,
  gradient: Named<HostTensor>,
  rateOf: (name: string) => (i: number) => number,
): Record<string, HostTensor> {
  const next: Record<string, HostTensor> = { ...weights };
  for (const [name, { data }] of Object.entries(gradient)) {
    const { shape, data: from } = weights[name]!;
    const rate = rateOf(name);
    const values = Float32Array.from(from as Float32Array, (value, i) => value - rate(i) * Number(data[i]));
    next[name] = hostTensor('float32', shape, values);
  }
  return next;
}
