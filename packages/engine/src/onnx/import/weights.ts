/** The weights of an ONNX file: which there are, and their values. */
import { EngineError } from '../../errors.js';
import type { DType, HostTensor } from '../../host-tensor.js';
import { typedArrayOf } from '../../host-tensor.js';
import type { OnnxGraph, OnnxModelProto, OnnxTensor } from '../model.js';
import { dtypeOf, fromOnnxTensor, onnxTensorSpec } from '../model.js';
import { domainOf } from './table.js';

/**
 * What a weight is for. Only a `weight` is trained unless it is named exactly: a `statistic` is a running mean or
 * variance, a `scalar` a single number such as an epsilon, `quantized` whole numbers that stand for floats.
 */
export type WeightRole = 'weight' | 'statistic' | 'scalar' | 'quantized';

export interface WeightInfo {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly role: WeightRole;
}

/** Reads a part of a file beside the model. */
export type ExternalReader = (part: {
  readonly tensor: string;
  readonly location: string;
  readonly offset: number;
  /** Bytes that the tensor's dtype and shape ask for. */
  readonly length: number;
}) => Promise<Uint8Array>;

/** Initialisers by name. @throws EngineError ONNX_INVALID for two of one name, or sparse ones */
export function initializersOf(graph: OnnxGraph): Map<string, OnnxTensor> {
  if (graph.sparseInitializer?.length)
    throw new EngineError('ONNX_INVALID', 'the file has sparse initialisers, which are not supported');
  const found = new Map<string, OnnxTensor>();
  for (const tensor of graph.initializer ?? []) {
    const name = tensor.name ?? '';
    if (name === '') throw new EngineError('ONNX_INVALID', 'an initialiser has no name');
    if (found.has(name)) throw new EngineError('ONNX_INVALID', `two initialisers are called "${name}"`);
    found.set(name, tensor);
  }
  return found;
}

/** Float and quantised initialisers, as what a user calls weights; indices and flags are part of the graph. */
export function weightsOf(
  model: OnnxModelProto,
  initializers: ReadonlyMap<string, OnnxTensor>,
): Map<string, WeightInfo> {
  const statistics = new Set<string>();
  for (const node of model.graph.node) {
    if (node.opType === 'BatchNormalization' && domainOf(node.domain) === '') {
      for (const name of node.input.slice(3, 5)) statistics.add(name);
    }
  }
  const found = new Map<string, WeightInfo>();
  for (const [name, tensor] of initializers) {
    const dtype = dtypeOf(tensor.dataType);
    if (!dtype || !['float32', 'float64', 'float16', 'int8', 'uint8'].includes(dtype)) continue;
    const { shape } = onnxTensorSpec(tensor);
    const role = dtype.startsWith('float')
      ? statistics.has(name)
        ? 'statistic'
        : shape.every((size) => size === 1)
          ? 'scalar'
          : 'weight'
      : 'quantized';
    found.set(name, { dtype, shape, role });
  }
  return found;
}

/** The value of an initialiser, from the file itself or one beside it. */
export async function loadExternal(tensor: OnnxTensor, read: ExternalReader | undefined): Promise<HostTensor> {
  const { dtype, shape, bytes: length } = onnxTensorSpec(tensor);
  const name = tensor.name ?? '';
  const entries = new Map((tensor.externalData ?? []).map(({ key, value }) => [key, value ?? '']));
  const location = entries.get('location') ?? '';
  const offset = wholeNumber(entries.get('offset') ?? '0');
  const declared = entries.has('length') ? wholeNumber(entries.get('length')!) : length;
  if (location === '' || offset === undefined || declared === undefined) {
    throw new EngineError(
      'ONNX_INVALID',
      `tensor "${name}": its external data has no location, or an offset or length that is no number`,
    );
  }
  if (declared !== length) {
    throw new EngineError(
      'ONNX_INVALID',
      `tensor "${name}" of ${dtype} [${shape.join(', ')}] takes ${length} bytes, but its external data declares ${declared}`,
    );
  }
  if (!read) {
    throw new EngineError(
      'ONNX_INVALID',
      `tensor "${name}" keeps its data in "${location}": open the model by its path, or give \`external\``,
    );
  }
  const bytes = length === 0 ? new Uint8Array(0) : await read({ tensor: name, location, offset, length });
  if (bytes.byteLength !== length) {
    throw new EngineError(
      'ONNX_INVALID',
      `tensor "${name}": ${length} bytes were asked of "${location}", but ${bytes.byteLength} came`,
    );
  }
  return { dtype, shape, data: typedArrayOf(dtype, bytes) };
}

function wholeNumber(text: string): number | undefined {
  return /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

export function isExternal(tensor: OnnxTensor): boolean {
  return tensor.dataLocation === 1;
}

/** A reader of values by name; each is decoded when it is first asked for. */
export function valueReader(initializers: ReadonlyMap<string, OnnxTensor>, external: ReadonlyMap<string, HostTensor>) {
  const decoded = new Map<string, HostTensor>(external);
  return (name: string): HostTensor => {
    let value = decoded.get(name);
    if (!value) {
      value = fromOnnxTensor(initializers.get(name)!);
      decoded.set(name, value);
    }
    return value;
  };
}
