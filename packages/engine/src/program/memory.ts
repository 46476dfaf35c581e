/**
 * How much memory a program needs, from its graph: ONNX Runtime's order of execution is followed, and each value lives
 * from the operator that makes it to the last one that reads it.
 */
import { EngineError } from '../errors.js';
import type { OnnxNode } from '../onnx/model.js';
import type { Node, Tensor } from '../tensor.js';
import { bytesOf } from './debug-nans.js';
import { emitGraph, type TracedGraph } from './graph.js';
import { size } from './print.js';
import { lineOf } from './profile.js';
import { type Sizes, symbolsOf } from './variants.js';

export interface MemoryRow {
  /** A line of code. */
  readonly what: string;
  /** Bytes of its values that are alive when the program needs most. */
  readonly bytes: number;
}

/** A program's memory, in bytes. Prints as a table. */
export class MemoryPlan {
  constructor(
    /** What it is given: weights, optimiser state, batches. */
    readonly inputs: number,
    /** What it returns or writes: new weights and state. */
    readonly outputs: number,
    readonly constants: number,
    /** Most that is alive at once between its operators. */
    readonly activations: number,
    /** The runtime itself, and what its allocator cannot fill. */
    readonly overhead: number,
    /** What is alive at that moment, by the line that made it. */
    readonly byLine: readonly MemoryRow[],
  ) {}

  get total(): number {
    return this.inputs + this.outputs + this.constants + this.activations + this.overhead;
  }

  toString(): string {
    const rows = (['inputs', 'outputs', 'constants', 'activations', 'overhead', 'total'] as const).map(
      (what) => `${size(this[what]).padStart(10)}  ${what}`,
    );
    const lines = this.byLine.map(({ what, bytes }) => `${size(bytes).padStart(10)}  ${what}`);
    return [...rows, '', 'alive at the peak', ...lines].join('\n');
  }
}

/** Blocks that do not fit together: measured on steps of MiniLM and of a convolutional network. */
const fragmentation = 0.12;
/** An open session of a few thousand operators. */
const runtimeBytes = 16e6;

/** Operators whose result is a view of their first input. */
const views = new Set(['Reshape', 'Identity', 'Unsqueeze', 'Squeeze', 'Flatten']);
/** Operators that write over an input of the result's size that nothing reads afterwards. */
const inPlace = new Set(
  'Add Sub Mul Div Neg Abs Exp Log Sqrt Erf Tanh Sigmoid Relu Floor Round Sign Sin Cos Softmax LogSoftmax Clip Pow Reciprocal LeakyRelu Elu Softplus'.split(
    ' ',
  ),
);

/**
 * @param over values that are written over what is read of them, of outputs `new/<value>`
 * @throws EngineError ARGUMENT_INVALID when a symbol has no number
 */
export function planMemory(graph: TracedGraph, sizes: Sizes, over: ReadonlySet<string> = new Set()): MemoryPlan {
  const missing = symbolsOf(Object.values(graph.inputs)).filter((symbol) => !sizes.has(symbol));
  if (missing.length > 0) {
    throw new EngineError('ARGUMENT_INVALID', `${graph.name}: memory() needs a number for ${missing.join(', ')}`);
  }
  const { model, names, origins } = emitGraph(graph);
  const tensors = new Map<string, Tensor>();
  for (const [tensor, name] of names) if (!tensors.has(name)) tensors.set(name, tensor);
  const known = new Map<string, number>();
  for (const [name, tensor] of tensors) known.set(name, bytesOf(tensor, sizes));
  // Values inside an operator that is written as several: about as large as what they are made of.
  for (const { opType, input, output } of model.graph.node) {
    const largest = opType === 'Shape' ? 0 : Math.max(0, ...input.map((name) => known.get(name) ?? 0));
    for (const name of output) if (!known.has(name)) known.set(name, largest);
  }
  const sizeOf = (name: string) => known.get(name) ?? 0;
  const total = (values: Readonly<Record<string, Tensor>>) =>
    Object.values(values).reduce((sum, tensor) => sum + bytesOf(tensor, sizes), 0);
  const constants = (model.graph.initializer ?? []).reduce((sum, { rawData }) => sum + (rawData?.length ?? 0), 0);
  const outside = new Set([...Object.keys(graph.inputs), ...Object.keys(graph.outputs)]);
  for (const { name } of model.graph.initializer ?? []) outside.add(name!);
  // Whether an operator may write over its input is decided by shapes, which the runtime loses behind a symbolic reshape.
  const overwrites = sizes.size === 0;
  const { peak, alive } = liveness(executionOrder(model.graph.node), outside, sizeOf, overwrites);
  const byLine = new Map<string, number>();
  for (const { node, bytes } of alive) {
    const origin: Node | undefined = origins.get(node);
    const line = origin ? lineOf(origin) : 'no line';
    byLine.set(line, (byLine.get(line) ?? 0) + bytes);
  }
  return new MemoryPlan(
    total(graph.inputs),
    total(Object.fromEntries(Object.entries(graph.outputs).filter(([name]) => !over.has(name.replace('new/', ''))))),
    constants,
    peak,
    Math.round(peak * fragmentation + runtimeBytes),
    [...byLine].map(([what, bytes]) => ({ what, bytes })).sort((a, b) => b.bytes - a.bytes),
  );
}

