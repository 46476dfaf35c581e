import type { HostTensor } from '@fewtune/engine';

/**
 * Token ids and mask of one batch, padded on the right to its longest row. A batch of empty rows gets one column.
 *
 * @returns inputIds, attentionMask: int64 [batch, longest]
 */
export function padBatch(
  ids: readonly (readonly number[])[],
  padId: number,
): { inputIds: HostTensor; attentionMask: HostTensor } {
  const longest = ids.reduce((most, row) => Math.max(most, row.length), 1);
  const shape = [ids.length, longest];
  const inputIds = new BigInt64Array(ids.length * longest).fill(BigInt(padId));
  const attentionMask = new BigInt64Array(ids.length * longest);
  for (const [r, row] of ids.entries()) {
    const start = r * longest;
    for (let c = 0; c < row.length; c++) {
      inputIds[start + c] = BigInt(row[c]!);
      attentionMask[start + c] = 1n;
    }
  }
  return {
    inputIds: { dtype: 'int64', shape, data: inputIds },
    attentionMask: { dtype: 'int64', shape, data: attentionMask },
  };
}

/**
 * Sorts rows by length and cuts them into batches of equal or near length, so that almost no padding is multiplied.
 * A batch holds at most `tokensPerBatch` tokens, padding counted, and at least one row; it also ends when a row is
 * more than an eighth longer than its first, unless it is still small.
 *
 * @returns indices into `ids`, every index once, shortest rows first; rows of one length keep their order
 */
export function lengthBatches(
  ids: readonly (readonly number[])[],
  { tokensPerBatch }: { tokensPerBatch: number },
): number[][] {
  const order = ids.map((_, index) => index).sort((a, b) => ids[a]!.length - ids[b]!.length || a - b);
  const batches: number[][] = [];
  let batch: number[] = [];
  let shortest = 0;
  for (const index of order) {
    const length = Math.max(1, ids[index]!.length);
    const full = (batch.length + 1) * length > tokensPerBatch;
    const uneven = length > shortest * 1.125 && batch.length * shortest * 4 > tokensPerBatch;
    if (batch.length > 0 && (full || uneven)) {
      batches.push(batch);
      batch = [];
    }
    if (batch.length === 0) shortest = length;
    batch.push(index);
  }
  if (batch.length > 0) batches.push(batch);
  return batches;
}

/**
 * Token types of a batch as `padBatch` lays it out, 0 on padding.
 *
 * @returns int64 [batch, longest]
 */
export function padTypes(types: readonly (readonly number[])[]): HostTensor {
  return padBatch(types, 0).inputIds;
}
