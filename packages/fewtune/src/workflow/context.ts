import { type Encoder, loadEncoder } from '@fewtune/models';
import { CachedFeatures } from '../methods/features.js';
import type { FeatureSource, FitContext } from '../methods/method.js';

export interface ContextOptions {
  readonly encoder?: string | Encoder;
  readonly mamlStart?: FitContext['mamlStart'];
  readonly seed: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  onWarning?(message: string): void;
}

/** What the fits of one run share: the encoder, loaded on first use, and the features computed so far. */
export interface RunContext extends FitContext, AsyncDisposable {}

export function openContext({ encoder: id, mamlStart, seed, threads, signal, onWarning }: ContextOptions): RunContext {
  let encoder: Promise<Encoder> | undefined;
  let features: Promise<CachedFeatures> | undefined;
  const loadOnce = () => {
    encoder ??= typeof id === 'object' ? Promise.resolve(id) : loadEncoder(id, { signal });
    return encoder;
  };
  const openOnce = (): Promise<FeatureSource> => {
    features ??= loadOnce().then((loaded) => new CachedFeatures(loaded, { threads, onWarning }));
    return features;
  };
  return {
    encoder: loadOnce,
    features: openOnce,
    ...(mamlStart && { mamlStart }),
    seed,
    threads,
    signal,
    async [Symbol.asyncDispose]() {
      await (await features?.catch(() => undefined))?.dispose();
    },
  };
}
