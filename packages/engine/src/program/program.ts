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
import { emitGraph, type TracedGraph } from './graph.js';
import { printGraph } from './print.js';
import type { Profile, ProfileOptions } from './profile.js';
import { profilePrograms } from './profile.js';
import type { SharedSession } from './session-cache.js';
import { shareSession } from './session-cache.js';

export interface CompileOptions extends SessionOptions {
  /** For messages. */
  readonly name?: string;
  /** Which float dtype is used for what; everything is computed as it is written when left out. */
  readonly precision?: Precision;
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

/** A compiled function: host tensors in, host tensors out. */
export class Program<I, O> {
  private constructor(
    readonly name: string,
    private readonly specs: ReadonlyMap<string, TensorSpec>,
    private readonly result: Tree<Tensor>,
    private readonly graph: TracedGraph,
    private readonly options: SessionOptions,
    private shared: SharedSession | undefined,
  ) {}

  static async create<S extends Tree<TensorSpec>, R extends Tree<Tensor>>(
    fn: (inputs: TracedTree<S>) => R,
    specs: S,
    options: CompileOptions = {},
  ): Promise<Program<HostTree<S>, Computed<R>>> {
    const { name = 'program', precision, ...session } = options;
    const inputs = mapTree<TensorSpec, Tensor>(specs, isSpec, (spec, path) => placeholder(`in/${path}`, spec));
    // The types of a tree of a tree are too deep for the compiler.
    const traced = precision ? (withPrecision(fn as never, precision) as unknown as typeof fn) : fn;
    const result = traced(inputs as TracedTree<S>);
    const named = (tree: Tree<Tensor>, prefix: string) =>
      Object.fromEntries(leaves(tree, isTensor).map(([path, tensor]) => [`${prefix}/${path}`, tensor]));
    const graph = { name, backend: options.backend, inputs: named(inputs, 'in'), outputs: named(result, 'out') };
    const shared = await shareSession(emitGraph(graph).model, session);
    return new Program(name, new Map(leaves<TensorSpec>(specs, isSpec)), result, graph, session, shared);
  }

  /**
   * @throws EngineError INPUT_MISMATCH when an input is missing or has another dtype or shape than it was traced with
   */
  async run(inputs: I): Promise<O> {
    if (!this.shared) throw new EngineError('DISPOSED', `${this.name} was disposed`);
    const feeds = this.feeds(inputs);
    const fetches = Object.fromEntries(leaves(this.result, isTensor).map(([path]) => [`out/${path}`, null]));
    const outputs = await runSession(this.shared.session, feeds, fetches);
    return mapTree<Tensor, HostTensor>(this.result, isTensor, (_, path) => toHost(outputs[`out/${path}`]!)) as O;
  }

  /** The traced program, one line an operator, with the line of user code that asked for it. */
  print(): string {
    return printGraph(this.graph);
  }

  /**
   * Times every operator over some runs, in a session of its own.
   *
   * @example
   * console.log(String(await program.profile({ x }, { runs: 10 })));
   */
  async profile(inputs: I, options: ProfileOptions = {}): Promise<Profile> {
    if (!this.shared) throw new EngineError('DISPOSED', `${this.name} was disposed`);
    return profilePrograms([{ graph: this.graph, feeds: this.feeds(inputs) }], this.options, options);
  }

  async dispose(): Promise<void> {
    const shared = this.shared;
    this.shared = undefined;
    await shared?.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  private feeds(inputs: I): Record<string, DeviceTensor> {
    const given = new Map(leaves<HostTensor>(inputs as unknown as Tree<HostTensor>, isHostTensor));
    checkInputs(this.name, this.specs, given);
    return Object.fromEntries([...given].map(([path, tensor]) => [`in/${path}`, toDevice(tensor)]));
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
