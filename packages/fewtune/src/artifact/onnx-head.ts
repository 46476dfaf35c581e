import {
  fromOnnxTensor,
  hostTensor,
  type OnnxModelProto,
  type OnnxTensor,
  readOnnx,
  toOnnxTensor,
  writeOnnx,
} from '@fewtune/engine';
import type { LinearHead } from './linear-head.js';

/** The names of the head's initialisers in `model.onnx`. */
export const headNames = { weight: 'classifier.weight', bias: 'classifier.bias' } as const;

/** The head that stands in a classifier's file, before the calibration temperature; a copy. */
export function readHead(bytes: Uint8Array): LinearHead {
  const model = readOnnx(bytes);
  const values = (name: string) => Float32Array.from(fromOnnxTensor(initializer(model, name)).data as Float32Array);
  return { weight: values(headNames.weight), bias: values(headNames.bias) };
}

/**
 * The same file with another head of any number of classes: two initialisers and the size of one output change, the
 * rest of the graph is copied as it stands.
 */
export function replaceHead(bytes: Uint8Array, { weight, bias }: LinearHead): Uint8Array {
  const model = readOnnx(bytes);
  const classes = bias.length;
  const fresh = new Map([
    [headNames.weight as string, hostTensor('float32', [classes, weight.length / classes], weight)],
    [headNames.bias as string, hostTensor('float32', [classes], bias)],
  ]);
  for (const name of fresh.keys()) initializer(model, name);
  const outputs = model.graph.output.map((output) => {
    if (output.name !== 'logits') return output;
    const { tensorType } = output.type!;
    const dim = [tensorType!.shape!.dim![0]!, { dimValue: classes }];
    return { ...output, type: { ...output.type, tensorType: { ...tensorType, shape: { dim } } } };
  });
  const initializers = model.graph.initializer!.map((tensor) => {
    const replacement = fresh.get(tensor.name ?? '');
    return replacement === undefined ? tensor : toOnnxTensor(tensor.name!, replacement);
  });
  return writeOnnx({ ...model, graph: { ...model.graph, initializer: initializers, output: outputs } });
}

function initializer({ graph }: OnnxModelProto, name: string): OnnxTensor {
  const found = graph.initializer?.find((tensor) => tensor.name === name);
  if (found === undefined) throw new Error(`the model has no initialiser ${name}`);
  return found;
}
