import type { Dim } from '../dims.js';
import { showShape } from '../dims.js';
import { EngineError } from '../errors.js';

/**
 * NumPy broadcasting over symbolic shapes.
 *
 * @throws EngineError SHAPE_MISMATCH when two sizes differ and neither is 1
 */
export function broadcastShapes(operation: string, a: readonly Dim[], b: readonly Dim[]): Dim[] {
  const rank = Math.max(a.length, b.length);
  const result: Dim[] = [];
  for (let axis = 0; axis < rank; axis++) {
    const x = a[axis - rank + a.length] ?? 1;
    const y = b[axis - rank + b.length] ?? 1;
    if (x !== y && x !== 1 && y !== 1) {
      throw new EngineError(
        'SHAPE_MISMATCH',
        `${operation}: ${showShape(a)} and ${showShape(b)} do not broadcast (${x} against ${y})`,
      );
    }
    result.push(x === 1 ? y : x);
  }
  return result;
}

/** An axis counted from the front. @throws EngineError ARGUMENT_INVALID when out of range */
export function normalizeAxis(operation: string, axis: number, rank: number): number {
  const positive = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(axis) || positive < 0 || positive >= rank) {
    throw new EngineError('ARGUMENT_INVALID', `${operation}: axis ${axis} is outside a tensor of rank ${rank}`);
  }
  return positive;
}
