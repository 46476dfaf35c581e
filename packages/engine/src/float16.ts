/** IEEE 754 half precision, held as its 16 bits: 1 sign, 5 exponent (bias 15), 10 fraction. */

/** Largest finite number. */
export const float16Max = 65504;
/** Smallest positive normal number; below it digits are lost, and below half of 2^-24 everything. */
export const float16MinNormal = 2 ** -14;

const scratch = new Float32Array(1);
const scratchBits = new Int32Array(scratch.buffer);

/** To the nearest half, ties to even; beyond the range infinity. */
export function toFloat16(values: ArrayLike<number>): Uint16Array {
  const floats = values instanceof Float32Array ? values : Float32Array.from(values);
  const bits = new Int32Array(floats.buffer, floats.byteOffset, floats.length);
  const halves = new Uint16Array(floats.length);
  for (let i = 0; i < bits.length; i++) {
    const all = bits[i]!;
    const sign = (all >>> 16) & 0x8000;
    const size = all & 0x7fffffff;
    let half: number;
    if (size >= 0x47800000) {
      half = size > 0x7f800000 ? 0x7e00 : 0x7c00; // NaN, or 2^16 and above
    } else if (size < 0x38800000) {
      // Below 2^-14 a half counts in 2^-24, which is what float32 does just above 1/2: its own rounding is ours.
      scratchBits[0] = size;
      scratch[0] = scratch[0]! + 0.5;
      half = scratchBits[0]! - 0x3f000000;
    } else {
      half = (size - 0x38000000 + 0xfff + ((size >>> 13) & 1)) >>> 13; // a carry into the exponent is right as well
    }
    halves[i] = sign | half;
  }
  return halves;
}

let table: Float32Array | undefined;

/** Exact. */
export function fromFloat16(halves: Uint16Array): Float32Array {
  table ??= Float32Array.from({ length: 65536 }, (_, half) => decode(half));
  const all = table;
  const values = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) values[i] = all[halves[i]!]!;
  return values;
}

function decode(half: number): number {
  const exponent = (half >>> 10) & 31;
  const fraction = half & 1023;
  const sign = half & 0x8000 ? -1 : 1;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}
