/**
 * What a value of an ONNX graph is while the graph is traced: a traced tensor, host data, or (for the small integer
 * vectors that shapes are computed with) a list of entries, each a number or a symbolic size such as `batch*seq`.
 */
import type { Dim } from '../../dims.js';
import { isSymbolic } from '../../dims.js';
import type { DType, HostTensor } from '../../host-tensor.js';
import { arrayType, elementCount, hostTensor } from '../../host-tensor.js';
import { cast } from '../../ops/compare.js';
import { reshape } from '../../ops/shape.js';
import type { Op, Tensor } from '../../tensor.js';
import { apply, constant } from '../../tensor.js';

/** Entries in row-major order; only int64 and int32 have symbolic ones. */
export interface Known {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly entries: readonly Dim[];
}

/** Beyond this, a value is data and not a computation of sizes. It also bounds what folding may allocate. */
export const largestKnown = 4096;

export class Value {
  private made: Tensor | undefined;

  private constructor(
    readonly dtype: DType,
    readonly shape: readonly Dim[],
    private readonly source: { tensor?: Tensor; host?: HostTensor; known?: Known },
    /** Of an initialiser: it keeps its name in what is exported. */
    private readonly name?: string,
  ) {}

  static traced(tensor: Tensor): Value {
    return new Value(tensor.dtype, tensor.shape, { tensor });
  }

  static host(host: HostTensor, name?: string): Value {
    return new Value(host.dtype, host.shape, { host }, name);
  }

  static known(known: Known): Value {
    return new Value(known.dtype, known.shape, { known });
  }

  /** The traced tensor; constants become one when they are first needed. */
  get tensor(): Tensor {
    this.made ??=
      this.source.tensor ?? (this.source.host ? constant(this.source.host, this.name) : traced(this.source.known!));
    return this.made;
  }

  /** The entries, if this is known while tracing and small. */
  get known(): Known | undefined {
    const { host, known } = this.source;
    if (known || !host) return known;
    if (host.data.length > largestKnown || host.dtype === 'float16') return undefined;
    return { dtype: host.dtype, shape: host.shape, entries: Array.from(host.data as Float64Array, Number) };
  }

  /** The data, if this is known while tracing, whatever its size. */
  get host(): HostTensor | undefined {
    const { host, known } = this.source;
    if (host || !known || known.entries.some(isSymbolic)) return host;
    return toHost(known as Known & { entries: number[] });
  }
}

function toHost({ dtype, shape, entries }: Known & { entries: readonly number[] }): HostTensor {
  if (dtype !== 'int64') return hostTensor(dtype, shape, new (arrayType[dtype] as Float32ArrayConstructor)(entries));
  // Ends of slices are written as the largest integer, which a double rounds up beyond it.
  const data = BigInt64Array.from(entries, (entry) =>
    entry >= 2 ** 63 ? 2n ** 63n - 1n : entry <= -(2 ** 63) ? -(2n ** 63n) : BigInt(Math.trunc(entry)),
  );
  return { dtype, shape: [...shape], data };
}

/** int64 entries that are sizes, some symbolic. */
const sizesOp: Op = {
  name: 'Sizes',
  shape: (_, { entries }) => ({ dtype: 'int64', shape: [(entries as Dim[]).length] }),
  emit: (context, node) => [context.shape(node.attributes.entries as Dim[])],
  vjp: 'none',
};

function traced(known: Known): Tensor {
  if (!known.entries.some(isSymbolic)) return constant(toHost(known as Known & { entries: number[] }));
  const flat = apply(sizesOp, [], { entries: known.entries });
  return cast(reshape(flat, known.shape), known.dtype);
}

export function knownOf(dtype: DType, shape: readonly number[], entries: readonly Dim[]): Known | undefined {
  return entries.length === elementCount(shape) && entries.length <= largestKnown
    ? { dtype, shape, entries }
    : undefined;
}
