import fc from 'fast-check';
import { expect, test } from 'vitest';
import { hash128 } from './hash.js';

test('every bit and every trailing zero counts', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 70 }), fc.nat(), (bytes, at) => {
      const flipped = bytes.slice();
      flipped[at % bytes.length]! ^= 1 << (at % 8);
      const hashes = [bytes, flipped, Uint8Array.of(...bytes, 0)].map(hash128);
      expect(new Set(hashes).size).toBe(3);
      expect(hash128(bytes.slice())).toBe(hashes[0]);
    }),
  );
});

test('no two of 100 000 short texts collide', () => {
  const encoder = new TextEncoder();
  const hashes = new Set(Array.from({ length: 100_000 }, (_, i) => hash128(encoder.encode(`v${i}`))));
  expect(hashes.size).toBe(100_000);
});
