/** Operators that move elements, and those that make shapes and constants. */
import type { Dim } from '../../dims.js';
import { isSymbolic, product, quotient } from '../../dims.js';
import type { HostTensor } from '../../host-tensor.js';
import { elementCount, hostTensor } from '../../host-tensor.js';
import { add, expand, mul } from '../../ops/arithmetic.js';
import { broadcastShapes, normalizeAxis } from '../../ops/broadcast.js';
import { cast, greater, where } from '../../ops/compare.js';
import { identity } from '../../ops/control.js';
import { arange, concat, gather, slice, tile } from '../../ops/indexing.js';
import { reshape, transpose } from '../../ops/shape.js';
import type { Tensor } from '../../tensor.js';
import { constant } from '../../tensor.js';
import { dtypeOf } from '../model.js';
import type { NodeContext, OperatorRule, OperatorTable } from './context.js';
import { foldCast, foldConcat, foldExpand, foldGather, foldShape, foldSlice, foldTranspose } from './fold.js';
import { knownOf, largestKnown, Value } from './value.js';

/** Target of a Reshape: 0 copies the size at its place, -1 is inferred. */
function reshapeTarget(n: NodeContext): Dim[] {
  const shape = n.value(0).shape;
  const wanted = n.dims(1, 'shape');
  const copies = n.int('allowzero', 0) === 0;
  return wanted.map((dim, i) => {
    if (dim !== 0 || !copies) return dim;
    const size = shape[i];
    if (size === undefined) throw n.error('ONNX_INVALID', `shape entry ${i} copies an axis that the input has not`);
    return size;
  });
}

function inferred(shape: readonly Dim[], target: readonly Dim[]): Dim[] {
  if (!target.includes(-1)) return [...target];
  const rest = quotient(product(shape), product(target.filter((dim) => dim !== -1)));
  return target.map((dim) => (dim === -1 && rest !== undefined ? rest : dim));
}

/** A rule that only gives its input another shape. */
function shapeRule(target: (n: NodeContext) => Dim[], note?: string): OperatorRule {
  return {
    trace: (n) => reshape(n.in(0), target(n)),
    fold: ([x], n) => {
      const shape = inferred(x!.shape, target(n));
      return shape.some(isSymbolic) ? undefined : foldShape(x!, shape as number[]);
    },
    note,
  };
}

/** Axes as an input (opset 13) or as an attribute (before). */
export function axesOf(n: NodeContext, input = 1): number[] | undefined {
  if (n.has(input)) return [...n.numbers(input, 'axes')];
  return n.ints('axes');
}

function squeezed(n: NodeContext): Dim[] {
  const shape = n.value(0).shape;
  const axes = axesOf(n)?.map((axis) => normalizeAxis(n.label, axis, shape.length));
  for (const axis of axes ?? []) {
    if (shape[axis] !== 1) throw n.error('SHAPE_MISMATCH', `axis ${axis} of [${shape}] has size ${shape[axis]}, not 1`);
  }
  return shape.filter((dim, axis) => (axes ? !axes.includes(axis) : dim !== 1));
}

function unsqueezed(n: NodeContext): Dim[] {
  const shape = [...n.value(0).shape];
  const axes = axesOf(n) ?? [];
  const rank = shape.length + axes.length;
  const added = new Set(axes.map((axis) => normalizeAxis(n.label, axis, rank)));
  if (added.size !== axes.length) throw n.error('ONNX_INVALID', `axes [${axes}] repeat`);
  return Array.from({ length: rank }, (_, axis) => (added.has(axis) ? 1 : shape.shift()!));
}

function flattened(n: NodeContext): Dim[] {
  const shape = n.value(0).shape;
  const raw = n.int('axis', 1);
  const axis = raw < 0 ? raw + shape.length : raw;
  if (axis < 0 || axis > shape.length) throw n.error('ONNX_INVALID', `axis ${raw} is outside [${shape}]`);
  return [product(shape.slice(0, axis)), product(shape.slice(axis))];
}

interface Cut {
  readonly axis: number;
  readonly start: number;
  /** Elements taken; a symbol when a symbolic end cuts an axis that is longer. */
  readonly count: Dim;
  readonly step: number;
}

