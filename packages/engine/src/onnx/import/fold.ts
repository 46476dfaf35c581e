/**
 * Computations on values that are known while tracing: the shape arithmetic of exported graphs (Shape, Gather, Concat, …,
 * Reshape). Entries are numbers or symbolic sizes; a result that is neither gives undefined, and the operator is
 * traced instead. Float entries are rounded to float32, as the runtime would.
 */
import type { Dim } from '../../dims.js';
import { isSymbolic, product, quotient } from '../../dims.js';
import type { DType } from '../../host-tensor.js';
import { elementCount } from '../../host-tensor.js';
import type { Known } from './value.js';
import { knownOf, largestKnown } from './value.js';

type Entry = Dim | undefined;
type Fold = (inputs: readonly (Known | undefined)[]) => Known | undefined;

const isWhole = (dtype: DType) => dtype === 'int64' || dtype === 'int32';

/** Rounds an entry as its dtype would hold it; undefined when it cannot. */
export function fit(dtype: DType, entry: Entry): Entry {
  if (entry === undefined || isSymbolic(entry)) return isWhole(dtype) ? entry : undefined;
  if (dtype === 'float32') return Math.fround(entry);
  if (dtype === 'float64') return entry;
  if (dtype === 'bool') return entry === 0 ? 0 : 1;
  if (!Number.isFinite(entry)) return undefined;
  if (dtype === 'int64') return Math.trunc(entry);
  const low = dtype === 'int32' ? -(2 ** 31) : dtype === 'int8' ? -128 : 0;
  const high = { int32: 2 ** 31, uint32: 2 ** 32, int8: 128, uint8: 256, float16: 0 }[dtype];
  return Math.trunc(entry) >= low && Math.trunc(entry) < high ? Math.trunc(entry) : undefined;
}

function build(dtype: DType, shape: readonly number[], entries: readonly Entry[]): Known | undefined {
  const fitted = entries.map((entry) => fit(dtype, entry));
  return fitted.includes(undefined) ? undefined : knownOf(dtype, shape, fitted as Dim[]);
}

/** Row-major places of the elements of `shape`, broadcast from `own` (aligned to its end). */
function places(own: readonly number[], shape: readonly number[]): number[] {
  const strides = stridesOf(own);
  const offset = shape.length - own.length;
  return Array.from({ length: elementCount(shape) }, (_, flat) => {
    let rest = flat;
    let place = 0;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const index = rest % shape[axis]!;
      rest = Math.floor(rest / shape[axis]!);
      if (axis >= offset && own[axis - offset] !== 1) place += index * strides[axis - offset]!;
    }
    return place;
  });
}

function stridesOf(shape: readonly number[]): number[] {
  const strides: number[] = [];
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= shape[axis]!;
  }
  return strides;
}

function broadcast(shapes: readonly (readonly number[])[]): number[] | undefined {
  const rank = Math.max(...shapes.map((shape) => shape.length));
  const result = Array<number>(rank).fill(1);
  for (const shape of shapes) {
    for (const [i, size] of shape.entries()) {
      const axis = rank - shape.length + i;
      if (size === 1) continue;
      if (result[axis] !== 1 && result[axis] !== size) return undefined;
      result[axis] = size;
    }
  }
  return elementCount(result) <= largestKnown ? result : undefined;
}

/** An elementwise computation with broadcasting. */
export function foldElementwise(compute: (...entries: Dim[]) => Entry, result?: DType): Fold {
  return (inputs) => {
    const known = inputs.filter((input) => input !== undefined);
    const shape = broadcast(known.map((input) => input.shape));
    if (!shape || known.length === 0) return undefined;
    const at = known.map((input) => places(input.shape, shape));
    const entries = Array.from({ length: elementCount(shape) }, (_, i) =>
      compute(...known.map((input, j) => input.entries[at[j]![i]!]!)),
    );
    return build(result ?? known.at(-1)!.dtype, shape, entries);
  };
}

const numeric = (compute: (a: number, b: number) => number) => (a: Dim, b: Dim) =>
  isSymbolic(a) || isSymbolic(b) ? undefined : compute(a, b);
const numericOne = (compute: (a: number) => number) => (a: Dim) => (isSymbolic(a) ? undefined : compute(a));

/** Symbolic sizes are larger than 1: that is what comparisons can go by. */
function compare(a: Dim, b: Dim): -1 | 0 | 1 | undefined {
  if (a === b) return 0;
  if (!isSymbolic(a) && !isSymbolic(b)) return a < b ? -1 : 1;
  if (isSymbolic(a) && !a.startsWith('-')) return !isSymbolic(b) && b <= 1 ? 1 : undefined;
  return isSymbolic(b) && !b.startsWith('-') && !isSymbolic(a) && a <= 1 ? -1 : undefined;
}

