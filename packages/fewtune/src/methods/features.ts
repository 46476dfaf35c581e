import { join } from 'node:path';
import { type Encoder, SentenceEmbedder } from '@fewtune/models';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { cacheRoot, FeatureStore, textKey } from './feature-store.js';
import type { FeatureSource } from './method.js';

export interface FeatureOptions {
  threads?: number;
  /** Folder of the disk cache; `false` keeps features in memory only. Default: `FEWTUNE_CACHE` or `~/.cache/fewtune`. */
  cache?: string | false;
  /** Told once when the cache cannot be written; features are then kept in memory only. */
  onWarning?: (message: string) => void;
}

/** Texts between two writes to disk, so that an interrupted run keeps what it computed. */
const CHUNK = 4096;

/** Sentence features of one encoder, each distinct text encoded once ever. Frees its session with `dispose`. */
export class CachedFeatures implements FeatureSource {
  readonly hidden: number;
  readonly #encoder: Encoder;
  readonly #options: FeatureOptions;
  readonly #store: FeatureStore | undefined;
  #vectors: Promise<Map<string, Float32Array>> | undefined;
  #embedder: Promise<SentenceEmbedder> | undefined;
  #warned = false;

  constructor(encoder: Encoder, options: FeatureOptions = {}) {
    this.#encoder = encoder;
    this.#options = options;
    this.hidden = encoder.hidden;
    const { cache = cacheRoot() } = options;
    if (cache !== false) {
      this.#store = new FeatureStore(join(cache, 'features', encoder.fingerprint.slice(0, 32)), encoder.hidden);
    }
  }

  /** L2-normalised rows [texts.length, hidden]. */
  async features(
    texts: readonly string[],
    { signal, onProgress }: { signal?: AbortSignal; onProgress?: (fraction: number) => void } = {},
  ): Promise<Float32Array> {
    throwIfAborted(signal);
    this.#vectors ??= this.#store?.load() ?? Promise.resolve(new Map());
    const vectors = await this.#vectors;
    const keys = texts.map(textKey);
    const missing = new Map(keys.flatMap((key, i) => (vectors.has(key) ? [] : [[key, texts[i]!] as const])));
    if (missing.size > 0) await this.#compute([...missing], vectors, signal, onProgress);
    const out = new Float32Array(texts.length * this.hidden);
    keys.forEach((key, i) => {
      out.set(vectors.get(key)!, i * this.hidden);
    });
    onProgress?.(1);
    return out;
  }

  async dispose(): Promise<void> {
    const embedder = this.#embedder;
    this.#embedder = undefined;
    await embedder?.then(
      (opened) => opened.dispose(),
      () => {}, // what never opened is told to whoever asked for features
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  async #compute(
    missing: readonly (readonly [key: string, text: string])[],
    vectors: Map<string, Float32Array>,
    signal?: AbortSignal,
    onProgress?: (fraction: number) => void,
  ): Promise<void> {
    this.#embedder ??= SentenceEmbedder.create(this.#encoder, { threads: this.#options.threads });
    const embedder = await this.#embedder;
    for (let start = 0; start < missing.length; start += CHUNK) {
      const chunk = missing.slice(start, start + CHUNK);
      const rows = await embedder
        .embed(
          chunk.map(([, text]) => text),
          { signal, onProgress: ({ done }) => onProgress?.((start + done) / missing.length) },
        )
        .catch((error: unknown) => {
          if (!signal?.aborted) throw error;
          throw new FewtuneError('INTERRUPTED', 'interrupted while encoding sentences', { cause: error });
        });
      const fresh = new Map<string, Float32Array>();
      chunk.forEach(([key], i) => {
        fresh.set(key, rows.subarray(i * this.hidden, (i + 1) * this.hidden));
      });
      for (const [key, vector] of fresh) vectors.set(key, vector);
      await this.#keep(fresh);
    }
  }

  async #keep(fresh: ReadonlyMap<string, Float32Array>): Promise<void> {
    if (this.#store === undefined || this.#warned) return;
    try {
      await this.#store.save(fresh);
    } catch (error) {
      // A cache saves time and nothing else: without it the run goes on, and says so.
      this.#warned = true;
      const where = this.#store.folder;
      this.#options.onWarning?.(
        `features are not kept for the next run: ${where} cannot be written (${(error as Error).message}). ` +
          'Set FEWTUNE_CACHE to a folder that can.',
      );
    }
  }
}