/** What a Slice takes, axis by axis, clamped as ONNX says. */
function cuts(n: NodeContext): Cut[] {
  const shape = n.value(0).shape;
  const list = (name: string, input: number) => (n.has(input) ? n.dims(input, name) : n.ints(name));
  const starts = list('starts', 1) ?? [];
  const ends = list('ends', 2) ?? [];
  const axes = (n.has(3) ? n.numbers(3, 'axes') : n.ints('axes')) ?? starts.map((_, i) => i);
  const steps = n.has(4) ? n.numbers(4, 'steps') : starts.map(() => 1);
  if (ends.length !== starts.length || axes.length !== starts.length || steps.length !== starts.length) {
    throw n.error('ONNX_INVALID', 'starts, ends, axes and steps differ in length');
  }
  return axes.map((raw, i) => {
    const axis = normalizeAxis(n.label, raw, shape.length);
    return { axis, ...cutOf(n, shape[axis]!, starts[i]!, ends[i]!, steps[i]!) };
  });
}

function cutOf(n: NodeContext, size: Dim, start: Dim, end: Dim, step: number): Omit<Cut, 'axis'> {
  if (step === 0 || !Number.isInteger(step)) throw n.error('ONNX_INVALID', `a step of ${step}`);
  if (start === size && step > 0) return { start: 0, count: 0, step };
  if (!isSymbolic(size) && !isSymbolic(start) && !isSymbolic(end)) {
    const clamp = (value: number, low: number, high: number) =>
      Math.min(Math.max(value < 0 ? value + size : value, low), high);
    const from = step > 0 ? clamp(start, 0, size) : clamp(start, 0, size - 1);
    const to = step > 0 ? clamp(end, 0, size) : clamp(end, -1, size - 1);
    return { start: from, count: Math.max(0, Math.ceil((to - from) / step)), step };
  }
  const whole = end === size || (!isSymbolic(end) && end >= 2 ** 31 - 1);
  if (start === 0 && step === 1 && whole) return { start: 0, count: size, step };
  // One element from the front or the back: sizes are larger than 1.
  if (isSymbolic(size) && step === 1 && !isSymbolic(start)) {
    if (start === 0 && end === 1) return { start: 0, count: 1, step };
    if (start === -1 && whole) return { start: -1, count: 1, step };
  }
  // The first `end` elements of an axis that is at least as long, as position tables are cut.
  if (start === 0 && step === 1 && isSymbolic(end)) return { start: 0, count: end, step };
  throw n.error(
    'SIZE_UNKNOWN',
    `cannot cut ${start}..${end} (step ${step}) out of an axis of symbolic size ${size}; ${n.advice(size)}`,
  );
}

function takeCut(x: Tensor, { axis, start, count, step }: Cut, n: NodeContext): Tensor {
  const size = x.shape[axis]!;
  if (count === size && start === 0 && step === 1) return x;
  if (count === 0) throw n.unsupported(`a slice without elements (axis ${axis} of [${x.shape}])`);
  if (typeof count === 'number' && start >= 0) {
    return slice(x, axis, start, start + (count - 1) * step + Math.sign(step), step);
  }
  if (start === -1) return gatherAxis(x, constant(hostTensor('int64', [1], [-1])), axis);
  return gatherAxis(x, arange(count), axis);
}

/** Rows along any axis. */
export function gatherAxis(x: Tensor, indices: Tensor, axis: number): Tensor {
  if (axis === 0) return gather(x, indices);
  const front = [axis, ...Array.from({ length: x.rank }, (_, i) => i).filter((i) => i !== axis)];
  const found = gather(transpose(x, front), indices); // [...indices, ...rest]
  const rank = indices.rank;
  const before = Array.from({ length: axis }, (_, i) => rank + i);
  const after = Array.from({ length: x.rank - 1 - axis }, (_, i) => rank + axis + i);
  return transpose(found, [...before, ...Array.from({ length: rank }, (_, i) => i), ...after]);
}

/** Indices count from the end when negative. */
function wrapped(indices: Tensor, known: readonly Dim[] | undefined, size: Dim): Tensor {
  if (known?.every((index) => isSymbolic(index) || index >= 0)) return indices;
  if (isSymbolic(size)) return indices; // the runtime's own Gather wraps; only the gradient would not
  return where(greater(0, indices), add(indices, size), indices);
}

