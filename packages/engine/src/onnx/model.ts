/** ONNX models as plain objects, read from and written to protobuf. */

import { EngineError } from '../errors.js';
import type { DType, HostTensor } from '../host-tensor.js';
import { arrayType, bytesOf, onnxType, typedArrayOf } from '../host-tensor.js';
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
  uint64Data?: bigint[];
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
  g?: OnnxGraph;
  floats?: number[];
  ints?: number[];
  strings?: Uint8Array[];
  /** Inside a function: the function's attribute whose value this one takes. */
  refAttrName?: string;
}

export interface OnnxNode {
  opType: string;
  domain?: string;
  name?: string;
  input: string[];
  output: string[];
  attribute?: OnnxAttribute[];
  overload?: string;
  metadataProps?: { key: string; value: string }[];
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
  sparseInitializer?: Uint8Array[];
}

/** A graph that nodes of the model call like an operator. */
export interface OnnxFunctionProto {
  name: string;
  domain?: string;
  overload?: string;
  input: string[];
  output: string[];
  /** Attributes without, and with, a default. */
  attribute?: string[];
  attributeProto?: OnnxAttribute[];
  node: OnnxNode[];
  opsetImport?: { domain?: string; version: number }[];
}

export interface OnnxModelProto {
  irVersion: number;
  producerName?: string;
  producerVersion?: string;
  graph: OnnxGraph;
  opsetImport: { domain?: string; version: number }[];
  metadataProps?: { key: string; value: string }[];
  functions?: OnnxFunctionProto[];
}

/** Reads an ONNX file's bytes. Tensors keep pointing into `bytes`. @throws EngineError ONNX_INVALID */
export function readOnnx(bytes: Uint8Array): OnnxModelProto {
  const model = decode(modelMessage, bytes) as Decoded & Partial<OnnxModelProto>;
  if (!model.graph || !model.opsetImport) {
    throw new EngineError('ONNX_INVALID', 'no ONNX model: it has no graph or names no operator set');
  }
  fillGraph(model.graph);
  for (const proto of model.functions ?? []) {
    proto.name ??= '';
    proto.input ??= [];
    proto.output ??= [];
    proto.node = fillNodes(proto.node);
  }
  return model as unknown as OnnxModelProto;
}

/** Lists that are empty are absent in the file. */
function fillGraph(graph: Partial<OnnxGraph>): void {
  graph.node = fillNodes(graph.node);
  graph.input ??= [];
  graph.output ??= [];
  for (const value of [...graph.input, ...graph.output]) value.name ??= '';
}

function fillNodes(nodes: OnnxNode[] = []): OnnxNode[] {
  for (const node of nodes) {
    node.opType ??= '';
    node.input ??= [];
    node.output ??= [];
    for (const attribute of node.attribute ?? []) {
      attribute.name ??= '';
      if (attribute.g) fillGraph(attribute.g);
    }
  }
  return nodes;
}

export function writeOnnx(model: OnnxModelProto): Uint8Array {
  return encode(modelMessage, model as unknown as Decoded);
}

export function toOnnxTensor(name: string, tensor: HostTensor): OnnxTensor {
  return { name, dims: [...tensor.shape], dataType: onnxType[tensor.dtype], rawData: bytesOf(tensor) };
}

/**
 * The dtype and shape a tensor declares, checked against each other and, but for external data, against the bytes that
 * are there: what follows may allocate by them.
 *
 * @throws EngineError ONNX_INVALID
 */
export function onnxTensorSpec(tensor: OnnxTensor): { dtype: DType; shape: number[]; bytes: number } {
  const label = `tensor "${tensor.name ?? ''}"`;
  const dtype = dtypeOf(tensor.dataType);
  if (!dtype) {
    const found = dtypeNames[tensor.dataType ?? 0] ?? 'unknown';
    throw new EngineError(
      'ONNX_INVALID',
      `${label} has data type ${tensor.dataType ?? 0} (${found}), which is not supported; supported are ${Object.keys(onnxType).join(', ')}`,
    );
  }
  const shape = tensor.dims ?? [];
  let count = 1;
  for (const dim of shape) {
    count *= dim;
    if (dim < 0 || !Number.isSafeInteger(dim) || !Number.isSafeInteger(count)) {
      throw new EngineError('ONNX_INVALID', `${label} declares the impossible shape [${shape.join(', ')}]`);
    }
  }
  const bytes = count * arrayType[dtype].BYTES_PER_ELEMENT;
  const present = tensor.rawData
    ? tensor.rawData.length
    : listOf(dtype, tensor).length * arrayType[dtype].BYTES_PER_ELEMENT;
  if (tensor.dataLocation !== 1 && present !== bytes) {
    throw new EngineError(
      'ONNX_INVALID',
      `${label} of ${dtype} [${shape.join(', ')}] takes ${bytes} bytes, but ${present} are there`,
    );
  }
  return { dtype, shape, bytes };
}

/** The engine's name of an ONNX element type, if it has one. */
export function dtypeOf(dataType: number | undefined): DType | undefined {
  return (Object.keys(onnxType) as DType[]).find((name) => onnxType[name] === dataType);
}

/** TensorProto.DataType in order, for messages. */
const dtypeNames =
  'undefined float32 uint8 int8 uint16 int16 int32 int64 string bool float16 float64 uint32 uint64 complex64 complex128 bfloat16 float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz uint4 int4 float4e2m1'.split(
    ' ',
  );

/** @throws EngineError ONNX_INVALID for dtypes the engine does not have, external data, or a wrong size */
export function fromOnnxTensor(tensor: OnnxTensor): HostTensor {
  const { dtype, shape } = onnxTensorSpec(tensor);
  if (tensor.dataLocation === 1) {
    throw new EngineError(
      'ONNX_INVALID',
      `tensor "${tensor.name ?? ''}" keeps its data in another file: open the model with readOnnxModel`,
    );
  }
  return { dtype, shape, data: tensor.rawData ? typedArrayOf(dtype, tensor.rawData) : fromList(dtype, tensor) };
}

/** The field in which a tensor without raw data keeps elements of a dtype. */
function listOf(dtype: DType, tensor: OnnxTensor): readonly (number | bigint)[] {
  if (dtype === 'float32') return tensor.floatData ?? [];
  if (dtype === 'float64') return tensor.doubleData ?? [];
  if (dtype === 'int64') return tensor.int64Data ?? [];
  return (dtype === 'uint32' ? tensor.uint64Data : tensor.int32Data) ?? [];
}

function fromList(dtype: DType, tensor: OnnxTensor): HostTensor['data'] {
  const values = listOf(dtype, tensor);
  if (dtype === 'int64') return BigInt64Array.from(values as bigint[]);
  const array = new arrayType[dtype](values.length) as Float64Array;
  for (const [i, value] of values.entries()) array[i] = Number(value);
  return array;
}
