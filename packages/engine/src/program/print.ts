/** Traced programs for people, one line an operator. */
import type { Dim } from '../dims.js';
import { sameShape } from '../dims.js';
import type { HostTensor } from '../host-tensor.js';
import type { Attribute, Node, Tensor } from '../tensor.js';
import { constantValue } from '../tensor.js';
import { emitGraph, type TracedGraph, writtenNodes } from './graph.js';

/**
 * The program as it runs, after equal operators have been merged and unneeded ones dropped:
 *
 *     v3: float32[batch, 384] = MatMul(v1, v2) {transposeB} # model.ts:12:5
 *
 * `#∂` marks what belongs to the gradient of a line.
 */
export function printGraph(graph: TracedGraph): string {
  const emitted = emitGraph(graph);
  const labels = new Map<string, string>();
  const constants: string[] = [];
  for (const [name, tensor] of Object.entries(graph.inputs)) labels.set(emitted.names.get(tensor) ?? name, name);
  const nodes = writtenNodes(emitted);
  for (const { outputs } of nodes) {
    for (const output of outputs) {
      const name = emitted.names.get(output)!;
      if (!labels.has(name)) labels.set(name, `v${labels.size - Object.keys(graph.inputs).length}`);
    }
  }
  const label = (tensor: Tensor): string => {
    const name = emitted.names.get(tensor)!;
    const known = labels.get(name);
    if (known !== undefined) return known;
    const value = constantValue(tensor);
    if (!value) return name;
    if (value.data.length <= 4) return literal(value);
    labels.set(name, name);
    constants.push(`  ${name}: ${typeOf(tensor)}, ${size(value.data.byteLength)}`);
    return name;
  };
  const lines = nodes.map((node) => `  ${operation(node, label)}`);
  const outputs = Object.entries(graph.outputs).map(([name, tensor]) => `  ${name} = ${label(tensor)}`);
  return [
    `${graph.name}: ${nodes.length} operators`,
    'inputs',
    ...Object.entries(graph.inputs).map(([name, tensor]) => `  ${name}: ${typeOf(tensor)}`),
    ...(constants.length > 0 ? ['constants', ...constants] : []),
    'operators',
    ...lines,
    'outputs',
    ...outputs,
  ].join('\n');
}

function operation(node: Node, label: (tensor: Tensor) => string): string {
  const results = node.outputs.map((output) => `${label(output)}: ${typeOf(output)}`).join(', ');
  const attributes = Object.entries(node.attributes).flatMap(([name, value]) => {
    const unsaid = Array.isArray(value) && name === 'shape' && sameShape(value as Dim[], node.outputs[0]!.shape);
    return unsaid ? [] : shown(name, value);
  });
  const extras = attributes.length > 0 ? ` {${attributes.join(', ')}}` : '';
  const line = node.source.text;
  const comment = line === undefined ? '' : ` #${node.derived ? '∂' : ''} ${line}`;
  return `${results} = ${node.op.name}(${node.inputs.map(label).join(', ')})${extras}${comment}`;
}

function shown(name: string, value: Attribute): string[] {
  if (value === undefined || value === false || (name === 'alpha' && value === 1)) return [];
  if (value === true) return [name];
  if (typeof value !== 'object') return [`${name}=${value}`];
  if (Array.isArray(value)) return [`${name}=[${value.join(', ')}]`];
  const { dtype, shape } = value as HostTensor;
  return [`${name}=${dtype}[${shape.join(', ')}]`];
}

export const typeOf = ({ dtype, shape }: Tensor): string => `${dtype}[${shape.join(', ')}]`;

function literal({ data, shape, dtype }: HostTensor): string {
  const numbers = dtype === 'float16' ? [...data].map((bits) => `0x${bits.toString(16)}`) : [...data].map(short);
  return shape.length === 0 ? numbers[0]! : `[${numbers.join(', ')}]`;
}

function short(value: number | bigint): string {
  if (typeof value === 'bigint' || Number.isInteger(value)) return String(value);
  return String(Number(value.toPrecision(6)));
}

/** Bytes in a unit that suits them. */
export function size(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(1)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