const gatherRule: OperatorRule = {
  trace: (n) => {
    const axis = normalizeAxis(n.label, n.int('axis', 0), n.value(0).shape.length);
    return gatherAxis(n.in(0), wrapped(n.in(1), n.value(1).known?.entries, n.value(0).shape[axis]!), axis);
  },
  fold: ([x, indices], n) => foldGather(x!, indices!, normalizeAxis(n.label, n.int('axis', 0), x!.shape.length)),
};

const splitRule: OperatorRule = {
  trace: (n) => {
    const x = n.in(0);
    const axis = normalizeAxis(n.label, n.int('axis', 0), x.rank);
    const sizes = splitSizes(n, x.shape[axis]!);
    let start = 0;
    return sizes.map((count) => {
      start += count;
      return takeCut(x, { axis, start: start - count, count, step: 1 }, n);
    });
  },
  fold: ([x], n) => {
    const axis = normalizeAxis(n.label, n.int('axis', 0), x!.shape.length);
    let start = 0;
    const parts = splitSizes(n, x!.shape[axis]!).map((count) => {
      start += count;
      return foldSlice(x!, axis, start - count, count, 1);
    });
    return parts.every((part) => part !== undefined) ? parts : undefined;
  },
};

function splitSizes(n: NodeContext, size: Dim): number[] {
  const given = n.has(1) ? n.numbers(1, 'split') : n.ints('split');
  if (isSymbolic(size))
    throw n.error('SIZE_UNKNOWN', `the axis to split has the symbolic size ${size}; ${n.advice(size)}`);
  const count = n.outputCount;
  const chunk = Math.ceil(size / count);
  const sizes = given ? [...given] : Array.from({ length: count }, (_, i) => Math.min(chunk, size - i * chunk));
  const fits = sizes.length === count && sizes.every((part) => part > 0) && sizes.reduce((a, b) => a + b, 0) === size;
  if (!fits) throw n.error('ONNX_INVALID', `parts of [${sizes}] do not make ${count} outputs of ${size}`);
  return sizes;
}

/** Entries of a Shape, cut by its start and end (opset 15). */
function shapeEntries(n: NodeContext): readonly Dim[] {
  const shape = n.value(0).shape;
  const at = (value: number) => Math.min(Math.max(value < 0 ? value + shape.length : value, 0), shape.length);
  return shape.slice(at(n.int('start', 0)), at(n.int('end', shape.length)));
}

const never = (n: NodeContext): never => {
  throw n.error('SIZE_UNKNOWN', `its result must be known while the graph is traced; ${n.advice()}`);
};

function constantHost(n: NodeContext): HostTensor {
  const floats = n.floats('value_floats');
  const ints = n.ints('value_ints');
  if (n.hasAttribute('value')) return n.host('value') ?? hostTensor('float32', [0], []);
  if (n.hasAttribute('value_float')) return hostTensor('float32', [], [n.float('value_float')]);
  if (n.hasAttribute('value_int')) return hostTensor('int64', [], [n.int('value_int')]);
  if (floats) return hostTensor('float32', [floats.length], floats);
  if (ints) return hostTensor('int64', [ints.length], ints);
  throw n.unsupported('a constant that is sparse or a string');
}

/** One value repeated: small and known, or an Expand in the graph. */
function filled(n: NodeContext, value: HostTensor, shape: readonly Dim[]): Value {
  const concrete = shape.every((dim) => !isSymbolic(dim)) ? elementCount(shape as number[]) : undefined;
  if (shape.some((dim) => !isSymbolic(dim) && (dim < 0 || !Number.isSafeInteger(dim)))) {
    throw n.error('ONNX_INVALID', `the impossible shape [${shape}]`);
  }
  if (concrete !== undefined && concrete <= largestKnown && value.dtype !== 'float16') {
    const known = knownOf(value.dtype, shape as number[], Array<Dim>(concrete).fill(Number(value.data[0])));
    if (known) return Value.known(known);
  }
  if (concrete === 0) throw n.unsupported(`a tensor without elements, [${shape}]`);
  return Value.traced(expand(constant({ ...value, shape: [] }), shape));
}

const castTo = (n: NodeContext) => {
  const number = n.int('to');
  const dtype = dtypeOf(number);
  if (!dtype) throw n.unsupported(`a cast to data type ${number}`);
  return dtype;
};

