import type { DeviceTensor, SessionOptions } from '#backend';
import { runSession, toDevice, toHost } from '#backend';
import { isSymbolic, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import type { HostTensor } from '../host-tensor.js';
import type { Tensor, TensorSpec } from '../tensor.js';
import { placeholder } from '../tensor.js';
import { isTensor } from '../transforms/grad.js';
import type { Precision } from '../transforms/precision.js';
import { withPrecision } from '../transforms/precision.js';
import type { Tree } from '../tree.js';
import { leaves, mapTree } from '../tree.js';
import { allFinite, findNan } from './debug-nans.js';
import { warnOfHalfPrecision } from './fallbacks.js';
import { emitGraph, type TracedGraph } from './graph.js';
import { type MemoryPlan, planMemory } from './memory.js';
import { printGraph } from './print.js';
import type { Profile, ProfileOptions } from './profile.js';
import { profilePrograms } from './profile.js';
import type { SharedSession } from './session-cache.js';
import { shareSession } from './session-cache.js';
import { type Sizes, sizesOf, symbolsOf, Variants, withSizes } from './variants.js';

export interface CompileOptions extends SessionOptions {
  /** For messages. */
  readonly name?: string;
  /** Which float dtype is used for what; everything is computed as it is written when left out. */
  readonly precision?: Precision;
  /** Looks at the results of every run; where they are not finite, the error names the operator and its line. */
  readonly debugNans?: boolean;
}

/** The host tensors that fit a tree of specs. */
export type HostTree<T> = T extends TensorSpec ? HostTensor : { readonly [K in keyof T]: HostTree<T[K]> };
/** The traced tensors that fit a tree of specs. */
export type TracedTree<T> = T extends TensorSpec ? Tensor : { readonly [K in keyof T]: TracedTree<T[K]> };
/** The host tensors a traced result becomes. */
export type Computed<T> = T extends Tensor ? HostTensor : { readonly [K in keyof T]: Computed<T[K]> };

export const isSpec = (value: unknown): value is TensorSpec =>
  typeof value === 'object' && value !== null && Array.isArray((value as TensorSpec).shape) && 'dtype' in value;
export const isHostTensor = (value: unknown): value is HostTensor =>
  isSpec(value) && ArrayBuffer.isView((value as HostTensor).data);

/** A program open for some sizes. */
interface Opened {
  readonly graph: TracedGraph;
  readonly result: Tree<Tensor>;
  readonly shared: SharedSession;
}

/** A compiled function: host tensors in, host tensors out. */
export class Program<I, O> {
  private constructor(
    readonly name: string,
    private readonly specs: ReadonlyMap<string, TensorSpec>,
    private readonly variants: Variants<Opened>,
    private readonly options: SessionOptions,
    private readonly debugNans: boolean,
  ) {}

  static async create<S extends Tree<TensorSpec>, R extends Tree<Tensor>>(
    fn: (inputs: TracedTree<S>) => R,
    specs: S,
    options: CompileOptions = {},
  ): Promise<Program<HostTree<S>, Computed<R>>> {
    const { name = 'program', precision, debugNans = false, ...session } = options;
    const flat = new Map(leaves<TensorSpec>(specs, isSpec));
    // The types of a tree of a tree are too deep for the compiler.
    warnOfHalfPrecision(precision, options.backend);
    const traced = precision ? (withPrecision(fn as never, precision) as unknown as typeof fn) : fn;
    const named = (tree: Tree<Tensor>, prefix: string) =>
      Object.fromEntries(leaves(tree, isTensor).map(([path, tensor]) => [`${prefix}/${path}`, tensor]));
    const open = async (sizes: Sizes): Promise<Opened> => {
      const inputs = mapTree<TensorSpec, Tensor>(specs, isSpec, (spec, path) =>
        placeholder(`in/${path}`, withSizes(spec, sizes)),
      );
      const result = traced(inputs as TracedTree<S>);
      const graph = { name, backend: options.backend, inputs: named(inputs, 'in'), outputs: named(result, 'out') };
      return { graph, result, shared: await shareSession(emitGraph(graph).model, session) };
    };
    const variants = await Variants.open(name, symbolsOf(flat.values()), open, ({ shared }) => shared.release());
    return new Program(name, flat, variants, session, debugNans);
  }

  /**
   * Runs at the same time are independent of each other.
   *
   * @throws EngineError INPUT_MISMATCH when an input is missing or has another dtype or shape than it was traced with;
   *   DISPOSED; NAN_FOUND with the option `debugNans`
   */
  async run(inputs: I): Promise<O> {
    const { feeds, sizes } = this.feeds(inputs);
    return this.variants.use(sizes, async ({ shared, result, graph }) => {
      const fetches = Object.fromEntries(leaves(result, isTensor).map(([path]) => [`out/${path}`, null]));
      const outputs = await runSession(shared.session, feeds, fetches);
      if (this.debugNans && Object.values(outputs).some((output) => !allFinite(toHost(output)))) {
        return findNan(graph, feeds, sizes, this.options);
      }
      return mapTree<Tensor, HostTensor>(result, isTensor, (_, path) => toHost(outputs[`out/${path}`]!)) as O;
    });
  }

  /**
   * The traced program, one line an operator, with the line of user code that asked for it. Where a size could not be
   * symbolic, it says so, and gives the program for each of the sizes that have been run.
   */
  print(): string {
    return this.variants.describe(({ graph }) => printGraph(graph));
  }

  /**
   * Times every operator over some runs, in a session of its own.
   *
   * @example
   * console.log(String(await program.profile({ x }, { runs: 10 })));
   */
  async profile(inputs: I, options: ProfileOptions = {}): Promise<Profile> {
    const { feeds, sizes } = this.feeds(inputs);
    return this.variants.use(sizes, ({ graph }) => profilePrograms([{ graph, feeds }], this.options, options));
  }

  /**
   * What a run needs, estimated from the graph.
   *
   * @param sizes numbers for the symbols of its inputs
   * @throws EngineError ARGUMENT_INVALID when one is missing
   */
  memory(sizes: Readonly<Record<string, number>> = {}): Promise<MemoryPlan> {
    const known = new Map(Object.entries(sizes));
    return this.variants.use(known, async ({ graph }) => planMemory(graph, known));
  }

  /** Lets runs come to their end; later ones are refused. */
  dispose(): Promise<void> {
    return this.variants.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  private feeds(inputs: I): { feeds: Record<string, DeviceTensor>; sizes: Sizes } {
    const given = new Map(leaves<HostTensor>(inputs as unknown as Tree<HostTensor>, isHostTensor));
    checkInputs(this.name, this.specs, given);
    const feeds = Object.fromEntries([...given].map(([path, tensor]) => [`in/${path}`, toDevice(tensor)]));
    return { feeds, sizes: sizesOf(this.specs, given) };
  }
}

/** Checks dtypes and shapes; a symbol stands for one size throughout a call. */
export function checkInputs(
  name: string,
  specs: ReadonlyMap<string, TensorSpec>,
  given: ReadonlyMap<string, HostTensor>,
): void {
  const sizes = new Map<string, number>();
  for (const [path, spec] of specs) {
    const tensor = given.get(path);
    if (!tensor) throw new EngineError('INPUT_MISMATCH', `${name}: input "${path}" is missing`);
    const fits =
      tensor.dtype === spec.dtype &&
      tensor.shape.length === spec.shape.length &&
      spec.shape.every((dim, axis) => {
        const size = tensor.shape[axis]!;
        if (!isSymbolic(dim)) return dim === size;
        if (!sizes.has(dim)) sizes.set(dim, size);
        return sizes.get(dim) === size;
      });
    if (fits) continue;
    const bound = [...sizes].map(([symbol, size]) => `${symbol} = ${size}`).join(', ');
    throw new EngineError(
      'INPUT_MISMATCH',
      `${name}: input "${path}" is ${tensor.dtype} ${showShape(tensor.shape)}, but was traced as ${spec.dtype} ${showShape(spec.shape)}${bound && ` with ${bound}`}`,
    );
  }
  for (const path of given.keys()) {
    if (!specs.has(path)) throw new EngineError('INPUT_MISMATCH', `${name}: there is no input "${path}"`);
  }
}

/**
 * Traces a function over a tree of tensors and opens it on ONNX Runtime.
 *
 * @example
 * const double = await compile(({ x }) => ({ y: mul(x, 2) }), { x: { dtype: 'float32', shape: ['n'] } });
 * const { y } = await double.run({ x: hostTensor('float32', [2], [1, 2]) });
 */
export const compile = Program.create;
