/** What a rule of the operator table is given: one node, its attributes and its inputs. */
import type { Dim } from '../../dims.js';
import { isSymbolic } from '../../dims.js';
import { EngineError } from '../../errors.js';
import type { HostTensor } from '../../host-tensor.js';
import type { Tensor } from '../../tensor.js';
import type { OnnxAttribute, OnnxGraph, OnnxNode } from '../model.js';
import { fromOnnxTensor } from '../model.js';
import type { Known, Value } from './value.js';

export interface NodeOptions {
  /** Dropout drops, batch normalisation goes by the batch. */
  readonly training: boolean;
  readonly seed: Tensor | number;
  /** Symbolic sizes of the inputs, for advice. */
  readonly symbols: readonly string[];
}

export class NodeContext {
  private readonly attributes: ReadonlyMap<string, OnnxAttribute>;

  constructor(
    readonly node: OnnxNode,
    readonly label: string,
    readonly opset: number,
    private readonly inputs: readonly (Value | undefined)[],
    attributes: readonly OnnxAttribute[],
    readonly options: NodeOptions,
    /** Traces a graph that is an attribute of this node, in its scope. */
    readonly subgraph: (graph: OnnxGraph) => Value[],
    /** A number of its own for each node, so that each dropout draws by itself. */
    readonly serial: number,
  ) {
    this.attributes = new Map(attributes.map((attribute) => [attribute.name, attribute]));
  }

  get inputCount(): number {
    return this.inputs.length;
  }

  get outputCount(): number {
    return this.node.output.length;
  }

  /** @throws EngineError ONNX_INVALID when the node has no such input */
  value(i: number): Value {
    const value = this.inputs[i];
    if (!value) throw this.error('ONNX_INVALID', `input ${i} is missing`);
    return value;
  }

  has(i: number): boolean {
    return this.inputs[i] !== undefined;
  }

  in(i: number): Tensor {
    return this.value(i).tensor;
  }

  optional(i: number): Tensor | undefined {
    return this.inputs[i]?.tensor;
  }

  /** All inputs, none of which may be left out. */
  all(): Tensor[] {
    return this.inputs.map((_, i) => this.in(i));
  }

  get knownInputs(): (Known | undefined)[] | undefined {
    const known = this.inputs.map((value) => value?.known);
    return known.every((entry, i) => entry !== undefined || this.inputs[i] === undefined) ? known : undefined;
  }

  /** Entries of an input that must be known while tracing. @throws EngineError SIZE_UNKNOWN */
  dims(i: number, what: string): readonly Dim[] {
    const value = this.value(i);
    const known = value.known;
    if (known) return known.entries;
    const host = value.host;
    const source = this.node.input[i] ?? `input ${i}`;
    throw this.error(
      'SIZE_UNKNOWN',
      host
        ? `its ${what} ("${source}") is a list of ${host.data.length}, more than sizes can be`
        : `its ${what} is computed from data or from sums of symbolic sizes ("${source}"), and must be known while the graph is traced; ${this.advice()}, or make it a constant in the export`,
    );
  }

  /** The same without symbols. @throws EngineError SIZE_UNKNOWN */
  numbers(i: number, what: string): readonly number[] {
    const entries = this.dims(i, what);
    const symbol = entries.find(isSymbolic);
    if (symbol === undefined) return entries as readonly number[];
    throw this.error('SIZE_UNKNOWN', `its ${what} depends on the symbolic size ${symbol}; ${this.advice(symbol)}`);
  }

  /** What to do where a size must be known. */
  advice(dim: Dim = ''): string {
    const [symbol = 'batch'] = String(dim)
      .split('*')
      .filter((part) => this.options.symbols.includes(part));
    const all = symbol === 'batch' && !this.options.symbols.includes('batch') ? this.options.symbols : [symbol];
    const sizes = (all.length > 0 ? all : [symbol]).slice(0, 4).map((name) => `${name}: 4`);
    return `give concrete sizes, e.g. readOnnxModel(file, { sizes: { ${sizes.join(', ')} } })`;
  }

  /** One number. */
  number(i: number, what: string): number {
    const entries = this.numbers(i, what);
    if (entries.length !== 1) throw this.error('ONNX_INVALID', `its ${what} has ${entries.length} elements, not 1`);
    return entries[0]!;
  }

  hasAttribute(name: string): boolean {
    return this.attributes.has(name);
  }

  int(name: string, fallback?: number): number {
    const value = this.attributes.get(name)?.i ?? fallback;
    return this.required(name, value);
  }

  float(name: string, fallback?: number): number {
    return this.required(name, this.attributes.get(name)?.f ?? fallback);
  }

  string(name: string, fallback?: string): string {
    const bytes = this.attributes.get(name)?.s;
    return this.required(name, bytes ? new TextDecoder().decode(bytes) : fallback);
  }

  ints(name: string): number[] | undefined {
    const attribute = this.attributes.get(name);
    return attribute && (attribute.ints ?? []);
  }

  floats(name: string): number[] | undefined {
    const attribute = this.attributes.get(name);
    return attribute && (attribute.floats ?? []);
  }

  strings(name: string): string[] | undefined {
    return this.attributes.get(name)?.strings?.map((bytes) => new TextDecoder().decode(bytes));
  }

  host(name: string): HostTensor | undefined {
    const tensor = this.attributes.get(name)?.t;
    return tensor && fromOnnxTensor(tensor);
  }

  graph(name: string): OnnxGraph {
    return this.required(name, this.attributes.get(name)?.g);
  }

  error(code: 'ONNX_INVALID' | 'SIZE_UNKNOWN' | 'NOT_DIFFERENTIABLE' | 'SHAPE_MISMATCH', message: string): EngineError {
    // Programs answer SIZE_UNKNOWN by tracing again with numbers for these symbols.
    const named = this.options.symbols.filter((symbol) =>
      new RegExp(`\\b${symbol.replaceAll('*', '\\*')}\\b`).test(message),
    );
    const symbols = code !== 'SIZE_UNKNOWN' ? [] : named.length > 0 ? named : this.options.symbols;
    return new EngineError(code, `${this.label}: ${message}`, { symbols });
  }

  /** For a setting that the table does not cover. */
  unsupported(what: string): EngineError {
    return this.error('NOT_DIFFERENTIABLE', `${what} is not supported`);
  }

  private required<T>(name: string, value: T | undefined): T {
    if (value === undefined) throw this.error('ONNX_INVALID', `attribute "${name}" is missing`);
    return value;
  }
}

/** One row of the operator table. */
export interface OperatorRule {
  /** The outputs, traced. */
  trace(n: NodeContext): Tensor | readonly Tensor[];
  /** The output when every input is known while tracing; undefined falls back to `trace`. */
  fold?(inputs: readonly (Known | undefined)[], n: NodeContext): Known | readonly Known[] | undefined;
  /** Outputs that are not traced tensors (shapes, constants); asked before `fold`. */
  values?(n: NodeContext): readonly Value[] | undefined;
  /** What of the operator is covered; printed in the table of the docs. */
  note?: string;
  /** Its results carry no gradient. */
  gradient?: 'none';
}

export type OperatorTable = Readonly<Record<string, OperatorRule>>;