export const shapeOperators: OperatorTable = {
  Identity: { trace: (n) => identity(n.in(0)), values: (n) => [n.value(0)] },
  Constant: { trace: never, values: (n) => [Value.host(constantHost(n))] },
  ConstantOfShape: {
    trace: never,
    values: (n) => [filled(n, n.host('value') ?? hostTensor('float32', [1], [0]), n.dims(0, 'shape'))],
  },
  Shape: {
    trace: never,
    values: (n) => [Value.known({ dtype: 'int64', shape: [shapeEntries(n).length], entries: shapeEntries(n) })],
    gradient: 'none',
  },
  Size: {
    trace: never,
    values: (n) => [Value.known({ dtype: 'int64', shape: [], entries: [product(n.value(0).shape)] })],
    gradient: 'none',
  },
  Range: {
    // From 0 to a symbolic size by 1, or anything that is known.
    trace: (n) => {
      const [start, limit, delta] = ['start', 'limit', 'delta'].map((what, i) => n.dims(i, what)[0]!);
      const dtype = n.value(0).dtype;
      if (start === 0 && delta === 1) return arange(limit!, dtype);
      const [from, to, step] = [0, 1, 2].map((i) => n.number(i, ['start', 'limit', 'delta'][i]!)) as [
        number,
        number,
        number,
      ];
      const count = Math.max(0, Math.ceil((to - from) / step));
      if (!(count > 0 && Number.isSafeInteger(count))) throw n.unsupported(`a range from ${from} to ${to} by ${step}`);
      return add(mul(arange(count, dtype), step), from);
    },
    fold: ([start, limit, delta]) => {
      const [from, to, step] = [start, limit, delta].map((known) => known!.entries[0]);
      if (typeof from !== 'number' || typeof to !== 'number' || typeof step !== 'number') return undefined;
      const count = Math.max(0, Math.ceil((to - from) / step));
      if (!(count <= largestKnown)) return undefined;
      return knownOf(
        start!.dtype,
        [count],
        Array.from({ length: count }, (_, i) => from + i * step),
      );
    },
    gradient: 'none',
  },
  Reshape: shapeRule(reshapeTarget),
  Squeeze: shapeRule(squeezed),
  Unsqueeze: shapeRule(unsqueezed),
  Flatten: shapeRule(flattened),
  Transpose: {
    trace: (n) => transpose(n.in(0), n.ints('perm') ?? [...n.value(0).shape.keys()].reverse()),
    fold: ([x], n) => {
      const perm = n.ints('perm') ?? [...x!.shape.keys()].reverse();
      const fits = perm.length === x!.shape.length && [...perm].sort((a, b) => a - b).every((axis, i) => axis === i);
      return fits ? foldTranspose(x!, perm) : undefined;
    },
  },
  Expand: {
    trace: (n) => {
      const x = n.in(0);
      return expand(x, broadcastShapes(n.label, x.shape, n.dims(1, 'shape')));
    },
    fold: ([x, shape]) => (shape!.entries.some(isSymbolic) ? undefined : foldExpand(x!, shape!.entries as number[])),
  },
  Tile: { trace: (n) => tile(n.in(0), n.numbers(1, 'repeats')) },
  Concat: {
    trace: (n) => concat(n.all(), n.int('axis')),
    fold: (inputs, n) =>
      inputs.length > 0 && inputs.every((x) => x !== undefined)
        ? foldConcat(inputs, normalizeAxis(n.label, n.int('axis'), inputs[0]!.shape.length))
        : undefined,
  },
  Slice: {
    trace: (n) => cuts(n).reduce((x, cut) => takeCut(x, cut, n), n.in(0)),
    fold: ([x], n) =>
      cuts(n).reduce<typeof x>(
        (y, { axis, start, count, step }) =>
          y && typeof count === 'number' && start >= 0 ? foldSlice(y, axis, start, count, step) : undefined,
        x,
      ),
  },
  Split: splitRule,
  Gather: gatherRule,
  Cast: {
    trace: (n) => cast(n.in(0), castTo(n)),
    fold: ([x], n) => foldCast(x!, castTo(n)),
    note: 'gradients pass between float dtypes',
  },
  CastLike: {
    trace: (n) => cast(n.in(0), n.value(1).dtype),
    values: (n) => {
      const known = n.value(0).known;
      const result = known && foldCast(known, n.value(1).dtype);
      return result && [Value.known(result)];
    },
  },
};
