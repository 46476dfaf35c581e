import {
  fromOnnxTensor,
  type HostTensor,
  hostTensor,
  type OnnxGraph,
  type OnnxNode,
  type OnnxTensor,
  readOnnx,
  toOnnxTensor,
  writeOnnx,
} from '@fewtune/engine';
import type { Pooling } from '@fewtune/models';
import type { LinearHead } from './linear-head.js';
import { headNames } from './onnx-head.js';

/** An input as the file has it. */
export interface TextInput {
  readonly name: string;
  readonly dtype: 'int64' | 'int32';
}

/** How a text model that was exported elsewhere is fed, and what of it is read. */
export interface TextGraph {
  readonly ids: TextInput;
  readonly mask?: TextInput;
  readonly types?: TextInput;
  /** The tensor that is read: hidden states [batch, seq, hidden], a vector a text [batch, hidden], or logits. */
  readonly output: { readonly name: string; readonly kind: 'states' | 'vector' | 'logits' };
  readonly pooling: Pooling;
  /** Tokens that every row has, where the export fixed them; rows are filled up with `padId`. */
  readonly length?: number;
  readonly padId: number;
}

/** The same graph with another tensor of it as its only output; what is then not needed is left out. */
export function withOutput(bytes: Uint8Array, tensor: string): Uint8Array {
  const model = readOnnx(bytes);
  const output = [{ name: tensor, type: { tensorType: { elemType: float } } }];
  return writeOnnx({ ...model, graph: pruned({ ...model.graph, output }) });
}

/**
 * What the last product of a classifier reads: [batch, hidden], and hidden. Sums with and factors by weights may stand
 * between it and the logits.
 */
export function classifierInput(bytes: Uint8Array, logits: string): { tensor: string; hidden: number } | undefined {
  const { graph } = readOnnx(bytes);
  const makers = new Map(graph.node.flatMap((node) => node.output.map((name) => [name, node] as const)));
  const weights = new Map((graph.initializer ?? []).map((tensor) => [tensor.name ?? '', tensor]));
  const isConstant = (name: string) => weights.has(name) || makers.get(name)?.opType === 'Constant';
  let at = logits;
  for (let steps = 0; steps < 8; steps++) {
    const node = makers.get(at);
    if (!node) return undefined;
    const [first = '', second = ''] = node.input;
    if (node.opType === 'MatMul' || node.opType === 'Gemm') {
      const dims = (weights.get(second) ?? weights.get(makers.get(second)?.input[0] ?? ''))?.dims;
      if (dims?.length !== 2) return undefined;
      const turned =
        (node.attribute?.some(({ name, i }) => name === 'transB' && i) ?? false) !==
        (makers.get(second)?.opType === 'Transpose');
      return { tensor: first, hidden: dims[turned ? 1 : 0]! };
    }
    if (!['Add', 'Mul', 'Div', 'Identity'].includes(node.opType)) return undefined;
    at = isConstant(first) ? second : first;
  }
  return undefined;
}

/**
 * The file as a classifier whose inputs are `input_ids`, `attention_mask` and, if it has such, `token_type_ids`, and
 * whose one output is `logits`, divided by the temperature. Operators and constants are added that mean the same in every
 * operator set; the rest of the graph stays as it is.
 *
 * @param head a linear layer on what is read; left out where that is logits
 */
