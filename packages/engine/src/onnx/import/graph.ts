/** Walks an ONNX graph and traces it, node by node, into engine operators. */
import { isSymbolic } from '../../dims.js';
import { EngineError } from '../../errors.js';
import { Source, withSource } from '../../source.js';
import type { Tensor } from '../../tensor.js';
import type { OnnxAttribute, OnnxFunctionProto, OnnxGraph, OnnxModelProto, OnnxNode } from '../model.js';
import { fromOnnxTensor } from '../model.js';
import type { NodeOptions } from './context.js';
import { NodeContext } from './context.js';
import { domainOf, operatorName, ruleOf } from './table.js';
import { Value } from './value.js';

/** Functions that call each other could unfold without end. */
const mostNodes = 200_000;
const deepestCall = 32;

export type Functions = ReadonlyMap<string, OnnxFunctionProto>;

export function functionKey(domain: string | undefined, name: string, overload = ''): string {
  return `${operatorName(domain, name)}:${overload}`;
}

export function functionsOf(model: OnnxModelProto): Functions {
  return new Map(
    (model.functions ?? []).map((proto) => [functionKey(proto.domain, proto.name, proto.overload), proto]),
  );
}

/** How a node is called in messages. */
export function labelOf(node: OnnxNode): string {
  const name = node.name || node.output.find((output) => output !== '') || '?';
  return `node "${name}" (${operatorName(node.domain, node.opType)})`;
}

/**
 * The nodes in an order in which each comes after what it reads. Files should be sorted; one that is not is sorted here.
 *
 * @param given names that stand without a node: inputs, initialisers, values of the graph around
 * @throws EngineError ONNX_INVALID when a value has two makers or none, or nodes wait for each other in a circle
 */
export function sortNodes(nodes: readonly OnnxNode[], given: (name: string) => boolean): OnnxNode[] {
  const makers = new Map<string, number>();
  for (const [i, node] of nodes.entries()) {
    for (const name of node.output) {
      if (name === '') continue;
      if (makers.has(name) || given(name))
        throw new EngineError('ONNX_INVALID', `${labelOf(node)}: the value "${name}" has another maker`);
      makers.set(name, i);
    }
  }
  const waiting = nodes.map((node) => {
    const sources = new Set<number>();
    for (const name of readBy(node)) {
      const maker = makers.get(name);
      if (maker !== undefined) sources.add(maker);
      else if (!given(name) && node.input.includes(name)) {
        throw new EngineError(
          'ONNX_INVALID',
          `${labelOf(node)}: nothing in the file is called "${name}", which it reads`,
        );
      }
    }
    return sources;
  });
  if (waiting.every((sources, i) => [...sources].every((source) => source < i))) return [...nodes];
  const readers = new Map<number, number[]>();
  const open = waiting.map((sources, i) => {
    for (const source of sources) readers.set(source, [...(readers.get(source) ?? []), i]);
    return sources.size;
  });
  const ready = open.flatMap((count, i) => (count === 0 ? [i] : []));
  for (const i of ready) for (const reader of readers.get(i) ?? []) if (--open[reader]! === 0) ready.push(reader);
  if (ready.length < nodes.length) {
    const stuck = nodes.filter((_, i) => open[i]! > 0).slice(0, 5);
    throw new EngineError('ONNX_INVALID', `nodes wait for each other in a circle: ${stuck.map(labelOf).join(', ')}`);
  }
  return ready.map((i) => nodes[i]!);
}

/** Names that a node reads, also from inside its subgraphs. */
function readBy(node: OnnxNode): string[] {
  const inner = (node.attribute ?? []).flatMap(({ g }) =>
    g ? g.node.flatMap(readBy).concat(g.output.map(({ name }) => name)) : [],
  );
  return [...node.input, ...inner].filter((name) => name !== '');
}

/** The nodes that outputs depend on; what nothing needs is not traced. */
export function neededNodes(nodes: readonly OnnxNode[], outputs: readonly string[]): OnnxNode[] {
  const wanted = new Set(outputs);
  const found: OnnxNode[] = [];
  for (const node of [...nodes].reverse()) {
    if (!node.output.some((name) => wanted.has(name))) continue;
    for (const name of readBy(node)) wanted.add(name);
    found.push(node);
  }
  return found.reverse();
}

