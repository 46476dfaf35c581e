import type { Backend } from '../backends/types.js';
import type { Dim } from '../dims.js';
import { factorsOf, isSymbolic } from '../dims.js';
import { EngineError } from '../errors.js';
import type { HostTensor } from '../host-tensor.js';
import { hostTensor, onnxType } from '../host-tensor.js';
import type { OnnxAttribute, OnnxModelProto, OnnxNode, OnnxTensor, OnnxValueInfo } from '../onnx/model.js';
import { toOnnxTensor } from '../onnx/model.js';
import type { EmitContext, Node, Tensor } from '../tensor.js';
import { constantValue, isPlaceholder } from '../tensor.js';

/** ONNX 1.15: the first with a Gelu operator; every ONNX Runtime from 1.17 reads it. */
const opsetVersion = 20;
const irVersion = 9;

export interface EmitOptions {
  readonly portable?: boolean;
  /** Where the graph will run, if that is known. */
  readonly backend?: Backend;
  readonly name?: string;
}

/** A graph as it was written, and what of it comes from where. */
export interface Emitted {
  readonly model: OnnxModelProto;
  /** Names of traced values in the model; one that stands for an equal one has its name. */
  readonly names: ReadonlyMap<Tensor, string>;
  /** Which traced operator wrote a node of the model, by the node's name. */
  readonly origins: ReadonlyMap<string, Node>;
}

/**
 * Writes a traced graph as an ONNX model. Equal operators on equal inputs are written once (common subexpressions),
 * what no output needs is never visited (dead code).
 *
 * @param inputs  placeholders by the name they are fed under
 * @param outputs results by name
 */
export function emitTraced(
  inputs: Readonly<Record<string, Tensor>>,
  outputs: Readonly<Record<string, Tensor>>,
  options: EmitOptions = {},
): Emitted {
  const emitter = new Emitter(inputs, Object.keys(outputs), options.portable ?? false, options.backend);
  const results = Object.entries(outputs).map(([name, tensor]) => emitter.output(name, tensor));
  const used = Object.entries(inputs);
  const model = {
    irVersion,
    producerName: 'fewtune',
    opsetImport: [
      { domain: '', version: opsetVersion },
      ...(emitter.usesContrib ? [{ domain: 'com.microsoft', version: 1 }] : []),
    ],
    graph: {
      name: options.name ?? 'program',
      node: emitter.finished(),
      initializer: emitter.initializers,
      input: used.map(([name, tensor]) => valueInfo(name, tensor)),
      output: results,
    },
  };
  return { model, names: emitter.finalNames(), origins: emitter.origins };
}

/** The model alone. */
export function emit(...args: Parameters<typeof emitTraced>): OnnxModelProto {
  return emitTraced(...args).model;
}

class Emitter implements EmitContext {
  readonly nodes: OnnxNode[] = [];
  readonly initializers: OnnxTensor[] = [];
  usesContrib = false;
  readonly origins = new Map<string, Node>();
  private readonly names = new Map<Tensor, string>();
  private readonly seen = new Map<string, string[]>();
  private readonly constants = new Map<string | HostTensor, string>();
  /** Where a symbol's size can be read off: an input and its axis. */
  private readonly symbols = new Map<string, { input: string; axis: number }>();
  private readonly taken = new Set<string>();
  /** Values that a node makes, as opposed to inputs and initialisers. */
  private readonly produced = new Set<string>();
  private readonly renamed = new Map<string, string>();
  private count = 0;
  /** What is being written. */
  private current: Node | undefined;

  constructor(
    inputs: Readonly<Record<string, Tensor>>,
    outputs: readonly string[],
    readonly portable: boolean,
    readonly backend: Backend | undefined,
  ) {
    // Names that others read are theirs; what is in between makes room.
    for (const name of outputs) this.taken.add(name);
    for (const [name, tensor] of Object.entries(inputs)) {
      if (this.taken.has(name))
        throw new EngineError('ARGUMENT_INVALID', `an input and an output are both called "${name}"`);
      this.names.set(tensor, name);
      this.taken.add(name);
      for (const [axis, dim] of tensor.shape.entries()) {
        if (
          isSymbolic(dim) &&
          factorsOf(dim).symbols.length === 1 &&
          factorsOf(dim).factor === 1 &&
          !this.symbols.has(dim)
        ) {
          this.symbols.set(dim, { input: name, axis });
        }
      }
    }
  }

  output(name: string, tensor: Tensor): OnnxValueInfo {
    const value = this.value(tensor);
    if (this.produced.has(value) && !this.renamed.has(value)) this.renamed.set(value, name);
    else this.nodes.push({ opType: 'Identity', name: `Identity_${name}`, input: [value], output: [name] });
    return valueInfo(name, tensor);
  }

  /** All nodes, with the values that leave the graph under the names they leave by: an Identity would copy them. */
  finished(): OnnxNode[] {
    const rename = (value: string) => this.renamed.get(value) ?? value;
    return this.nodes.map((node) => ({ ...node, input: node.input.map(rename), output: node.output.map(rename) }));
  }

