import { FewtuneError, throwIfAborted } from '../../errors.js';
import type { Adapter, LoraAdapter } from './adapter.js';
import { type Combination, combineAdapters } from './combine-adapters.js';
import { expectedLoss, type HeldOutScore } from './held-out-score.js';

export interface ChooseWeightsOptions {
  /** Ways of combining that are tried; `svd` and `tiesSvd` when left out. */
  readonly methods?: readonly Combination[];
  /** Weights that each adapter is tried with; 0, 0.25, 0.5, 0.75, 1 when left out. */
  readonly grid?: readonly number[];
  /** Times that each adapter's weight is looked at anew; 2. */
  readonly rounds?: number;
  /** Of the result and of what is dropped, as in `combineAdapters`. */
  readonly rank?: number;
  readonly density?: number;
  readonly seed?: number;
  readonly signal?: AbortSignal;
  onTried?(tried: TriedWeights): void;
}

export interface TriedWeights {
  readonly method: Combination;
  readonly weights: readonly number[];
  readonly score: HeldOutScore;
}

export interface ChosenWeights extends TriedWeights {
  readonly adapter: LoraAdapter;
  /** Everything that was tried, in order: the best of these rows is slightly optimistic on the rows that chose it. */
  readonly tried: readonly TriedWeights[];
}

/**
 * Combines adapters with weights that are chosen on held-out data: from equal weights, and from each adapter alone, the
 * weight of one adapter after another is moved to the best value of a grid.
 *
 * @param score how good an adapter is on rows that none was trained on: `prototypeScore(bank, …)`, or your own
 * @throws FewtuneError OPTION_INVALID, INTERRUPTED; as `combineAdapters`
 * @example
 * const score = prototypeScore(bank, { support, heldOut });
 * const { adapter, weights, method, score: { accuracy } } = await chooseWeights([travel, finance], score);
 */
export async function chooseWeights(
  adapters: readonly Adapter[],
  score: (adapter: LoraAdapter) => Promise<HeldOutScore>,
  options: ChooseWeightsOptions = {},
): Promise<ChosenWeights> {
  const { methods = ['svd', 'tiesSvd'], grid = [0, 0.25, 0.5, 0.75, 1], rounds = 2, signal } = options;
  const { rank, density, seed } = options;
  if (adapters.length === 0 || methods.length === 0 || !grid.some((weight) => weight !== 0)) {
    throw new FewtuneError('OPTION_INVALID', 'choosing weights: give an adapter, a method and a weight that is not 0.');
  }
  const seen = new Map<string, TriedWeights>();
  const combined = (method: Combination, weights: readonly number[]) => {
    const parts = adapters.flatMap((adapter, i) => (weights[i] === 0 ? [] : [{ adapter, weight: weights[i]! }]));
    return combineAdapters(parts, {
      method,
      ...(rank !== undefined && { rank }),
      ...(density !== undefined && { density }),
      ...(seed !== undefined && { seed }),
    });
  };
  const look = async (method: Combination, weights: readonly number[]): Promise<TriedWeights | undefined> => {
    if (weights.every((weight) => weight === 0)) return undefined; // the encoder alone is no adapter
    const key = `${method} ${weights.join(' ')}`;
    const known = seen.get(key);
    if (known) return known;
    throwIfAborted(signal);
    const tried = { method, weights, score: await score(combined(method, weights)) };
    seen.set(key, tried);
    options.onTried?.(tried);
    return tried;
  };
  const alone = adapters.map((_, i) => adapters.map((__, j) => (i === j ? 1 : 0)));
  let best: TriedWeights | undefined;
  for (const method of methods) {
    let here: TriedWeights | undefined;
    for (const weights of [adapters.map(() => 1 / adapters.length), ...alone])
      here = better(here, await look(method, weights));
    for (let round = 0; round < rounds; round++) {
      const before = here;
      for (const i of adapters.keys()) {
        for (const value of grid) {
          const weights = here!.weights.map((weight, j) => (i === j ? value : weight));
          here = better(here, await look(method, weights));
        }
      }
      if (here === before) break;
    }
    best = better(best, here);
  }
  return { ...best!, adapter: combined(best!.method, best!.weights), tried: [...seen.values()] };
}

/** More right answers; of as many, the lower loss; of the same, the first. */
function better(a: TriedWeights | undefined, b: TriedWeights | undefined): TriedWeights | undefined {
  if (!a || !b) return a ?? b;
  const gain = b.score.accuracy - a.score.accuracy;
  return gain > 0 || (gain === 0 && expectedLoss(b.score) < expectedLoss(a.score)) ? b : a;
}
