/** Where numbers go wrong: the first operator that makes a NaN or an infinity of finite numbers. */
import type { DeviceTensor, SessionOptions } from '#backend';
import { closeSession, openSession, runSession, toHost } from '#backend';
import type { Dim } from '../dims.js';
import { factorsOf, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import { fromFloat16 } from '../float16.js';
import type { HostTensor } from '../host-tensor.js';
import { arrayType } from '../host-tensor.js';
import { writeOnnx } from '../onnx/model.js';
import { isFloat } from '../ops/compare.js';
import type { Node, Tensor, TensorSpec } from '../tensor.js';
import { constantValue } from '../tensor.js';
import { emitTraced } from './emitter.js';
import { emitGraph, type TracedGraph, writtenNodes } from './graph.js';
import type { Sizes } from './variants.js';

/** How many bytes of values between operators are looked at in one run. */
const chunkBytes = 256 << 20;

export interface ValueRange {
  /** The operator that made it, or the name of an input. */
  readonly name: string;
  readonly shape: readonly Dim[];
  /** Of its finite elements; NaN when it has none. */
  readonly min: number;
  readonly max: number;
  readonly nans: number;
  readonly infinities: number;
}

/** The operator at which numbers went wrong. */
export class NanFound extends EngineError {
  constructor(
    message: string,
    readonly operator: string,
    /** The line of user code; of a gradient, the line whose gradient it is. */
    readonly line: string | undefined,
    readonly output: ValueRange,
    readonly inputs: readonly ValueRange[],
  ) {
    super('NAN_FOUND', message);
    this.name = 'NanFound';
  }
}

/** Whether all elements of a float tensor are finite; others are. */
export function allFinite({ dtype, data }: HostTensor): boolean {
  if (!isFloat(dtype)) return true;
  const values = data as Float32Array;
  // Bits of float16: an exponent of ones is an infinity or a NaN.
  if (dtype === 'float16') return values.every((bits) => (bits & 0x7c00) !== 0x7c00);
  return values.every(Number.isFinite);
}

/**
 * Runs the program again with what lies between its operators as outputs, a part at a time, and looks at each in order.
 *
 * @param feeds what the run was given whose outputs were not finite
 * @throws NanFound
 */
export async function findNan(
  graph: TracedGraph,
  feeds: Readonly<Record<string, DeviceTensor>>,
  sizes: Sizes,
  options: SessionOptions,
): Promise<never> {
  const ranges = new Map<Tensor, ValueRange>();
  for (const [name, tensor] of Object.entries(graph.inputs)) {
    if (feeds[name]?.location !== 'cpu' || !isFloat(tensor.dtype)) continue;
    const range = rangeOf(name, tensor, toHost(feeds[name]));
    if (range.nans + range.infinities > 0) {
      const message = `${graph.name}: what it was given holds numbers that are not finite: ${show(range)}`;
      throw new NanFound(message, 'Input', undefined, range, []);
    }
    ranges.set(tensor, range);
  }
  let suspect: Node | undefined;
  for (const chunk of chunks(graph, sizes)) {
    for (const [tensor, value] of await compute(graph, chunk, feeds, options)) {
      ranges.set(tensor, rangeOf(tensor.node.op.name, tensor, value));
    }
    for (const node of new Set(chunk.map(({ node }) => node))) {
      const inputs = rangesOf(node.inputs, ranges);
      const outputs = rangesOf(node.outputs, ranges);
      const some = (list: readonly ValueRange[], count: (range: ValueRange) => number) =>
        list.some((range) => count(range) > 0);
      const any = ({ nans, infinities }: ValueRange) => nans + infinities;
      if (some(outputs, any) && !some(inputs, any)) throw found(graph, node, ranges);
      // An infinity may be meant (a mask), and what makes a NaN of it is then the culprit.
      if (some(outputs, ({ nans }) => nans) && !some(inputs, ({ nans }) => nans)) suspect ??= node;
    }
  }
  if (suspect) throw found(graph, suspect, ranges);
  const message = `${graph.name}: its results are not finite, but every operator's are when it runs by itself: numbers overflow inside operators that ONNX Runtime has joined`;
  throw new EngineError('NAN_FOUND', message);
}

function found(graph: TracedGraph, node: Node, ranges: ReadonlyMap<Tensor, ValueRange>): NanFound {
  const line = node.source.text;
  const inputs = rangesOf(node.inputs, ranges);
  const output = rangesOf(node.outputs, ranges).find(({ nans, infinities }) => nans + infinities > 0)!;
  const place = line === undefined ? '' : node.derived ? ` in the gradient of ${line}` : ` at ${line}`;
  const from = inputs.map((range, i) => `\n  input ${i}: ${show(range)}`).join('');
  const message = `${graph.name}: ${node.op.name}${place} made numbers that are not finite\n  result: ${show(output)}${from}`;
  return new NanFound(message, node.op.name, line, output, inputs);
}

const show = ({ name, shape, min, max, nans, infinities }: ValueRange): string => {
  const odd = [nans > 0 ? `${nans} NaN` : '', infinities > 0 ? `${infinities} infinite` : ''].filter(Boolean);
  const finite = Number.isNaN(min) ? [] : [`${Number(min.toPrecision(4))} to ${Number(max.toPrecision(4))}`];
  return `${name} ${showShape(shape)}, ${[...finite, ...odd].join(', ')}`;
};

const rangesOf = (tensors: readonly Tensor[], ranges: ReadonlyMap<Tensor, ValueRange>): ValueRange[] =>
  tensors.flatMap((tensor) => {
    const value = constantValue(tensor);
    if (value && isFloat(value.dtype)) return [rangeOf('constant', tensor, value)];
    return ranges.get(tensor) ?? [];
  });

function rangeOf(name: string, { shape }: Tensor, { dtype, data }: HostTensor): ValueRange {
  let [min, max, nans, infinities] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, 0];
  const values = dtype === 'float16' ? fromFloat16(data as Uint16Array) : (data as Float32Array);
  for (const value of values) {
    if (Number.isNaN(value)) nans++;
    else if (!Number.isFinite(value)) infinities++;
    else {
      if (value < min) min = value;
      if (value > max) max = value;
    }
  }
  return min > max
    ? { name, shape, min: Number.NaN, max: Number.NaN, nans, infinities }
    : { name, shape, min, max, nans, infinities };
}

