/** The part of onnx.proto3 that models use; field numbers from https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3. */
import type { Field, Message } from './wire.js';

const entry: Message = {
  name: 'StringStringEntryProto',
  fields: { key: { number: 1, type: 'string' }, value: { number: 2, type: 'string' } },
};

const tensor: Message = {
  name: 'TensorProto',
  fields: {
    dims: { number: 1, type: 'int', repeated: true },
    dataType: { number: 2, type: 'int' },
    floatData: { number: 4, type: 'float', repeated: true },
    int32Data: { number: 5, type: 'int', repeated: true },
    stringData: { number: 6, type: 'bytes', repeated: true },
    int64Data: { number: 7, type: 'bigint', repeated: true },
    name: { number: 8, type: 'string' },
    rawData: { number: 9, type: 'bytes' },
    doubleData: { number: 10, type: 'double', repeated: true },
    uint64Data: { number: 11, type: 'bigint', repeated: true },
    externalData: { number: 13, type: entry, repeated: true },
    dataLocation: { number: 14, type: 'int' },
  },
};

const dimension: Message = {
  name: 'Dimension',
  fields: { dimValue: { number: 1, type: 'int' }, dimParam: { number: 2, type: 'string' } },
};
const shape: Message = { name: 'TensorShapeProto', fields: { dim: { number: 1, type: dimension, repeated: true } } };
const tensorType: Message = {
  name: 'TypeProto.Tensor',
  fields: { elemType: { number: 1, type: 'int' }, shape: { number: 2, type: shape } },
};
const type: Message = { name: 'TypeProto', fields: { tensorType: { number: 1, type: tensorType } } };
const valueInfo: Message = {
  name: 'ValueInfoProto',
  fields: { name: { number: 1, type: 'string' }, type: { number: 2, type } },
};

// A node's attribute may hold a graph, which holds nodes: the field is added below.
const attributeFields: Record<string, Field> = {
  name: { number: 1, type: 'string' },
  f: { number: 2, type: 'float' },
  i: { number: 3, type: 'int' },
  s: { number: 4, type: 'bytes' },
  t: { number: 5, type: tensor },
  floats: { number: 7, type: 'float', repeated: true },
  ints: { number: 8, type: 'int', repeated: true },
  strings: { number: 9, type: 'bytes', repeated: true },
  type: { number: 20, type: 'int' },
  refAttrName: { number: 21, type: 'string' },
};
const attribute: Message = { name: 'AttributeProto', fields: attributeFields };

const node: Message = {
  name: 'NodeProto',
  fields: {
    input: { number: 1, type: 'string', repeated: true },
    output: { number: 2, type: 'string', repeated: true },
    name: { number: 3, type: 'string' },
    opType: { number: 4, type: 'string' },
    attribute: { number: 5, type: attribute, repeated: true },
    domain: { number: 7, type: 'string' },
    overload: { number: 8, type: 'string' },
    metadataProps: { number: 9, type: entry, repeated: true },
  },
};

const graph: Message = {
  name: 'GraphProto',
  fields: {
    node: { number: 1, type: node, repeated: true },
    name: { number: 2, type: 'string' },
    initializer: { number: 5, type: tensor, repeated: true },
    input: { number: 11, type: valueInfo, repeated: true },
    output: { number: 12, type: valueInfo, repeated: true },
    valueInfo: { number: 13, type: valueInfo, repeated: true },
    sparseInitializer: { number: 15, type: 'bytes', repeated: true },
  },
};
attributeFields.g = { number: 6, type: graph };

const opset: Message = {
  name: 'OperatorSetIdProto',
  fields: { domain: { number: 1, type: 'string' }, version: { number: 2, type: 'int' } },
};

const functionProto: Message = {
  name: 'FunctionProto',
  fields: {
    name: { number: 1, type: 'string' },
    input: { number: 4, type: 'string', repeated: true },
    output: { number: 5, type: 'string', repeated: true },
    attribute: { number: 6, type: 'string', repeated: true },
    node: { number: 7, type: node, repeated: true },
    opsetImport: { number: 9, type: opset, repeated: true },
    domain: { number: 10, type: 'string' },
    attributeProto: { number: 11, type: attribute, repeated: true },
    overload: { number: 13, type: 'string' },
  },
};

export const modelMessage: Message = {
  name: 'ModelProto',
  fields: {
    irVersion: { number: 1, type: 'int' },
    producerName: { number: 2, type: 'string' },
    producerVersion: { number: 3, type: 'string' },
    graph: { number: 7, type: graph },
    opsetImport: { number: 8, type: opset, repeated: true },
    metadataProps: { number: 14, type: entry, repeated: true },
    functions: { number: 25, type: functionProto, repeated: true },
  },
};