const advice: Readonly<Record<string, string>> = {
  Loop: 'a loop has no gradient here; export the model with the loop unrolled, or cut the file before it',
  Scan: 'a scan has no gradient here; export the model with it unrolled, or cut the file before it',
  NonZero: 'the size of its result depends on data; export the model without it',
  DynamicQuantizeLinear: 'dynamic quantisation has no gradient; train the float model, then quantise it',
  MatMulInteger: 'integer products have no gradient; train the float model, then quantise it',
  ConvInteger: 'integer products have no gradient; train the float model, then quantise it',
  QLinearMatMul: 'integer products have no gradient; train the float model, then quantise it',
  QLinearConv: 'integer products have no gradient; train the float model, then quantise it',
};

/** @throws EngineError NOT_DIFFERENTIABLE that lists every node without a rule, and what to do about it */
export function refuseUnknown(nodes: readonly OnnxNode[], functions: Functions): void {
  const unknown: OnnxNode[] = [];
  const seen = new Set<string>();
  const visit = (list: readonly OnnxNode[]) => {
    for (const node of list) {
      const key = functionKey(node.domain, node.opType, node.overload);
      const proto = functions.get(key);
      if (proto) {
        if (!seen.has(key)) {
          seen.add(key);
          visit(proto.node);
        }
      } else if (!ruleOf(node.domain, node.opType)) unknown.push(node);
    }
  };
  visit(nodes);
  if (unknown.length === 0) return;
  const lines = unknown.slice(0, 20).map((node) => {
    const what = operatorName(node.domain, node.opType);
    const todo =
      (Object.hasOwn(advice, what) ? advice[what] : undefined) ??
      (domainOf(node.domain) === ''
        ? 'the engine has no rule for this operator; export the model without it, or cut the file before it'
        : 'a custom operator; export the model with standard operators, or as a function of them');
    return `not differentiable: node "${node.name || node.output[0]}", operator ${domainOf(node.domain) || 'ai.onnx'}.${node.opType}: ${todo}`;
  });
  const more = unknown.length > lines.length ? `\n… and ${unknown.length - lines.length} more nodes` : '';
  throw new EngineError('NOT_DIFFERENTIABLE', `${lines.join('\n')}${more}`);
}

export class GraphTracer {
  private count = 0;

  constructor(
    private readonly functions: Functions,
    private readonly options: NodeOptions,
    /** Replaces the result of a node of the main graph, for adapters. */
    private readonly adapt: (node: OnnxNode, outputs: Tensor[], inputs: readonly (Value | undefined)[]) => Tensor[] = (
      _,
      outputs,
    ) => outputs,
  ) {}

  /** Traces nodes in order into `scope`. */
  run(nodes: readonly OnnxNode[], scope: Map<string, Value>, opset: number): void {
    this.walk(nodes, scope, opset, undefined, []);
  }

  private walk(
    nodes: readonly OnnxNode[],
    scope: Map<string, Value>,
    opset: number,
    given: ReadonlyMap<string, OnnxAttribute> | undefined,
    calls: readonly string[],
  ): void {
    for (const node of nodes) {
      if (++this.count > mostNodes)
        throw new EngineError('ONNX_INVALID', `the file unfolds to more than ${mostNodes} nodes`);
      const inputs = node.input.map((name) => (name === '' ? undefined : this.find(node, name, scope)));
      const attributes = resolveAttributes(node, given);
      const key = functionKey(node.domain, node.opType, node.overload);
      const proto = this.functions.get(key);
      const values = proto
        ? this.call(proto, key, node, inputs, attributes, calls)
        : this.apply(node, inputs, attributes, scope, opset, given, calls);
      for (const [i, name] of node.output.entries()) {
        if (name !== '' && values[i]) scope.set(name, values[i]);
      }
    }
  }

  private find(node: OnnxNode, name: string, scope: ReadonlyMap<string, Value>): Value {
    const value = scope.get(name);
    if (!value)
      throw new EngineError('ONNX_INVALID', `${labelOf(node)}: its input "${name}" is made by nothing before it`);
    return value;
  }

  private apply(
    node: OnnxNode,
    inputs: readonly (Value | undefined)[],
    attributes: readonly OnnxAttribute[],
    scope: Map<string, Value>,
    opset: number,
    given: ReadonlyMap<string, OnnxAttribute> | undefined,
    calls: readonly string[],
  ): readonly Value[] {
    const rule = ruleOf(node.domain, node.opType);
    if (!rule) {
      refuseUnknown([node], this.functions);
      return [];
    }
    const label = labelOf(node);
    const subgraph = (graph: OnnxGraph) => this.subgraph(graph, scope, opset, given, calls);
    const context = new NodeContext(node, label, opset, inputs, attributes, this.options, subgraph, this.count);
    // What the node traces is on its account: errors, profiles and printed programs name it.
    const own = Source.named(label);
    return explained(label, inputs, () =>
      withSource(
        own,
        () => {
          const direct = rule.values?.(context);
          if (direct) return direct;
          const known = rule.fold && context.knownInputs;
          const folded = known && rule.fold?.(known, context);
          if (folded) return [folded].flat().map((entry) => Value.known(entry));
          const traced = [rule.trace(context)].flat();
          return this.adapt(node, traced, inputs).map((tensor) => Value.traced(tensor));
        },
        false,
      ),
    );
  }

