import type { Tensor } from '../tensor.js';
import { pad } from './indexing.js';

/** Zeros around the spatial axes: the same on all sides, one an axis, or [before, after] an axis. */
export type Padding = number | readonly (number | readonly [before: number, after: number])[];

/** [before, after] of each axis. */
export function paddingOf(padding: Padding, axes: number): [number, number][] {
  if (typeof padding === 'number') return Array.from({ length: axes }, () => [padding, padding]);
  return padding.map((one) => (typeof one === 'number' ? [one, one] : [one[0], one[1]]));
}

/** Zeros before and after each spatial axis of [batch, channels, ...sizes]. */
export function padZeros(x: Tensor, before: readonly number[], after: readonly number[]): Tensor {
  return before.reduce<Tensor>((y, start, i) => {
    const size = x.shape[i + 2] as number;
    return pad(y, i + 2, start, start + size + after[i]!);
  }, x);
}

/** What both sides share stays a padding of the operator, and the rest is put around the input. */
export function evenPadding(x: Tensor, padding: Padding): { x: Tensor; padding: number | number[] } {
  if (typeof padding === 'number') return { x, padding };
  const pads = paddingOf(padding, x.rank - 2);
  const shared = pads.map(([before, after]) => Math.min(before, after));
  const rest = (side: 0 | 1) => pads.map((pair, i) => pair[side] - shared[i]!);
  return { x: padZeros(x, rest(0), rest(1)), padding: shared };
}