/** Float values between operators, in the order in which they were traced, as many at a time as memory allows. */
function* chunks(graph: TracedGraph, sizes: Sizes): Generator<Tensor[]> {
  const values = writtenNodes(emitGraph(graph))
    .sort((a, b) => a.id - b.id)
    .flatMap(({ outputs }) => outputs.filter(({ dtype }) => isFloat(dtype)));
  let chunk: Tensor[] = [];
  let bytes = 0;
  for (const value of values) {
    if (bytes > chunkBytes && chunk.at(-1)!.node !== value.node) {
      yield chunk;
      [chunk, bytes] = [[], 0];
    }
    chunk.push(value);
    bytes += bytesOf(value, sizes);
  }
  if (chunk.length > 0) yield chunk;
}

/** Bytes of a value, with numbers for its symbols. */
export function bytesOf({ shape, dtype }: TensorSpec, sizes: Sizes): number {
  const elements = shape.reduce<number>((total, dim) => {
    const { factor, symbols } = factorsOf(dim);
    return symbols.reduce((product, symbol) => product * (sizes.get(symbol) ?? 1), total * factor);
  }, 1);
  return elements * arrayType[dtype].BYTES_PER_ELEMENT;
}

async function compute(
  { inputs, backend }: TracedGraph,
  values: readonly Tensor[],
  feeds: Readonly<Record<string, DeviceTensor>>,
  options: SessionOptions,
): Promise<Map<Tensor, HostTensor>> {
  const outputs = Object.fromEntries(values.map((tensor, i) => [`value/${i}`, tensor]));
  const { model } = emitTraced(inputs, outputs, { name: 'diagnosis', backend });
  const session = await openSession(writeOnnx(model), options);
  try {
    const fetches = Object.fromEntries(Object.keys(outputs).map((name) => [name, null]));
    const results = await runSession(session, feeds, fetches);
    return new Map(values.map((tensor, i) => [tensor, toHost(results[`value/${i}`]!)]));
  } finally {
    await closeSession(session);
  }
}
