import { type Encoder, SentenceEmbedder } from '@fewtune/models';
import type { FitContext } from 'fewtune';

type FeatureSource = Awaited<ReturnType<FitContext['features']>>;

/** Sentence features in memory only, so that a timed fit pays for every sentence it looks at. */
export class MemoryFeatures implements FeatureSource {
  readonly #embedder: SentenceEmbedder;
  readonly #rows: Map<string, Float32Array>;
  readonly hidden: number;

  private constructor(embedder: SentenceEmbedder, hidden: number) {
    this.#embedder = embedder;
    this.#rows = new Map();
    this.hidden = hidden;
  }

  static async create(encoder: Encoder): Promise<MemoryFeatures> {
    return new MemoryFeatures(await SentenceEmbedder.create(encoder), encoder.hidden);
  }

  /** Takes over known rows: the test set's, once the timed part is over. */
  borrow(known: ReadonlyMap<string, Float32Array>): void {
    for (const [text, features] of known) this.#rows.set(text, features);
  }

  get rows(): ReadonlyMap<string, Float32Array> {
    return this.#rows;
  }

  async features(texts: readonly string[]): Promise<Float32Array> {
    const missing = [...new Set(texts)].filter((text) => !this.#rows.has(text));
    if (missing.length > 0) {
      const embedded = await this.#embedder.embed(missing);
      for (const [index, text] of missing.entries()) {
        this.#rows.set(text, embedded.slice(index * this.hidden, (index + 1) * this.hidden));
      }
    }
    const result = new Float32Array(texts.length * this.hidden);
    for (const [index, text] of texts.entries()) result.set(this.#rows.get(text)!, index * this.hidden);
    return result;
  }

  async dispose(): Promise<void> {
    await this.#embedder.dispose();
  }
}
