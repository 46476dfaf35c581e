import { add, arange, type Dim, type Tensor } from '@fewtune/engine';

/** How the tokens of a batch stand in rows, for a hook that wants to tell them apart. */
export interface TokenLayout {
  /** int64 [batch, seq] */
  readonly attentionMask: Tensor;
  /** [batch, seq, width] to [rows, width]: real tokens only in a packed batch, all of them else. */
  toTokens(x: Tensor): Tensor;
}

/** What may be put into an encoder besides other linear layers. Whatever it adds is the same for every sentence. */
export interface EncodeHooks {
  /** Changes the hidden states [rows, hidden] that a layer, counted from 0, hands to the next. */
  afterLayer?(layer: number, states: Tensor, layout: TokenLayout): Tensor;
  /**
   * Embedded tokens [virtual, hidden] before those of every sentence, in the place of words: positions and types are
   * added to them. The result of `encode` has the sentence's own tokens only.
   */
  readonly prompt?: Tensor;
  /** Keys and values that every token sees besides, before the sentence's own. */
  readonly prefix?: {
    /** How many, the same in each layer. */
    readonly length: number;
    /** [virtual, hidden] each, heads side by side. */
    keyValue(layer: number): { readonly key: Tensor; readonly value: Tensor };
  };
}

/**
 * By how much a sentence's positions move, as in `transformers`, where whatever comes before a sentence has positions of
 * its own: past keys in BERT and RoBERTa, embedded tokens in all.
 */
export function virtualTokens({ prompt, prefix }: EncodeHooks): number {
  return ((prompt?.shape[0] as number | undefined) ?? 0) + (prefix?.length ?? 0);
}

/** 0, 1, 2, … counted on from the virtual tokens. @returns int64 [seq] */
export function positionsAfter(virtual: number, seq: Dim): Tensor {
  return virtual > 0 ? add(arange(seq), virtual) : arange(seq);
}
