import type { Dim } from '../dims.js';
import { isSymbolic, knownSizes, product, sameShape, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import type { DType } from '../host-tensor.js';
import { hostTensor, onnxType } from '../host-tensor.js';
import type { Attributes, Op, Tensor } from '../tensor.js';
import { apply, applyAll, requireDtype, scalar } from '../tensor.js';
import { add, expand, mul, sizeOf } from './arithmetic.js';
import { shiftAxes, shiftAxesOfAll } from './batching.js';
import { normalizeAxis } from './broadcast.js';
import { cast, equal } from './compare.js';
import { reshape, unsqueeze } from './shape.js';
import { wideSum } from './wide.js';

const sliceOp: Op = {
  name: 'Slice',
  shape: ([x], { axis, start, end, step }) => ({
    dtype: x!.dtype,
    shape: x!.shape.map((dim, i) =>
      i === axis ? Math.ceil(((end as number) - (start as number)) / (step as number)) : dim,
    ),
  }),
  emit: (context, node, [x]) => {
    const one = (key: string) => context.constant(hostTensor('int64', [1], [node.attributes[key] as number]));
    return context.node('Slice', [x!, one('start'), one('end'), one('axis'), one('step')]);
  },
  vjp: ([x], dy, { attributes }) => {
    const { axis, start, step } = attributes as { axis: number; start: number; step: number };
    return [pad(spaced(dy, axis, step), axis, start, x!.shape[axis]!)];
  },
  batch: shiftAxes('axis'),
};

/** Puts `step` − 1 zeros between the elements of an axis. */
function spaced(x: Tensor, axis: number, step: number): Tensor {
  if (step === 1) return x;
  const size = x.shape[axis] as number;
  const wide = pad(unsqueeze(x, axis + 1), axis + 1, 0, step);
  const merged = reshape(wide, [...x.shape.slice(0, axis), size * step, ...x.shape.slice(axis + 1)]);
  return slice(merged, axis, 0, (size - 1) * step + 1);
}

/**
 * Elements `start` to `end` (excluded) of one axis, every `step`-th. With a negative step it runs down from `start` to
 * `end`, which is excluded as well and −1 to include the first: `slice(x, 0, 4, -1, -2)` has the elements 4, 2, 0.
 *
 * @throws EngineError ARGUMENT_INVALID when the range is not inside the axis
 */
export function slice(x: Tensor, axis: number, start: number, end: number, step = 1): Tensor {
  const at = normalizeAxis('slice', axis, x.rank);
  const size = x.shape[at]!;
  const [low, high] = step > 0 ? [start, end] : [end + 1, start + 1];
  if (low < 0 || high <= low || (!isSymbolic(size) && high > size) || !Number.isInteger(step) || step === 0) {
    throw new EngineError(
      'ARGUMENT_INVALID',
      `slice: ${start}..${end} by ${step} is not inside axis ${at} of ${showShape(x.shape)}`,
    );
  }
  if (step < 0) {
    const last = start + step * (Math.ceil((end - start) / step) - 1);
    return flip(slice(x, at, last, start + 1, -step), [at]);
  }
  return start === 0 && end === size && step === 1 ? x : apply(sliceOp, [x], { axis: at, start, end, step });
}

const flipOp: Op = {
  name: 'Flip',
  shape: ([x]) => x!,
  emit: (context, node, [x]) => {
    const axes = node.attributes.axes as number[];
    const all = (value: number) =>
      context.constant(
        hostTensor(
          'int64',
          [axes.length],
          axes.map(() => value),
        ),
      );
    // From the last element down to before the first: an end that no size reaches.
    const list = context.constant(hostTensor('int64', [axes.length], axes));
    return context.node('Slice', [x!, all(-1), all(-(2 ** 31)), list, all(-1)]);
  },
  vjp: (_, dy, { attributes }) => [flip(dy, attributes.axes as number[])],
  batch: shiftAxes('axes'),
};

/** The elements of some axes in reverse order. */
export function flip(x: Tensor, axes: readonly number[]): Tensor {
  return apply(flipOp, [x], { axes: axes.map((axis) => normalizeAxis('flip', axis, x.rank)) });
}

const padOp: Op = {
  name: 'Pad',
  shape: ([x], { axis, size }) => ({
    dtype: x!.dtype,
    shape: x!.shape.map((dim, i) => (i === axis ? (size as Dim) : dim)),
  }),
  emit: (context, node, [x]) => {
    const { axis, start, size } = node.attributes as { axis: number; start: number; size: Dim };
    const inner = node.inputs[0]!.shape[axis] as number;
    const whole = (...values: number[]) => context.constant(hostTensor('int64', [values.length], values));
    // Pads of every axis: ONNX Runtime moves transposes through a Pad as if it never named its axes.
    const zeros = (count: number) => Array<number>(count).fill(0);
    const rest = zeros(node.inputs[0]!.rank - 1 - axis);
    const before = [...zeros(axis), start, ...rest];
    if (!isSymbolic(size))
      return context.node('Pad', [x!, whole(...before, ...zeros(axis), size - start - inner, ...rest)]);
    const [after] = context.node('Sub', [context.dim(size), whole(start + inner)]);
    const parts = [whole(...before, ...zeros(axis)), after!, ...(rest.length > 0 ? [whole(...rest)] : [])];
    return context.node('Pad', [x!, context.node('Concat', parts, { axis: 0 })[0]!]);
  },
  vjp: ([x], dy, { attributes: { axis, start } }) => {
    const from = start as number;
    return [slice(dy, axis as number, from, from + (x!.shape[axis as number] as number))];
  },
  batch: shiftAxes('axis'),
};

/** Zeros around one axis, so that it has `size` elements and the old ones begin at `start`. */
export function pad(x: Tensor, axis: number, start: number, size: Dim): Tensor {
  return x.shape[axis] === size ? x : apply(padOp, [x], { axis, start, size });
}

const concatOp: Op = {
  name: 'Concat',
  shape: (xs, attributes) => {
    const axis = attributes.axis as number;
    const first = xs[0]!;
    for (const x of xs) {
      const fits = x.rank === first.rank && x.shape.every((dim, i) => i === axis || dim === first.shape[i]);
      if (!fits || x.dtype !== first.dtype) {
        throw new EngineError(
          'SHAPE_MISMATCH',
          `concat along axis ${axis}: ${showShape(first.shape)} and ${showShape(x.shape)} do not fit`,
        );
      }
    }
    const parts = xs.flatMap((x) => knownSizes('concat', [x.shape[axis]!], x.shape));
    const total = parts.reduce((size, part) => size + part, 0);
    return { dtype: first.dtype, shape: first.shape.map((dim, i) => (i === axis ? total : dim)) };
  },
  vjp: (xs, dy, { attributes }) => {
    const axis = attributes.axis as number;
    let start = 0;
    return xs.map((x) => {
      const size = x.shape[axis] as number;
      const part = slice(dy, axis, start, start + size);
      start += size;
      return part;
    });
  },
  batch: shiftAxesOfAll('axis'),
};

/** Joins tensors along an axis whose sizes are known. */
export function concat(xs: readonly Tensor[], axis: number): Tensor {
  if (xs.length === 0) throw new EngineError('ARGUMENT_INVALID', 'concat takes at least one tensor');
  if (xs.length === 1) return xs[0]!;
  return apply(concatOp, xs, { axis: normalizeAxis('concat', axis, xs[0]!.rank) });
}

const gatherOp: Op = {
  name: 'Gather',
  shape: ([table, indices]) => ({ dtype: table!.dtype, shape: [...indices!.shape, ...table!.shape.slice(1)] }),
  emit: (context, _, inputs) => context.node('Gather', inputs, { axis: 0 }),
  vjp: ([table, indices], dy) => [scatterAdd(dy, indices!, table!.shape[0]!), undefined],
  batch: ([table, indices], { node, batched, full }) => {
    if (!batched[0]) return gather(table!, indices!);
    // One table of all the examples' rows.
    return gather(mergeFirst(table!), inTables(full(1), node.inputs[0]!.shape[0]!));
  },
};

/**
 * Rows of a table, as in an embedding.
 *
 * @param table   [rows, ...]
 * @param indices int64 [...]; every index in 0..rows-1
 * @returns       [...indices, ...row]
 */
export function gather(table: Tensor, indices: Tensor): Tensor {
  requireDtype('gather', indices, 'int64', 'int32');
  return apply(gatherOp, [table, indices]);
}

const moveRowsOp: Op = {
  name: 'MoveRows',
  shape: ([table, indices]) => ({ dtype: table!.dtype, shape: [...indices!.shape, ...table!.shape.slice(1)] }),
  emit: (context, _, [table, indices]) => context.node('Gather', [table!, indices!], { axis: 0 }),
  vjp: ([table, indices, inverse, live], dy) => {
    const row = table!.shape.slice(1);
    const back = moveRows(reshape(dy, [-1, ...row]), inverse!, indices!);
    const shown = live ? mul(back, reshape(live, [...live.shape, ...row.map(() => 1)])) : back;
    return [reshape(shown, table!.shape), undefined, undefined, undefined];
  },
  batch: (inputs, { node, full }) => {
    const [rows, places] = [node.inputs[0]!.shape[0]!, product(node.inputs[1]!.shape)];
    const live = inputs.length > 3 ? [mergeFirst(full(3))] : [];
    const inverse = mergeFirst(inTables(full(2), places));
    return apply(moveRowsOp, [mergeFirst(full(0)), inTables(full(1), rows), inverse, ...live]);
  },
};

/**
 * Rows of a table in another order, when the way back is known: the gradient is then a gather as well, far cheaper
 * than adding into zeros. It is meant for packing (padding out) and unpacking (padding in) of batches.
 *
 * @param table   [rows, ...]
 * @param indices int64 [...]; places of the result that stand for padding may repeat any row, if nothing reads them
 * @param inverse int64, as many as rows: the place of each row in the flattened result
 * @param live    float, shaped as `inverse`: 0 where the row has no place in the result, so that its gradient is 0
 */
export function moveRows(table: Tensor, indices: Tensor, inverse: Tensor, live?: Tensor): Tensor {
  requireDtype('moveRows', indices, 'int64');
  return apply(moveRowsOp, live ? [table, indices, inverse, live] : [table, indices, inverse]);
}

const scatterAddOp: Op = {
  name: 'ScatterND',
  shape: ([rows, indices], { count }) => ({
    dtype: rows!.dtype,
    shape: [count as Dim, ...rows!.shape.slice(indices!.rank)],
  }),
  emit: (context, node, [rows, indices]) => {
    const shape = context.shape(node.outputs[0]!.shape);
    const last = context.constant(hostTensor('int64', [1], [-1]));
    const [tuples] = context.node('Unsqueeze', [indices!, last]);
    return wideSum(context, node.inputs[0]!.dtype, [rows!], ([values], dtype) => {
      const [zeros] = context.node('Expand', [context.constant(hostTensor(dtype, [1], [0])), shape]);
      return context.node('ScatterND', [zeros!, tuples!, values!], { reduction: 'add' });
    });
  },
  vjp: ([, indices], dy) => [gather(dy, indices!), undefined],
  batch: (_, { node, size, full }) => {
    const { shape } = node.outputs[0]!;
    const places = inTables(full(1), shape[0]!);
    return reshape(scatterAdd(full(0), places, product([size, shape[0]!])), [size, ...shape]);
  },
};

/** The transpose of `gather`: adds each row to the place its index names, in a table of `count` rows. */
export function scatterAdd(rows: Tensor, indices: Tensor, count: Dim): Tensor {
  if (!sameShape(rows.shape.slice(0, indices.rank), indices.shape)) {
    throw new EngineError(
      'SHAPE_MISMATCH',
      `scatterAdd: rows ${showShape(rows.shape)} do not begin with the indices' shape ${showShape(indices.shape)}`,
    );
  }
  return apply(scatterAddOp, [rows, indices], { count });
}

const rangeOp: Op = {
  name: 'Range',
  shape: (_, { dim, dtype }) => ({ dtype: dtype as DType, shape: [dim as Dim] }),
  emit: (context, node) => {
    const { dim, dtype } = node.attributes as { dim: Dim; dtype: DType };
    const [end] = context.node('Reshape', [context.dim(dim), context.constant(hostTensor('int64', [0], []))]);
    const typed = dtype === 'int64' ? end! : context.node('Cast', [end!], { to: onnxType[dtype] })[0]!;
    const number = (value: number) => context.constant(hostTensor(dtype, [], [value]));
    return context.node('Range', [number(0), typed, number(1)]);
  },
  vjp: 'none',
};

/** Where each of `count` tables of `rows` rows begins when they stand one below the other: int64 [count, 1, ...]. */
export function tableStarts(count: Dim, rows: Dim, rank: number): Tensor {
  const first = mul(arange(count), sizeOf([rows], 'int64'));
  return reshape(first, [count, ...Array<number>(rank).fill(1)]);
}

/** Indices [batch, ...] into tables of `rows` each, as indices into all those tables put one below the other. */
function inTables(indices: Tensor, rows: Dim): Tensor {
  return add(cast(indices, 'int64'), tableStarts(indices.shape[0]!, rows, indices.rank - 1));
}

/** [batch, n, ...] -> [batch * n, ...] */
function mergeFirst(x: Tensor): Tensor {
  return reshape(x, [product(x.shape.slice(0, 2)), ...x.shape.slice(2)]);
}

/** 0, 1, … up to the size of a dimension, which may be symbolic. */
export function arange(dim: Dim, dtype: DType = 'int64'): Tensor {
  const counted = dtype === 'int32' ? 'int32' : 'int64';
  return cast(apply(rangeOp, [], { dim, dtype: counted }), dtype);
}

/** 1 where the index names the class, else 0: int64 [...] -> [..., classes]. */
export function oneHot(indices: Tensor, classes: number, dtype: DType = 'float32'): Tensor {
  // Compared in int32, which every backend computes in.
  return cast(equal(unsqueeze(cast(indices, 'int32'), -1), arange(classes, 'int32')), dtype);
}

const cumSumOp: Op = {
  name: 'CumSum',
  shape: ([x]) => x!,
  emit: (context, node, [x]) => {
    const { axis, reverse } = node.attributes as { axis: number; reverse: boolean };
    return context.node('CumSum', [x!, context.constant(hostTensor('int64', [], [axis]))], {
      reverse: Number(reverse),
    });
  },
  vjp: (_, dy, { attributes: { axis, reverse } }) => [cumSum(dy, axis as number, !reverse)],
  batch: shiftAxes('axis'),
};

/** Running sum along an axis, from the other end when `reverse`. */
export function cumSum(x: Tensor, axis: number, reverse = false): Tensor {
  return apply(cumSumOp, [x], { axis: normalizeAxis('cumSum', axis, x.rank), reverse } satisfies Attributes);
}

const splitOp: Op = {
  name: 'Split',
  shape: ([x], { sizes, axis }) =>
    (sizes as number[]).map((size) => ({
      dtype: x!.dtype,
      shape: x!.shape.map((dim, i) => (i === axis ? size : dim)),
    })),
  emit: (context, node, [x]) => {
    const { sizes, axis } = node.attributes as { sizes: number[]; axis: number };
    const parts = context.constant(hostTensor('int64', [sizes.length], sizes));
    return context.node('Split', [x!, parts], { axis }, { outputs: sizes.length });
  },
  vjp: (_, _dy, { outputs, attributes, cotangents }) => {
    const whole = cotangents.map(
      (cotangent, i) => cotangent ?? expand(scalar(0, outputs[i]!.dtype), outputs[i]!.shape),
    );
    return [concat(whole, attributes.axis as number)];
  },
  batch: shiftAxes('axis'),
};

/** Cuts an axis into parts of the given sizes, which must add up to it. */
export function split(x: Tensor, sizes: readonly number[], axis = -1): Tensor[] {
  const at = normalizeAxis('split', axis, x.rank);
  const total = sizes.reduce((a, b) => a + b, 0);
  if (total !== x.shape[at]) {
    throw new EngineError(
      'SHAPE_MISMATCH',
      `split: parts of ${sizes.join(' + ')} do not make axis ${at} of ${showShape(x.shape)}`,
    );
  }
  return sizes.length === 1 ? [x] : [...applyAll(splitOp, [x], { sizes: [...sizes], axis: at })];
}

/** The tensor repeated, `repeats` times an axis. */
export function tile(x: Tensor, repeats: readonly number[]): Tensor {
  if (repeats.length !== x.rank) {
    throw new EngineError('ARGUMENT_INVALID', `tile: ${repeats.length} repeats for ${showShape(x.shape)}`);
  }
  const spread = x.shape.flatMap((dim) => [1, dim]);
  const wide = x.shape.flatMap((dim, axis) => [repeats[axis]!, dim]);
  const result = x.shape.map((dim, axis) => product([repeats[axis]!, dim]));
  return reshape(expand(reshape(x, spread), wide), result);
}

/**
 * Rows of an embedding table: `gather` by its other name. Its gradient is `scatterAdd` of the rows that were read, into a
 * table of zeros.
 *
 * @param table   [rows, width]
 * @param indices int64 [...]
 * @returns       [..., width]
 */
export const embedding = (table: Tensor, indices: Tensor): Tensor => gather(table, indices);