  private call(
    proto: OnnxFunctionProto,
    key: string,
    node: OnnxNode,
    inputs: readonly (Value | undefined)[],
    attributes: readonly OnnxAttribute[],
    calls: readonly string[],
  ): Value[] {
    if (calls.includes(key) || calls.length >= deepestCall) {
      throw new EngineError(
        'ONNX_INVALID',
        `${labelOf(node)}: the function calls itself, or nests more than ${deepestCall} deep`,
      );
    }
    const scope = new Map<string, Value>();
    for (const [i, name] of proto.input.entries()) if (inputs[i]) scope.set(name, inputs[i]);
    const given = new Map((proto.attributeProto ?? []).map((attribute) => [attribute.name, attribute]));
    for (const attribute of attributes) given.set(attribute.name, attribute);
    const names = new Set(proto.input);
    const nodes = neededNodes(
      sortNodes(proto.node, (name) => names.has(name)),
      proto.output,
    );
    this.walk(nodes, scope, opsetOf(proto.opsetImport ?? []), given, [...calls, key]);
    return proto.output.map((name) => this.find(node, name, scope));
  }

  private subgraph(
    graph: OnnxGraph,
    outer: ReadonlyMap<string, Value>,
    opset: number,
    given: ReadonlyMap<string, OnnxAttribute> | undefined,
    calls: readonly string[],
  ): Value[] {
    if (calls.length >= deepestCall) throw new EngineError('ONNX_INVALID', `graphs nest more than ${deepestCall} deep`);
    const scope = new Map(outer);
    for (const tensor of graph.initializer ?? []) scope.set(tensor.name ?? '', Value.host(fromOnnxTensor(tensor)));
    const outputs = graph.output.map(({ name }) => name);
    const nodes = neededNodes(
      sortNodes(graph.node, (name) => scope.has(name)),
      outputs,
    );
    this.walk(nodes, scope, opset, given, [...calls, '(graph)']);
    return outputs.map((name) => {
      const value = scope.get(name);
      if (!value) throw new EngineError('ONNX_INVALID', `a graph's output "${name}" is made by nothing`);
      return value;
    });
  }
}

export function opsetOf(imports: readonly { domain?: string; version?: number }[]): number {
  const own = imports.find(({ domain }) => domainOf(domain) === '');
  return own?.version ?? 13;
}

/** Attributes with those taken from the function around put in. */
function resolveAttributes(node: OnnxNode, given: ReadonlyMap<string, OnnxAttribute> | undefined): OnnxAttribute[] {
  return (node.attribute ?? []).flatMap((attribute) => {
    if (!attribute.refAttrName) return [attribute];
    const source = given?.get(attribute.refAttrName);
    return source ? [{ ...source, name: attribute.name }] : [];
  });
}

/** Errors of the engine's own operators, with the node they arose at; anything else is a file that makes no sense. */
function explained<T>(label: string, inputs: readonly (Value | undefined)[], trace: () => T): T {
  try {
    return trace();
  } catch (cause) {
    if (!(cause instanceof EngineError)) {
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new EngineError('ONNX_INVALID', `${label}: ${shortened(why)}`, { cause });
    }
    // Not the line of user code: the new error ends with it again.
    const message = cause.message.replace(/^\[\w+\] /, '').replace(/, at \S+:\d+:\d+( for .*)?$/, '');
    if (message.startsWith('not differentiable')) throw cause;
    if (message.includes(label))
      throw message.length > 1000 ? new EngineError(cause.code, shortened(message), { symbols: cause.symbols }) : cause;
    const symbols = [...new Set(inputs.flatMap((value) => value?.shape ?? []).filter(isSymbolic))];
    const hint =
      cause.code === 'SHAPE_MISMATCH' && symbols.length > 1
        ? `; if ${symbols.slice(0, 3).join(' and ')} are one size, say so: readOnnxModel(file, { sizes: { ${symbols[1]}: '${symbols[0]}' } })`
        : '';
    throw new EngineError(cause.code, `${label}: ${shortened(message)}${hint}`, { cause, symbols: cause.symbols });
  }
}

/** Shapes of a broken file may have thousands of axes. */
function shortened(message: string): string {
  return message.length > 1000 ? `${message.slice(0, 1000)} …` : message;
}