/**
 * The order in which ONNX Runtime runs operators: depth first from those whose results no other reads, the last ones
 * first (Graph::ReverseDFSFrom).
 */
export function executionOrder(nodes: readonly OnnxNode[]): OnnxNode[] {
  const maker = new Map<string, number>();
  for (const [i, { output }] of nodes.entries()) for (const name of output) maker.set(name, i);
  const from = nodes.map(({ input }) =>
    [...new Set(input.flatMap((name) => maker.get(name) ?? []))].sort((a, b) => a - b),
  );
  const read = new Set(from.flat());
  const stack: { node: number; leave: boolean }[] = [];
  for (const i of nodes.keys()) if (!read.has(i)) stack.push({ node: i, leave: false });
  const visited = new Set<number>();
  const order: OnnxNode[] = [];
  for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
    if (top.leave) {
      order.push(nodes[top.node]!);
      continue;
    }
    if (visited.has(top.node)) continue;
    visited.add(top.node);
    stack.push({ node: top.node, leave: true });
    for (const input of from[top.node]!) if (!visited.has(input)) stack.push({ node: input, leave: false });
  }
  return order;
}

interface Buffer {
  readonly bytes: number;
  /** The operator that made it. */
  readonly node: string;
  users: number;
}

function liveness(
  order: readonly OnnxNode[],
  outside: ReadonlySet<string>,
  sizeOf: (name: string) => number,
  overwrites: boolean,
) {
  const reads = new Map<string, number>();
  for (const { input } of order) for (const name of input) reads.set(name, (reads.get(name) ?? 0) + 1);
  const buffers = new Map<string, Buffer>();
  const live = new Set<Buffer>();
  let [now, peak] = [0, 0];
  let alive: Buffer[] = [];
  for (const node of order) {
    const { opType, name = '', input, output } = node;
    for (const [i, result] of output.entries()) {
      const users = reads.get(result) ?? 0;
      const bytes = sizeOf(result);
      const shared =
        i === 0 && !outside.has(result) && (overwrites || views.has(opType))
          ? reusable(opType, input, bytes, buffers, reads)
          : undefined;
      if (shared) {
        shared.users += users;
        buffers.set(result, shared);
      } else if (!outside.has(result)) {
        const buffer = { bytes, node: name, users };
        buffers.set(result, buffer);
        live.add(buffer);
        now += bytes;
      }
    }
    if (now > peak) {
      peak = now;
      alive = [...live];
    }
    for (const used of [...input, ...output]) {
      const buffer = buffers.get(used);
      if (!buffer) continue;
      if (input.includes(used)) buffer.users--;
      if (buffer.users <= 0 && live.delete(buffer)) now -= buffer.bytes;
    }
  }
  return { peak, alive };
}

function reusable(
  opType: string,
  input: readonly string[],
  bytes: number,
  buffers: ReadonlyMap<string, Buffer>,
  reads: ReadonlyMap<string, number>,
): Buffer | undefined {
  if (views.has(opType)) return buffers.get(input[0]!);
  if (!inPlace.has(opType)) return undefined;
  const own = (name: string) => input.filter((other) => other === name).length;
  return input
    .filter((name) => reads.has(name))
    .map((name) => ({ buffer: buffers.get(name), uses: own(name) }))
    .find(({ buffer, uses }) => buffer && buffer.bytes === bytes && buffer.users === uses)?.buffer;
}
