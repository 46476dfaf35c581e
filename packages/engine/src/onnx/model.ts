/** ONNX models as plain objects, read from and written to protobuf. */

import { EngineError } from '../errors.js';
import type { DType, HostTensor } from '../host-tensor.js';
import { bytesOf, elementCount, onnxType, typedArrayOf } from '../host-tensor.js';
import { modelMessage } from './schema.js';
import type { Decoded } from './wire.js';
import { decode, encode } from './wire.js';

export interface OnnxTensor {
  name?: string;
  dims?: number[];
  dataType?: number;
  rawData?: Uint8Array;
  floatData?: number[];
  int32Data?: number[];
  int64Data?: bigint[];
  doubleData?: number[];
  externalData?: { key: string; value: string }[];
  dataLocation?: number;
}

/** AttributeProto; `type` is 1 float, 2 int, 3 string, 4 tensor, 5 graph, 6 floats, 7 ints, 8 strings. */
export interface OnnxAttribute {
  name: string;
  type: number;
  f?: number;
  i?: number;
  s?: Uint8Array;
  t?: OnnxTensor;
  floats?: number[];
  ints?: number[];
  strings?: Uint8Array[];
}

export interface OnnxNode {
  opType: string;
  domain?: string;
  name?: string;
  input: string[];
  output: string[];
  attribute?: OnnxAttribute[];
}

export interface OnnxValueInfo {
  name: string;
  type?: { tensorType?: { elemType?: number; shape?: { dim?: { dimValue?: number; dimParam?: string }[] } } };
}

export interface OnnxGraph {
  name?: string;
  node: OnnxNode[];
  initializer?: OnnxTensor[];
  input: OnnxValueInfo[];
  output: OnnxValueInfo[];
  valueInfo?: OnnxValueInfo[];
}

export interface OnnxModelProto {
  irVersion: number;
  producerName?: string;
  producerVersion?: string;
  graph: OnnxGraph;
  opsetImport: { domain?: string; version: number }[];
  metadataProps?: { key: string; value: string }[];
}

/** Reads an ONNX file's bytes. Tensors keep pointing into `bytes`. @throws EngineError ONNX_INVALID */
export function readOnnx(bytes: Uint8Array): OnnxModelProto {
  const model = decode(modelMessage, bytes) as Decoded & Partial<OnnxModelProto>;
  if (!model.graph || !model.opsetImport) {
    throw new EngineError('ONNX_INVALID', 'no ONNX model: it has no graph or names no operator set');
  }
  const graph = model.graph as Partial<OnnxGraph>;
  graph.node ??= [];
  for (const node of graph.node) {
    node.input ??= [];
    node.output ??= [];
  }
  graph.input ??= [];
  graph.output ??= [];
  return model as unknown as OnnxModelProto;
}

export function writeOnnx(model: OnnxModelProto): Uint8Array {
  return encode(modelMessage, model as unknown as Decoded);
}

export function toOnnxTensor(name: string, tensor: HostTensor): OnnxTensor {
  return { name, dims: [...tensor.shape], dataType: onnxType[tensor.dtype], rawData: bytesOf(tensor) };
}

/** @throws EngineError ONNX_INVALID for dtypes the engine does not have, external data, or a wrong size */
export function fromOnnxTensor(tensor: OnnxTensor): HostTensor {
  const label = `tensor "${tensor.name ?? ''}"`;
  const dtype = (Object.keys(onnxType) as DType[]).find((name) => onnxType[name] === tensor.dataType);
  if (!dtype)
    throw new EngineError('ONNX_INVALID', `${label} has data type ${tensor.dataType}, which is not supported`);
  if (tensor.dataLocation === 1) {
    throw new EngineError('ONNX_INVALID', `${label} keeps its data in another file, which is not supported yet`);
  }
  const shape = tensor.dims ?? [];
  const data = tensor.rawData ? typedArrayOf(dtype, tensor.rawData) : fromLists(dtype, tensor);
  if (data.length !== elementCount(shape)) {
    throw new EngineError('ONNX_INVALID', `${label} of shape [${shape}] holds ${data.length} elements`);
  }
  return { dtype, shape, data };
}

function fromLists(dtype: DType, tensor: OnnxTensor): HostTensor['data'] {
  if (dtype === 'float32') return Float32Array.from(tensor.floatData ?? []);
  if (dtype === 'float64') return Float64Array.from(tensor.doubleData ?? []);
  if (dtype === 'int64') return BigInt64Array.from(tensor.int64Data ?? []);
  const values = tensor.int32Data ?? [];
  if (dtype === 'int32') return Int32Array.from(values);
  if (dtype === 'int8') return Int8Array.from(values);
  if (dtype === 'float16') return Uint16Array.from(values);
  if (dtype === 'uint32') return Uint32Array.from(values);
  return Uint8Array.from(values);
}
