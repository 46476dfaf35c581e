import { compile, type HostTensor, l2Normalize, type Program, type Tensor } from '@fewtune/engine';
import { lengthBatches, padBatch } from './batching.js';
import { encodeWith } from './encode.js';
import type { Encoder } from './encoder.js';
import { throwIfAborted } from './errors.js';
import { pool } from './pooling.js';
import { constantWeights } from './quantized-graph.js';
import type { EncoderInputs } from './transformer-layer.js';

/**
 * Tokens of one batch. On two cores 512 to 1024 tokens of MiniLM run fastest: products are already large enough, and
 * activations still fit the caches (4096 tokens cost about a fifth more CPU time).
 */
const tokensPerBatch = 768;

type Batch = ReturnType<typeof padBatch>;

export interface EmbedOptions {
  readonly signal?: AbortSignal;
  /** Called after each batch. */
  readonly onProgress?: (progress: { done: number; total: number }) => void;
}

/**
 * Sentences to vectors: one session whose batch and sequence dimensions are symbolic and whose weights are constants,
 * fed with batches of near-equal length.
 *
 * @example
 * const embedder = await SentenceEmbedder.create(await loadEncoder());
 * const vectors = await embedder.embed(['my card was swallowed']); // Float32Array of 384
 */
export class SentenceEmbedder {
  private constructor(
    readonly encoder: Encoder,
    private readonly program: Program<Batch, HostTensor>,
  ) {}

  /** Traces and compiles the encoder. `dispose()` frees it. */
  static async create(encoder: Encoder, options: { threads?: number } = {}): Promise<SentenceEmbedder> {
    const embed = ({ inputIds, attentionMask }: EncoderInputs): Tensor => {
      const hidden = encodeWith(encoder, constantWeights(encoder.weights), { inputIds, attentionMask });
      return l2Normalize(pool(hidden, attentionMask, encoder.pooling));
    };
    const ids = { dtype: 'int64', shape: ['batch', 'seq'] } as const;
    const program = await compile(embed, { inputIds: ids, attentionMask: ids }, { ...options, name: 'embed' });
    return new SentenceEmbedder(encoder, program);
  }

  /**
   * @returns [texts.length × hidden], row-major, in the order of `texts`, each row of length 1
   * @throws ModelError ABORTED between two batches after `signal` aborts
   */
  async embed(texts: readonly string[], options: EmbedOptions = {}): Promise<Float32Array> {
    const { tokenizer } = this.encoder;
    return this.embedIds(
      texts.map((text) => tokenizer.encode(text)),
      options,
    );
  }

  /** As {@link embed}, from token ids with their special tokens. */
  async embedIds(
    ids: readonly (readonly number[])[],
    { signal, onProgress }: EmbedOptions = {},
  ): Promise<Float32Array> {
    const { hidden, tokenizer } = this.encoder;
    const result = new Float32Array(ids.length * hidden);
    let done = 0;
    for (const batch of lengthBatches(ids, { tokensPerBatch })) {
      throwIfAborted(signal);
      const rows = batch.map((index) => ids[index]!);
      const { data } = await this.program.run(padBatch(rows, tokenizer.padId));
      const vectors = data as Float32Array;
      for (const [row, index] of batch.entries()) {
        result.set(vectors.subarray(row * hidden, (row + 1) * hidden), index * hidden);
      }
      done += batch.length;
      onProgress?.({ done, total: ids.length });
    }
    return result;
  }

  /** Frees the session. The embedder cannot be used afterwards. */
  async dispose(): Promise<void> {
    await this.program.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}
