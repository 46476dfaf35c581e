import { createHash } from 'node:crypto';
import type { HostTensor, Tensor } from '@fewtune/engine';
import type { EncodeHooks } from './encode-hooks.js';
import type { Pooling } from './pooling.js';
import type { Tokenizer } from './tokenizer.js';
import type { LinearFn } from './transformer-layer.js';

/**
 * What is computed along with a checkpoint: an adapter that cannot be merged into weights. Its own stand among the
 * encoder's.
 */
export interface Addition {
  /** Method and settings: all that decides an embedding besides weights. */
  readonly id: string;
  /** Positions that virtual tokens take from every text. */
  readonly virtual?: number;
  linear?(weights: Readonly<Record<string, Tensor>>): LinearFn;
  hooks?(weights: Readonly<Record<string, Tensor>>): EncodeHooks;
}

/** A checkpoint in memory: data, no session. */
export interface Encoder {
  /** `all-MiniLM-L6-v2` (the embedded one), a Hub id, or a folder. */
  readonly id: string;
  /** The commit on the Hub, 40 hex digits. */
  readonly revision?: string;
  /** SHA-256 over everything that decides an embedding: config, weights, tokenizer, pooling. Good as a cache key. */
  readonly fingerprint: string;
  /** The Hub's config.json. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly hidden: number;
  readonly layers: number;
  readonly pooling: Pooling;
  /** float32, under their Hub names without the `bert.` prefix. */
  readonly weights: Readonly<Record<string, HostTensor>>;
  readonly tokenizer: Tokenizer;
  readonly addition?: Addition;
  /** Of an encoder whose weights were quantised: the fingerprint that it had before. */
  readonly quantizedFrom?: string;
}

/** The fingerprint of an encoder's parts. */
export function fingerprint({ config, weights, tokenizer, pooling, addition }: Omit<Encoder, 'fingerprint'>): string {
  const hash = createHash('sha256');
  hash.update(JSON.stringify({ config, pooling, maxLength: tokenizer.maxLength, files: tokenizer.files }));
  if (addition) hash.update(addition.id);
  for (const name of Object.keys(weights).sort()) {
    const { dtype, shape, data } = weights[name]!;
    hash.update(JSON.stringify([name, dtype, shape]));
    hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return hash.digest('hex');
}
