import type { Backend } from './backends/types.js';
import { type Dim, knownSizes } from './dims.js';
import { EngineError } from './errors.js';
import { fromFloat16 } from './float16.js';
import type { DType, HostTensor } from './host-tensor.js';
import { hostTensor } from './host-tensor.js';
import { currentSource, isDerived, Source } from './source.js';

/** Shape and dtype of a value that does not exist yet. */
export interface TensorSpec {
  readonly dtype: DType;
  readonly shape: readonly Dim[];
}

export type Attribute = number | string | boolean | readonly number[] | readonly Dim[] | HostTensor | undefined;
export type Attributes = Readonly<Record<string, Attribute>>;

/** One application of an operator. Ids grow, so that sorting by id is a topological order. */
export interface Node {
  readonly id: number;
  readonly op: Op;
  readonly inputs: readonly Tensor[];
  readonly attributes: Attributes;
  readonly outputs: readonly Tensor[];
  /** The line of user code that asked for it; of a gradient, the line whose gradient it is. */
  readonly source: Source;
  /** Made by a rule (a gradient, an update) rather than called by name. */
  readonly derived: boolean;
  /** Traced inside `inFloat32`: a precision policy does not lower it. */
  readonly precise: boolean;
}

/** What a gradient rule may look at besides inputs and cotangent. */
export interface VjpContext {
  readonly outputs: readonly Tensor[];
  readonly attributes: Attributes;
  /** One a output, for operators with several. */
  readonly cotangents: readonly (Tensor | undefined)[];
}

export type Vjp = (
  inputs: readonly Tensor[],
  cotangent: Tensor,
  context: VjpContext,
) => readonly (Tensor | undefined)[];

/** What a batching rule may look at besides its inputs. */
export interface BatchContext {
  /** The application to one example: its operator, attributes, and the shapes of one example. */
  readonly node: Node;
  /** Which inputs carry the batch as their first axis; the others are the same for every example. */
  readonly batched: readonly boolean[];
  /** How many examples. */
  readonly size: Dim;
  /** An input with the batch axis in front, repeated if it has none. */
  full(input: number): Tensor;
  /**
   * Maps a function of one example over inputs, for operators that hold functions; all its results carry the batch.
   *
   * @param batched which inputs carry the batch; the others go in as they are
   */
  map(
    fn: (inputs: readonly Tensor[]) => readonly (Tensor | undefined)[],
    inputs: readonly Tensor[],
    batched: readonly boolean[],
  ): readonly (Tensor | undefined)[];
}

/**
 * The operator over a batch: called when at least one input is batched, it returns every output with the batch as its
 * first axis, before the axes of one example (or without it, if it is still the same for all). `ops/batching.ts` has the usual rules.
 */
export type BatchRule = (inputs: readonly Tensor[], context: BatchContext) => Tensor | readonly Tensor[];

/** Names of ONNX values while a graph is written; see `program/emitter.ts`. */
export interface EmitContext {
  /** Only standard ONNX operators (a file for other runtimes), no contrib ones. */
  readonly portable: boolean;
  /** Where the graph will run, when that is known: WebGPU lacks a few kernels, and falling back costs two copies. */
  readonly backend?: Backend;
  node(
    type: string,
    inputs: readonly string[],
    attributes?: Readonly<Record<string, number | string | readonly number[]>>,
    options?: { domain?: string; outputs?: number },
  ): string[];
  constant(tensor: HostTensor): string;
  /** int64 [1] with the size of `dim`. */
  dim(dim: Dim): string;
  /** int64 [rank] with the sizes of `shape`. */
  shape(shape: readonly Dim[]): string;
}

/** All there is to know about an operator, in one record. */
export interface Op {
  readonly name: string;
  /** Result shapes; throws when inputs do not fit. */
  shape(inputs: readonly Tensor[], attributes: Attributes): TensorSpec | readonly TensorSpec[];
  /** Writes the operator; without it, the ONNX operator of that name with the attributes as they are. */
  readonly emit?: (context: EmitContext, node: Node, inputs: readonly string[]) => readonly string[];
  /** The gradient rule, or 'none', said aloud. */
  readonly vjp: Vjp | 'none';
  /**
   * The rule accepts a cotangent whose size is 1 on axes where the output's is not (it stands for its broadcast).
   * Elementwise operators say so: it saves materialising broadcast gradients.
   */
  readonly acceptsBroadcastCotangent?: boolean;
  /** How `vmap` maps it over a batch; without a rule it refuses with NOT_BATCHABLE. */
  readonly batch?: BatchRule;
  /**
   * For operators whose rules hold traced functions of their own: the same operator with those functions under a precision
   * policy, which `wrap` applies. Cotangents then have the dtypes of what they belong to.
   */
  readonly lower?: (wrap: (fn: TensorFunction) => TensorFunction) => Op;
}

