/** The part of onnx.proto3 that models use; field numbers from https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3. */
import type { Message } from './wire.js';

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

const attribute: Message = {
  name: 'AttributeProto',
  fields: {
    name: { number: 1, type: 'string' },
    f: { number: 2, type: 'float' },
    i: { number: 3, type: 'int' },
    s: { number: 4, type: 'bytes' },
    t: { number: 5, type: tensor },
    floats: { number: 7, type: 'float', repeated: true },
    ints: { number: 8, type: 'int', repeated: true },
    strings: { number: 9, type: 'bytes', repeated: true },
    type: { number: 20, type: 'int' },
  },
};

const node: Message = {
  name: 'NodeProto',
  fields: {
    input: { number: 1, type: 'string', repeated: true },
    output: { number: 2, type: 'string', repeated: true },
    name: { number: 3, type: 'string' },
    opType: { number: 4, type: 'string' },
    attribute: { number: 5, type: attribute, repeated: true },
    domain: { number: 7, type: 'string' },
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
  },
};

const opset: Message = {
  name: 'OperatorSetIdProto',
  fields: { domain: { number: 1, type: 'string' }, version: { number: 2, type: 'int' } },
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
  },
};
