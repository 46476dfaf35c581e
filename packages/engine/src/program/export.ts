import type { OnnxModelProto } from '../onnx/model.js';
import { writeOnnx } from '../onnx/model.js';
import type { Tensor, TensorSpec } from '../tensor.js';
import { placeholder } from '../tensor.js';
import { emit } from './emitter.js';

/** The ONNX model of a traced function, as an object. Only standard operators when `portable` (the default). */
export function traceToOnnx(
  fn: (inputs: Record<string, Tensor>) => Record<string, Tensor>,
  specs: Readonly<Record<string, TensorSpec>>,
  options: { portable?: boolean; name?: string; metadata?: Readonly<Record<string, string>> } = {},
): OnnxModelProto {
  const inputs = Object.fromEntries(Object.entries(specs).map(([name, spec]) => [name, placeholder(name, spec)]));
  const model = emit(inputs, fn(inputs), { portable: options.portable ?? true, name: options.name });
  const metadataProps = Object.entries(options.metadata ?? {}).map(([key, value]) => ({ key, value }));
  return { ...model, metadataProps };
}

/** The same as the bytes of an ONNX file that any runtime opens. */
export function exportOnnx(...args: Parameters<typeof traceToOnnx>): Uint8Array {
  return writeOnnx(traceToOnnx(...args));
}