const test = (holds: (order: number) => boolean) => (a: Dim, b: Dim) => {
  // NaN is equal to nothing and ordered against nothing.
  if (Number.isNaN(a) || Number.isNaN(b)) return 0;
  const order = compare(a, b);
  return order === undefined ? undefined : Number(holds(order));
};

export function addDims(a: Dim, b: Dim): Entry {
  if (a === 0) return b;
  if (b === 0) return a;
  if (!isSymbolic(a) && !isSymbolic(b)) return a + b;
  if (a === product([-1, b])) return 0;
  return a === b ? product([2, a]) : undefined;
}

function mulDims(a: Dim, b: Dim): Entry {
  if (a === 0 || b === 0) return 0;
  if ([a, b].some((entry) => !isSymbolic(entry) && !Number.isInteger(entry))) return numeric((x, y) => x * y)(a, b);
  return product([a, b]);
}

const extreme = (sign: 1 | -1) => (a: Dim, b: Dim) => {
  // The largest integer stands for "to the end".
  if (isSymbolic(a) && !isSymbolic(b) && b >= 2 ** 31 - 1) return sign > 0 ? b : a;
  if (isSymbolic(b) && !isSymbolic(a) && a >= 2 ** 31 - 1) return sign > 0 ? a : b;
  const order = compare(a, b);
  return order === undefined ? undefined : order * sign >= 0 ? a : b;
};

const chain =
  (compute: (a: Dim, b: Dim) => Entry) =>
  (...entries: Dim[]): Entry =>
    entries
      .slice(1)
      .reduce<Entry>((left, right) => (left === undefined ? undefined : compute(left, right)), entries[0]);

const foldDiv: Fold = (inputs) => {
  const whole = isWhole(inputs[0]?.dtype ?? 'float32');
  return foldElementwise((a, b) => {
    if (isSymbolic(a) || isSymbolic(b)) return a === b ? 1 : b === 0 ? undefined : quotient(a, b);
    return whole ? (b === 0 ? undefined : Math.trunc(a / b)) : a / b;
  })(inputs);
};

export const foldMath = {
  Add: foldElementwise(addDims),
  Sub: foldElementwise((a, b) => addDims(a, isSymbolic(b) ? product([-1, b]) : -b)),
  Mul: foldElementwise(mulDims),
  Div: foldDiv,
  Min: foldElementwise(chain(extreme(-1))),
  Max: foldElementwise(chain(extreme(1))),
  Neg: foldElementwise((a) => (isSymbolic(a) ? product([-1, a]) : -a)),
  Abs: foldElementwise(numericOne(Math.abs)),
  Floor: foldElementwise((a) => (isSymbolic(a) ? a : Math.floor(a))),
  Ceil: foldElementwise((a) => (isSymbolic(a) ? a : Math.ceil(a))),
  Round: foldElementwise(numericOne((a) => (Math.abs(a % 1) === 0.5 ? 2 * Math.round(a / 2) : Math.round(a)))),
  Sqrt: foldElementwise(numericOne(Math.sqrt)),
  Exp: foldElementwise(numericOne(Math.exp)),
  Log: foldElementwise(numericOne(Math.log)),
  Reciprocal: foldElementwise(numericOne((a) => 1 / a)),
  Sign: foldElementwise(numericOne(Math.sign)),
  Equal: foldElementwise(
    test((order) => order === 0),
    'bool',
  ),
  Greater: foldElementwise(
    test((order) => order > 0),
    'bool',
  ),
  GreaterOrEqual: foldElementwise(
    test((order) => order >= 0),
    'bool',
  ),
  Less: foldElementwise(
    test((order) => order < 0),
    'bool',
  ),
  LessOrEqual: foldElementwise(
    test((order) => order <= 0),
    'bool',
  ),
  Not: foldElementwise(numericOne((a) => (a === 0 ? 1 : 0))),
  And: foldElementwise(numeric((a, b) => a & b)),
  Or: foldElementwise(numeric((a, b) => a | b)),
  Xor: foldElementwise(numeric((a, b) => a ^ b)),
  Where: foldElementwise((condition, a, b) => (condition === 0 ? b : a)),
} satisfies Record<string, Fold>;

