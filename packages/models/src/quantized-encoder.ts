import { type Encoder, fingerprint } from './encoder.js';
import { type Quantization, quantizeWeights } from './quantized-weights.js';

/**
 * An encoder whose matrices are held in 8 or 4 bits: linear layers, words and positions. It is an encoder like any other,
 * whose weights have the values that are left of them; what runs it computes with the whole numbers, and no float32 copy
 * stays once the given encoder is let go.
 *
 * @param options `{ bits: 8 }` (a scale a row) when left out; `{ bits: 4 }` is blocks of 32 with zero points, `{ code: 'nf4' }`
 *   blocks of 64
 * @throws ModelError QUANTIZATION_INVALID
 *
 * @example
 * const small = quantizeEncoder(await loadEncoder(), { bits: 4 });
 * heldBytes(small.weights); // 14.6 MB instead of 90.9
 */
export function quantizeEncoder(encoder: Encoder, options: Partial<Quantization> = {}): Encoder {
  const quantized = { ...encoder, weights: quantizeWeights(encoder.weights, options) };
  return {
    ...quantized,
    fingerprint: fingerprint(quantized),
    quantizedFrom: encoder.quantizedFrom ?? encoder.fingerprint,
  };
}
