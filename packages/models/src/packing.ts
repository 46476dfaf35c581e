import { cast, type HostTensor, hostTensor, moveRows, reshape, type Tensor } from '@fewtune/engine';
import { padBatch, padTypes } from './batching.js';
import type { Packing } from './transformer-layer.js';

/**
 * Packed batches: sentences have different lengths, and in a batch padded to its longest row often more than half of
 * the tokens are padding. Packed hidden states hold real tokens only, [tokens, hidden]; only attention, which is a
 * small share of the work, sees them padded.
 */
export interface PackedInputs {
  /** int64 [batch, seq] */
  readonly inputIds: Tensor;
  readonly attentionMask: Tensor;
  /** int64 [tokens]: where each real token stands in the flattened batch */
  readonly places: Tensor;
  /** int64 [batch, seq]: which real token stands there; 0 on padding */
  readonly slots: Tensor;
}

/** What a packed program is traced with; every size is symbolic. */
export const packedSpecs = {
  inputIds: { dtype: 'int64', shape: ['batch', 'seq'] },
  attentionMask: { dtype: 'int64', shape: ['batch', 'seq'] },
  places: { dtype: 'int64', shape: ['tokens'] },
  slots: { dtype: 'int64', shape: ['batch', 'seq'] },
} as const;

/** As `packedSpecs`, for pairs of texts. */
export const packedPairSpecs = { ...packedSpecs, tokenTypeIds: { dtype: 'int64', shape: ['batch', 'seq'] } } as const;

/** The ways between a padded and a packed layout, for `encode`. */
export function packingOf({ attentionMask, places, slots }: PackedInputs): Packing {
  const live = cast(attentionMask, 'float32');
  return {
    toBatch: (x) => moveRows(x, slots, places),
    toTokens: (x) => {
      const width = x.shape.at(-1)!;
      const rows = reshape(x, [-1, width]);
      return moveRows(rows, places, reshape(slots, [-1]), reshape(live, [-1]));
    },
  };
}

/** The inputs of a packed program for some sentences. */
export function packBatch(ids: readonly (readonly number[])[], padId: number): Record<keyof PackedInputs, HostTensor> {
  const { inputIds, attentionMask } = padBatch(ids, padId);
  const [rows, longest] = inputIds.shape as [number, number];
  const places: number[] = [];
  const slots = new Array<number>(rows * longest).fill(0);
  for (const [row, tokens] of ids.entries()) {
    for (let column = 0; column < tokens.length; column++) {
      slots[row * longest + column] = places.length;
      places.push(row * longest + column);
    }
  }
  return {
    inputIds,
    attentionMask,
    places: hostTensor('int64', [places.length], places),
    slots: hostTensor('int64', [rows, longest], slots),
  };
}

/** The inputs of a packed program for some pairs of texts. */
export function packPairs(
  pairs: readonly { readonly ids: readonly number[]; readonly types: readonly number[] }[],
  padId: number,
): Record<keyof PackedInputs | 'tokenTypeIds', HostTensor> {
  const packed = packBatch(
    pairs.map(({ ids }) => ids),
    padId,
  );
  return { ...packed, tokenTypeIds: padTypes(pairs.map(({ types }) => types)) };
}
