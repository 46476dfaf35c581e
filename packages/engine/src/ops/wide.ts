import type { DType } from '../host-tensor.js';
import { onnxType } from '../host-tensor.js';
import type { EmitContext } from '../tensor.js';

/**
 * Writes a sum. Sums of float16 are taken in float32 and rounded once; besides, ONNX Runtime's CPU backend adds into places
 * (ScatterND, ScatterElements) in float32 only.
 *
 * @param dtype  of the operands
 * @param write  writes the operator for operands of the given dtype
 */
export function wideSum(
  context: EmitContext,
  dtype: DType,
  operands: readonly string[],
  write: (operands: readonly string[], dtype: DType) => readonly string[],
): readonly string[] {
  if (dtype !== 'float16') return write(operands, dtype);
  const wide = operands.map((operand) => context.node('Cast', [operand], { to: onnxType.float32 })[0]!);
  return context.node('Cast', write(wide, 'float32'), { to: onnxType.float16 });
}
