export interface Interval {
  readonly mean: number;
  readonly low: number;
  readonly high: number;
}

export const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
export const mean = (values: readonly number[]): number => sum(values) / values.length;

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Two-sided 95 % quantiles of Student's t for 1 … 30 degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2). */
const student95 = [
  12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11,
  2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/** Mean over draws with Student's 95 % interval, t(n - 1) s / √n; without width when there is one draw only. */
export function studentInterval(values: readonly number[]): Interval {
  const centre = mean(values);
  const n = values.length;
  if (n < 2) return { mean: centre, low: centre, high: centre };
  const deviation = Math.sqrt(sum(values.map((value) => (value - centre) ** 2)) / (n - 1));
  const half = ((student95[n - 2] ?? 1.96) * deviation) / Math.sqrt(n);
  return { mean: centre, low: centre - half, high: centre + half };
}

/** Mulberry32: a small seeded generator of [0, 1); public domain, Tommy Ettinger 2017. */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Standard normal deviates (Box and Muller 1958). */
export function normals(count: number, seed: number, scale = 1): Float32Array {
  const random = generator(seed);
  return Float32Array.from(
    { length: count },
    () => scale * Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()),
  );
}

/** A seeded permutation, Fisher and Yates. */
export function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const result = [...items];
  for (let last = result.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [result[last], result[other]] = [result[other]!, result[last]!];
  }
  return result;
}
