import fc from 'fast-check';
import { expect, test } from 'vitest';
import { lengthBatches, padBatch } from './batching.js';

test('padBatch pads on the right and masks the padding', () => {
  const { inputIds, attentionMask } = padBatch([[5, 6, 7], [8]], 9);
  expect(inputIds).toEqual({ dtype: 'int64', shape: [2, 3], data: BigInt64Array.of(5n, 6n, 7n, 8n, 9n, 9n) });
  expect(attentionMask.data).toEqual(BigInt64Array.of(1n, 1n, 1n, 1n, 0n, 0n));
  expect(padBatch([[]], 9).inputIds.shape).toEqual([1, 1]);
});

test('lengthBatches covers every row once, within the budget, shortest first', () => {
  const lengths = fc.array(fc.nat({ max: 300 }), { maxLength: 200 });
  fc.assert(
    fc.property(lengths, fc.integer({ min: 1, max: 4096 }), (sizes, tokensPerBatch) => {
      const ids = sizes.map((length) => new Array<number>(length).fill(0));
      const batches = lengthBatches(ids, { tokensPerBatch });
      const order = batches.flat();
      expect([...order].sort((a, b) => a - b)).toEqual(sizes.map((_, i) => i));
      for (let i = 1; i < order.length; i++) expect(sizes[order[i]!]).toBeGreaterThanOrEqual(sizes[order[i - 1]!]!);
      for (const batch of batches) {
        const padded = batch.length * Math.max(1, ...batch.map((i) => sizes[i]!));
        expect(batch.length === 1 || padded <= tokensPerBatch).toBe(true);
      }
    }),
  );
});

test('sentences of common lengths leave almost no padding', () => {
  // Lengths like Banking77's: most near 13, a tail to 90.
  const sizes = Array.from({ length: 3000 }, (_, i) => 6 + Math.floor(8 * -Math.log(1 - (i + 0.5) / 3000)));
  const ids = sizes.map((length) => new Array<number>(length).fill(0));
  const padded = lengthBatches(ids, { tokensPerBatch: 2048 }).map(
    (b) => b.length * Math.max(...b.map((i) => sizes[i]!)),
  );
  const real = sizes.reduce((a, b) => a + b, 0);
  expect(real / padded.reduce((a, b) => a + b, 0)).toBeGreaterThan(0.95);
});