export type TensorFunction = (inputs: readonly Tensor[]) => readonly (Tensor | undefined)[];

/** A traced value: shape, dtype and the operator application that makes it. Holds no numbers. */
export class Tensor {
  constructor(
    readonly shape: readonly Dim[],
    readonly dtype: DType,
    readonly node: Node,
    readonly output: number,
  ) {}

  get rank(): number {
    return this.shape.length;
  }
}

let nextId = 0;
let preciseDepth = 0;

/**
 * What `fn` traces is computed in float32 under every precision policy: sums of squares, logarithms, small constants.
 *
 * @example
 * const loss = inFloat32(() => mean(mul(error, error)));
 */
export function inFloat32<T>(fn: () => T): T {
  preciseDepth++;
  try {
    return fn();
  } finally {
    preciseDepth--;
  }
}

/** Applies `op`; all its outputs. */
export function applyAll(op: Op, inputs: readonly Tensor[], attributes: Attributes = {}): readonly Tensor[] {
  const specs = op.shape(inputs, attributes);
  const outputs: Tensor[] = [];
  const source = inputs.length > 0 ? currentSource() : Source.none; // constants and inputs are many, and have names
  const node: Node = {
    id: nextId++,
    op,
    inputs,
    attributes,
    outputs,
    source,
    derived: isDerived(),
    precise: preciseDepth > 0,
  };
  const list = Array.isArray(specs) ? (specs as readonly TensorSpec[]) : [specs as TensorSpec];
  for (const [i, spec] of list.entries()) {
    // What is reckoned with a symbol as if it were a number is none.
    if (spec.shape.some(Number.isNaN))
      knownSizes(
        op.name,
        inputs.flatMap(({ shape }) => shape),
      );
    outputs.push(new Tensor(spec.shape, spec.dtype, node, i));
  }
  return outputs;
}

/** Applies `op`; its first output. */
export function apply(op: Op, inputs: readonly Tensor[], attributes: Attributes = {}): Tensor {
  return applyAll(op, inputs, attributes)[0]!;
}

const inputOp: Op = {
  name: 'Input',
  shape: (_, { dtype, shape }) => ({ dtype: dtype as DType, shape: shape as readonly Dim[] }),
  vjp: 'none',
};

const constantOp: Op = {
  name: 'Constant',
  shape: (_, { value }) => ({ dtype: (value as HostTensor).dtype, shape: (value as HostTensor).shape }),
  vjp: 'none',
};

/** A value that is fed at run time. */
export function placeholder(name: string, spec: TensorSpec): Tensor {
  return apply(inputOp, [], { name, dtype: spec.dtype, shape: spec.shape });
}

/** A value known now; it becomes an initialiser of the graph, named if a name is given. */
export function constant(value: HostTensor, name?: string): Tensor {
  return apply(constantOp, [], { value, name });
}

/** A constant of rank 0. */
export function scalar(value: number, dtype: DType = 'float32'): Tensor {
  return constant(hostTensor(dtype, [], [value]));
}

export function isPlaceholder(node: Node): boolean {
  return node.op === inputOp;
}

/** The host tensor behind a constant, or undefined. */
export function constantValue(tensor: Tensor): HostTensor | undefined {
  return tensor.node.op === constantOp ? (tensor.node.attributes.value as HostTensor) : undefined;
}

/** The number behind a scalar constant of a float type, or undefined. */
export function scalarValue(tensor: Tensor): number | undefined {
  const value = constantValue(tensor);
  if (value?.shape.length !== 0) return undefined;
  return value.dtype === 'float16' ? fromFloat16(value.data as Uint16Array)[0] : Number(value.data[0]);
}

/** @throws EngineError DTYPE_MISMATCH */
export function requireDtype(operation: string, tensor: Tensor, ...allowed: DType[]): void {
  if (!allowed.includes(tensor.dtype)) {
    throw new EngineError('DTYPE_MISMATCH', `${operation} takes ${allowed.join(' or ')}, not ${tensor.dtype}`);
  }
}