/** x to a power; a whole power of a whole number stays one. */
export const foldPow: Fold = (inputs) =>
  inputs.length === 2 && inputs[0]
    ? foldElementwise(
        numeric((a, b) => a ** b),
        inputs[0].dtype,
      )(inputs)
    : undefined;

export function foldMod(fmod: boolean): Fold {
  return foldElementwise(numeric((a, b) => (fmod ? a % b : ((a % b) + b) % b)));
}

export function foldCast(x: Known, dtype: DType): Known | undefined {
  return build(
    dtype,
    x.shape,
    x.entries.map((entry) => (isSymbolic(entry) ? entry : isWhole(dtype) ? Math.trunc(entry) : entry)),
  );
}

/** The same entries in another shape. */
export function foldShape(x: Known, shape: readonly number[]): Known | undefined {
  return knownOf(x.dtype, shape, x.entries);
}

/** Entries picked by their row-major places. */
function pick(x: Known, shape: readonly number[], at: readonly number[]): Known | undefined {
  const entries = at.map((place) => x.entries[place]);
  return entries.includes(undefined) ? undefined : knownOf(x.dtype, shape, entries as Dim[]);
}

export function foldGather(x: Known, indices: Known, axis: number): Known | undefined {
  const size = x.shape[axis]!;
  const at = indices.entries.map((index) => (isSymbolic(index) ? Number.NaN : index < 0 ? index + size : index));
  if (at.some((index) => !(index >= 0 && index < size))) return undefined;
  const inner = elementCount(x.shape.slice(axis + 1));
  const outer = elementCount(x.shape.slice(0, axis));
  if (outer * at.length * inner > largestKnown) return undefined;
  const found: number[] = [];
  for (let o = 0; o < outer; o++) {
    for (const index of at) for (let i = 0; i < inner; i++) found.push((o * size + index) * inner + i);
  }
  return pick(x, [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)], found);
}

export function foldConcat(xs: readonly Known[], axis: number): Known | undefined {
  const first = xs[0]!;
  const fits = (x: Known) =>
    x.shape.length === first.shape.length && x.shape.every((size, i) => i === axis || size === first.shape[i]);
  if (!xs.every(fits)) return undefined;
  const outer = elementCount(first.shape.slice(0, axis));
  const entries: Dim[] = [];
  for (let o = 0; o < outer; o++) {
    for (const x of xs) {
      const chunk = elementCount(x.shape.slice(axis));
      entries.push(...x.entries.slice(o * chunk, (o + 1) * chunk));
    }
  }
  const total = xs.reduce((sum, x) => sum + x.shape[axis]!, 0);
  return knownOf(
    first.dtype,
    first.shape.map((size, i) => (i === axis ? total : size)),
    entries,
  );
}

export function foldExpand(x: Known, shape: readonly number[]): Known | undefined {
  const target = broadcast([x.shape, shape]);
  return target && pick(x, target, places(x.shape, target));
}

export function foldTranspose(x: Known, perm: readonly number[]): Known | undefined {
  const shape = perm.map((axis) => x.shape[axis]!);
  const strides = stridesOf(x.shape);
  const out = stridesOf(shape);
  const at = x.entries.map((_, flat) =>
    perm.reduce((place, axis, i) => place + (Math.floor(flat / out[i]!) % shape[i]!) * strides[axis]!, 0),
  );
  return pick(x, shape, at);
}

/** Start, end and step along one axis, already inside it. */
export function foldSlice(x: Known, axis: number, from: number, count: number, step: number): Known | undefined {
  const indices = Array.from({ length: count }, (_, i) => from + i * step);
  return foldGather(x, { dtype: 'int64', shape: [count], entries: indices }, axis);
}

export function foldReduce(
  x: Known,
  axes: readonly number[],
  keepDims: boolean,
  combine: (a: Dim, b: Dim) => Entry,
  start?: Dim,
): Known | undefined {
  const kept = x.shape.map((size, axis) => (axes.includes(axis) ? 1 : size));
  const results = Array<Entry>(elementCount(kept)).fill(start);
  const begun = Array<boolean>(results.length).fill(start !== undefined);
  const target = places(kept, x.shape);
  for (const [i, entry] of x.entries.entries()) {
    const at = target[i]!;
    const sum = results[at];
    results[at] = begun[at] ? (sum === undefined ? undefined : combine(sum, entry)) : entry;
    begun[at] = true;
  }
  return build(x.dtype, keepDims ? kept : x.shape.filter((_, axis) => !axes.includes(axis)), results);
}

export const combineDims = { sum: addDims, prod: mulDims, max: extreme(1), min: extreme(-1) };