  finalNames(): ReadonlyMap<Tensor, string> {
    return new Map([...this.names].map(([tensor, name]) => [tensor, this.renamed.get(name) ?? name]));
  }

  /** The ONNX name of a traced value, after whatever it depends on has been written. */
  private value(root: Tensor): string {
    const stack: Node[] = [root.node];
    while (stack.length > 0) {
      const node = stack.at(-1)!;
      if (this.names.has(node.outputs[0]!)) {
        stack.pop();
        continue;
      }
      const missing = node.inputs.filter((input) => !this.names.has(input));
      if (missing.length > 0) {
        for (const input of missing) stack.push(input.node);
        continue;
      }
      this.write(node);
      stack.pop();
    }
    return this.names.get(root)!;
  }

  private write(node: Node): void {
    if (isPlaceholder(node)) {
      throw new EngineError(
        'ARGUMENT_INVALID',
        `the traced function uses "${node.attributes.name}", which is not one of its inputs`,
      );
    }
    const value = constantValue(node.outputs[0]!);
    const inputs = node.inputs.map((input) => this.names.get(input)!);
    this.current = node;
    const made = value
      ? [this.constant(value, node.attributes.name as string | undefined)]
      : (node.op.emit?.(this, node, inputs) ??
        this.node(node.op.name, inputs, plainAttributes(node), { outputs: node.outputs.length }));
    for (const [i, output] of node.outputs.entries()) this.names.set(output, made[i]!);
  }

  node(
    type: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, number | string | readonly number[]>> = {},
    options: { domain?: string; outputs?: number } = {},
  ): string[] {
    const { domain = '', outputs = 1 } = options;
    const key = JSON.stringify([domain, type, inputs, attributes, outputs]);
    const known = this.seen.get(key);
    if (known) return known;
    const names = Array.from({ length: outputs }, () => this.fresh());
    for (const name of names) this.produced.add(name);
    if (domain !== '') this.usesContrib = true;
    const nodeName = `${type}_${this.nodes.length}`;
    if (this.current) this.origins.set(nodeName, this.current);
    this.nodes.push({
      opType: type,
      domain,
      name: nodeName,
      input: [...inputs],
      output: names,
      attribute: Object.entries(attributes).map(([name, value]) => attribute(name, value, floatAttributes.has(name))),
    });
    this.seen.set(key, names);
    return names;
  }

  private fresh(wish?: string): string {
    const base = wish ?? `v${this.count++}`;
    let name = base;
    while (this.taken.has(name)) name = `${base}_${this.count++}`;
    this.taken.add(name);
    return name;
  }

  constant(tensor: HostTensor, wish?: string): string {
    // Small constants are equal when their content is; large ones when they are the same object.
    const key =
      tensor.data.length <= 64 && !wish ? `${tensor.dtype}[${tensor.shape}]:${tensor.data.join(',')}` : tensor;
    const known = this.constants.get(key);
    if (known) return known;
    const name = this.fresh(wish);
    this.initializers.push(toOnnxTensor(name, tensor));
    this.constants.set(key, name);
    return name;
  }

  dim(dim: Dim): string {
    if (!isSymbolic(dim)) return this.constant(hostTensor('int64', [1], [dim]));
    const { factor, symbols } = factorsOf(dim);
    const parts = symbols.map((symbol) => {
      const source = this.symbols.get(symbol);
      if (!source) throw new EngineError('ARGUMENT_INVALID', `no input has the symbolic size "${symbol}"`);
      return this.node('Shape', [source.input], { start: source.axis, end: source.axis + 1 })[0]!;
    });
    if (factor !== 1) parts.push(this.constant(hostTensor('int64', [1], [factor])));
    return parts.reduce((left, right) => this.node('Mul', [left, right])[0]!);
  }

  shape(shape: readonly Dim[]): string {
    if (shape.every((dim) => !isSymbolic(dim)))
      return this.constant(hostTensor('int64', [shape.length], shape as number[]));
    return this.node(
      'Concat',
      shape.map((dim) => this.dim(dim)),
      { axis: 0 },
    )[0]!;
  }
}

/** Attributes that ONNX holds as floats, even where their value is a whole number. */
const floatAttributes = new Set(['alpha', 'beta', 'epsilon', 'momentum']);

function attribute(name: string, value: number | string | readonly number[], float: boolean): OnnxAttribute {
  if (typeof value === 'string') return { name, type: 3, s: new TextEncoder().encode(value) };
  if (typeof value !== 'number') return { name, type: 7, ints: [...value] };
  return float ? { name, type: 1, f: value } : { name, type: 2, i: value };
}

function plainAttributes(node: Node): Record<string, number | string | readonly number[]> {
  return node.attributes as Record<string, number | string | readonly number[]>;
}

function valueInfo(name: string, tensor: Tensor): OnnxValueInfo {
  const dim = tensor.shape.map((size) => (isSymbolic(size) ? { dimParam: size } : { dimValue: size }));
  return { name, type: { tensorType: { elemType: onnxType[tensor.dtype], shape: { dim } } } };
}
