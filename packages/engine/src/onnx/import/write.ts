/** Writing a model back: the original graph with other values in its initialisers. */
import { EngineError } from '../../errors.js';
import type { HostTensor } from '../../host-tensor.js';
import { bytesOf } from '../../host-tensor.js';
import type { Named } from '../../optim/optimizer.js';
import type { OnnxModelProto, OnnxNode, OnnxTensor } from '../model.js';
import { toOnnxTensor, writeOnnx } from '../model.js';
import type { OnnxFunction } from './onnx-function.js';
import { isExternal } from './weights.js';

/** Protocol buffers end at 2 GiB; a little is left for what is not tensors. */
export const largestFile = 2 ** 31 - 2 ** 20;

/** Smaller tensors stay in the model's own file. */
const smallestExternal = 1024;

/**
 * The file's bytes with other weights; everything else is as it was. Where all of them stand as raw data in the original,
 * only those bytes differ. Adapters become nodes of their own beside the products they belong to.
 *
 * @param weights values to write; those left out stay
 * @throws EngineError INPUT_MISMATCH for names, dtypes or shapes the file has not; ARGUMENT_INVALID beyond 2 GiB
 */
export function toOnnx(fn: OnnxFunction, weights: Named<HostTensor> = {}): Uint8Array {
  fn.checkWeights(weights);
  const { bytes, initializers } = fn.parts;
  const names = Object.keys(weights);
  const tensors = [...initializers.values()];
  const inPlace =
    fn.adapters.length === 0 && !tensors.some(isExternal) && names.every((name) => initializers.get(name)?.rawData);
  if (inPlace) {
    const copy = new Uint8Array(bytes);
    for (const name of names) {
      const { byteOffset } = initializers.get(name)!.rawData!;
      copy.set(bytesOf(weights[name]!), byteOffset - bytes.byteOffset);
    }
    return copy;
  }
  const model = modelWith(fn, weights);
  const size = tensorBytes(model);
  if (size > largestFile) {
    throw new EngineError(
      'ARGUMENT_INVALID',
      `the model takes ${size} bytes, and one file holds ${largestFile}; write it with saveOnnx, which puts weights beside it`,
    );
  }
  return writeOnnx(model);
}

/** The model with the values in it, all inside. */
export function modelWith(fn: OnnxFunction, weights: Named<HostTensor>): OnnxModelProto {
  const { model, value } = fn.parts;
  const initializer = (model.graph.initializer ?? []).map((tensor): OnnxTensor => {
    const name = tensor.name!;
    const own = Object.hasOwn(weights, name) ? weights[name] : undefined;
    return own || isExternal(tensor) ? toOnnxTensor(name, own ?? value(name)) : tensor;
  });
  const { nodes, tensors } = adapterNodes(fn, weights);
  return { ...model, graph: { ...model.graph, node: nodes, initializer: [...initializer, ...tensors] } };
}

function adapterNodes(fn: OnnxFunction, weights: Named<HostTensor>): { nodes: OnnxNode[]; tensors: OnnxTensor[] } {
  const byNode = new Map<OnnxNode, (typeof fn.adapters)[number][]>();
  for (const adapter of fn.adapters) byNode.set(adapter.node, [...(byNode.get(adapter.node) ?? []), adapter]);
  const tensors: OnnxTensor[] = [];
  const nodes = fn.parts.model.graph.node.flatMap((node): OnnxNode[] => {
    const own = byNode.get(node);
    if (!own) return [node];
    const result = node.output[0]!;
    let sum = `${result}.before_lora`;
    const made: OnnxNode[] = [{ ...node, output: [sum] }];
    for (const [i, { a, b, scale, factor, start }] of own.entries()) {
      const value = (name: string) => (Object.hasOwn(weights, name) ? weights[name]! : start[name]!);
      tensors.push(toOnnxTensor(a, swapped(value(a), 1)), toOnnxTensor(b, swapped(value(b), scale * factor)));
      const [down, up] = [`${a}.product`, `${b}.product`];
      const next = i === own.length - 1 ? result : `${b}.sum`;
      made.push(
        { opType: 'MatMul', name: down, input: [node.input[0]!, a], output: [down] },
        { opType: 'MatMul', name: up, input: [down, b], output: [up] },
        { opType: 'Add', name: `${b}.add`, input: [sum, up], output: [next] },
      );
      sum = next;
    }
    return made;
  });
  return { nodes, tensors };
}

/** The transposed matrix times a factor. */
function swapped({ dtype, shape, data }: HostTensor, factor: number): HostTensor {
  const [rows, columns] = shape as [number, number];
  const result = (data as Float32Array).slice();
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) result[c * rows + r] = (data[r * columns + c] as number) * factor;
  return { dtype, shape: [columns, rows], data: result };
}

export function tensorBytes(model: OnnxModelProto): number {
  return (model.graph.initializer ?? []).reduce((sum, { rawData }) => sum + (rawData?.length ?? 0), 0);
}

/**
 * Moves large tensors out of a model.
 *
 * @param location name of the file that will hold them, beside the model
 * @returns the model that names them, and the parts of that file in order (each begins at a multiple of 4096)
 */
export function externalized(model: OnnxModelProto, location: string): { model: OnnxModelProto; parts: Uint8Array[] } {
  const parts: Uint8Array[] = [];
  let offset = 0;
  const initializer = (model.graph.initializer ?? []).map((tensor): OnnxTensor => {
    const raw = tensor.rawData;
    if (!raw || raw.length < smallestExternal) return tensor;
    const gap = (4096 - (offset % 4096)) % 4096;
    if (gap > 0) parts.push(new Uint8Array(gap));
    parts.push(raw);
    const at = offset + gap;
    offset = at + raw.length;
    const externalData = Object.entries({ location, offset: at, length: raw.length }).map(([key, value]) => ({
      key,
      value: String(value),
    }));
    return { name: tensor.name, dims: tensor.dims, dataType: tensor.dataType, externalData, dataLocation: 1 };
  });
  return { model: { ...model, graph: { ...model.graph, initializer } }, parts };
}