export function asClassifier(
  bytes: Uint8Array,
  text: TextGraph,
  { head, classes, temperature }: { head?: LinearHead; classes: number; temperature: number },
): Uint8Array {
  const model = readOnnx(bytes);
  const graft = new Graft();
  const given = [
    ['input_ids', text.ids, text.padId],
    ['attention_mask', text.mask, 0],
    ...(text.types ? [['token_type_ids', text.types, 0] as const] : []),
  ] as const;
  // What is called as one of ours, and is something else, gives its name up.
  const other = new Map(['logits', ...Object.values(headNames)].map((name) => [name, `${name}.of_file`]));
  for (const [name, own] of given) {
    if (!isStandard(name, own, text)) other.set(name, `${name}.of_file`);
  }
  const called = (name: string) => other.get(name) ?? name;
  const graph = [...other].reduce((before, [from, to]) => renamed(before, from, to), model.graph);
  const inputs = given.map(([name, own, padding]) => {
    const inside = own && { name: called(own.name), dtype: own.dtype };
    return standardInput(graft, name, inside, text.length, padding);
  });
  const source = called(text.output.name);
  const mask = graft.alias.get('attention_mask') ?? 'attention_mask';
  const features = text.output.kind === 'states' ? pooledStates(graft, source, mask, text.pooling) : source;
  const raw = head ? linearHead(graft, features, head, classes) : features;
  graft.node('Mul', [raw, graft.float(1 / temperature)], 'logits');
  const node = [...graft.before, ...graph.node, ...graft.nodes];
  const initializer = [...(graph.initializer ?? []), ...graft.tensors];
  const dim = [{ dimParam: 'batch' }, { dimValue: classes }];
  const output = [{ name: 'logits', type: { tensorType: { elemType: float, shape: { dim } } } }];
  return writeOnnx({ ...model, graph: pruned({ ...graph, node, initializer, input: inputs, output }) });
}

const isStandard = (name: string, own: TextInput | undefined, { length }: TextGraph) =>
  own?.name === name && own.dtype === 'int64' && length === undefined;

const float = 1;
const int64 = 7;
const elemTypes = { int64, int32: 6 } as const;

/** Nodes and constants that are added, under names of their own. */
class Graft {
  /** Those that the graph's own inputs come from. */
  readonly before: OnnxNode[] = [];
  readonly nodes: OnnxNode[] = [];
  readonly tensors: OnnxTensor[] = [];
  /** What the graph reads in the place of an input. */
  readonly alias = new Map<string, string>();
  private count = 0;

  node(opType: string, input: string[], name = `fewtune.${this.count++}`, attribute?: OnnxNode['attribute']): string {
    this.nodes.push({ opType, name: `${name}/${opType}`, input, output: [name], ...(attribute && { attribute }) });
    return name;
  }

  tensor(value: HostTensor, name = `fewtune.${this.count++}`): string {
    this.tensors.push(toOnnxTensor(name, value));
    return name;
  }

  float(value: number): string {
    return this.tensor(hostTensor('float32', [], [value]));
  }

  reshape(x: string, shape: number[]): string {
    return this.node('Reshape', [x, this.tensor(hostTensor('int64', [shape.length], shape))]);
  }
}

/** An input under its usual name, as int64 and of any length, whatever the file calls it and takes. */
function standardInput(
  graft: Graft,
  name: string,
  given: TextInput | undefined,
  length: number | undefined,
  padding: number,
) {
  const padded = length === undefined ? name : padTo(graft, name, length, padding);
  graft.alias.set(name, padded);
  if (given && given.name !== name) {
    const attribute = [{ name: 'to', type: 2, i: elemTypes[given.dtype] }];
    graft.before.push({ opType: 'Cast', name: `${name}/Cast`, input: [padded], output: [given.name], attribute });
  }
  const dim = [{ dimParam: 'batch' }, { dimParam: 'seq' }];
  return { name, type: { tensorType: { elemType: int64, shape: { dim } } } };
}

/** Rows of any length up to one, filled up to it. Operator sets from 11. */
function padTo(graft: Graft, name: string, length: number, value: number): string {
  const constant = (numbers: number[], shape = [numbers.length]) => graft.tensor(hostTensor('int64', shape, numbers));
  const made = (opType: string, input: string[], attribute?: OnnxNode['attribute']) => {
    const output = `${name}.${opType}`;
    graft.before.push({ opType, name: output, input, output: [output], ...(attribute && { attribute }) });
    return output;
  };
  const axis = [{ name: 'axis', type: 2, i: 0 }];
  const seq = made('Gather', [made('Shape', [name]), constant([1])], axis);
  const missing = made('Sub', [constant([length]), seq]);
  const pads = made('Concat', [constant([0, 0, 0]), missing], axis);
  return made('Pad', [name, pads, constant([value], [])]);
}

/** [batch, seq, hidden] to [batch, hidden]: the mean over real tokens, or the first token. */
function pooledStates(graft: Graft, states: string, attentionMask: string, pooling: Pooling): string {
  if (pooling === 'cls') {
    const first = graft.tensor(hostTensor('int64', [], [0]));
    return graft.node('Gather', [states, first], undefined, [{ name: 'axis', type: 2, i: 1 }]);
  }
  const mask = graft.node('Cast', [attentionMask], undefined, [{ name: 'to', type: 2, i: float }]);
  const row = graft.reshape(mask, [0, 1, -1]); // [batch, 1, seq]
  const total = graft.node('MatMul', [row, states]); // [batch, 1, hidden]
  // A mask is 0 or 1, so the product with itself is its sum.
  const count = graft.node('MatMul', [row, graft.reshape(mask, [0, -1, 1])]); // [batch, 1, 1]
  return graft.reshape(graft.node('Div', [total, count]), [0, -1]);
}

function linearHead(graft: Graft, features: string, { weight, bias }: LinearHead, classes: number): string {
  const inner = weight.length / classes;
  const names = [
    graft.tensor(hostTensor('float32', [classes, inner], weight), headNames.weight),
    graft.tensor(hostTensor('float32', [classes], bias), headNames.bias),
  ];
  return graft.node('Gemm', [features, ...names], undefined, [{ name: 'transB', type: 2, i: 1 }]);
}

/** Nodes and initialisers that no output needs are left out, and so is what the file says of their results. */
function pruned(graph: OnnxGraph): OnnxGraph {
  const makers = new Map(graph.node.flatMap((node) => node.output.map((name) => [name, node] as const)));
  const needed = new Set<string>();
  const kept = new Set<OnnxNode>();
  const queue = graph.output.map(({ name }) => name);
  for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
    if (needed.has(name)) continue;
    needed.add(name);
    const maker = makers.get(name);
    if (!maker || kept.has(maker)) continue;
    kept.add(maker);
    queue.push(...readBy(maker));
  }
  const made = new Set([...kept].flatMap(({ output }) => output));
  return {
    ...graph,
    node: graph.node.filter((node) => kept.has(node)),
    initializer: (graph.initializer ?? []).filter(({ name }) => needed.has(name ?? '')),
    ...(graph.valueInfo && { valueInfo: graph.valueInfo.filter(({ name }) => made.has(name)) }),
  };
}

/** Names that a node reads, those inside its subgraphs among them. */
function readBy({ input, attribute }: OnnxNode): string[] {
  return [
    ...input,
    ...(attribute ?? []).flatMap(({ g }) =>
      g ? [...g.node.flatMap(readBy), ...g.output.map(({ name }) => name)] : [],
    ),
  ];
}

/** The graph with a tensor under another name. */
function renamed(graph: OnnxGraph, from: string, to: string): OnnxGraph {
  const other = (name: string) => (name === from ? to : name);
  const called = <T extends { name?: string }>(list: T[] | undefined) =>
    list?.map((entry) => (entry.name === from ? { ...entry, name: to } : entry));
  const node = graph.node.map((one) => ({
    ...one,
    input: one.input.map(other),
    output: one.output.map(other),
    ...(one.attribute && {
      attribute: one.attribute.map((entry) => (entry.g ? { ...entry, g: renamed(entry.g, from, to) } : entry)),
    }),
  }));
  return {
    ...graph,
    node,
    input: called(graph.input)!,
    output: called(graph.output)!,
    ...(graph.initializer && { initializer: called(graph.initializer) }),
    ...(graph.valueInfo && { valueInfo: called(graph.valueInfo) }),
  };
}

/** The head that `asClassifier` wrote, before the temperature. */
export function graftedHead(bytes: Uint8Array): LinearHead | undefined {
  const tensors = readOnnx(bytes).graph.initializer ?? [];
  const values = (wanted: string) => {
    const found = tensors.find(({ name }) => name === wanted);
    return found && Float32Array.from(fromOnnxTensor(found).data as Float32Array);
  };
  const [weight, bias] = [values(headNames.weight), values(headNames.bias)];
  return weight && bias && { weight, bias };
}
