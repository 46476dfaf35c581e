import type { HostTensor } from '@fewtune/engine';
import { ModelError } from './errors.js';

/** The suffix under which the scales of an int8 tensor stand: `<name>` I8 [rows, cols], `<name>.scale` F32 [rows]. */
const scaleSuffix = '.scale';

/**
 * Symmetric int8 per row: row ≈ scale · q, q in -127 … 127. Of several clipping points the one with the least squared
 * error is taken: clipping a lone outlier a little pays for itself in the resolution of all the others.
 *
 * @param weight float32 [rows, cols]
 */
export function quantizeRows(weight: HostTensor): { values: HostTensor; scales: HostTensor } {
  const [rows, cols] = matrixShape(weight.shape);
  const source = weight.data as Float32Array;
  const values = new Int8Array(rows * cols);
  const scales = new Float32Array(rows);
  for (let r = 0; r < rows; r++) {
    const row = source.subarray(r * cols, (r + 1) * cols);
    const scale = bestScale(row);
    scales[r] = scale;
    for (let c = 0; c < cols; c++) values[r * cols + c] = toInt8(row[c]!, scale);
  }
  return {
    values: { dtype: 'int8', shape: [rows, cols], data: values },
    scales: { dtype: 'float32', shape: [rows], data: scales },
  };
}

/**
 * Turns every int8 tensor that has scales beside it into float32; all others pass through.
 *
 * @throws ModelError ENCODER_INCOMPLETE when scales do not fit their tensor
 */
export function dequantizeRows(tensors: Readonly<Record<string, HostTensor>>): Record<string, HostTensor> {
  const result: Record<string, HostTensor> = {};
  for (const [name, tensor] of Object.entries(tensors)) {
    const scales = tensors[name + scaleSuffix];
    if (tensor.dtype === 'int8' && scales) result[name] = dequantize(name, tensor, scales);
    else if (!isScale(name, tensors)) result[name] = tensor;
  }
  return result;
}

function dequantize(name: string, { shape, data }: HostTensor, scales: HostTensor): HostTensor {
  const [rows, cols] = matrixShape(shape);
  if (scales.dtype !== 'float32' || scales.data.length !== rows) {
    throw new ModelError(
      'ENCODER_INCOMPLETE',
      `"${name}${scaleSuffix}" is ${scales.dtype} [${scales.shape.join(', ')}], expected float32 [${rows}]`,
    );
  }
  const values = data as Int8Array;
  const factors = scales.data as Float32Array;
  const result = new Float32Array(rows * cols);
  for (let r = 0, i = 0; r < rows; r++) {
    const factor = factors[r]!;
    for (const end = i + cols; i < end; i++) result[i] = values[i]! * factor;
  }
  return { dtype: 'float32', shape, data: result };
}

/** Clipping points tried, as fractions of the row's largest magnitude. */
const clippings = Array.from({ length: 13 }, (_, i) => 1 - 0.025 * i);

function bestScale(row: Float32Array): number {
  let largest = 0;
  for (const value of row) largest = Math.max(largest, Math.abs(value));
  if (largest === 0) return 1; // an all-zero row is exact at any scale
  let best = { scale: 0, error: Number.POSITIVE_INFINITY };
  for (const clipping of clippings) {
    const scale = Math.fround((largest * clipping) / 127);
    let error = 0;
    for (const value of row) error += (value - toInt8(value, scale) * scale) ** 2;
    if (error < best.error) best = { scale, error };
  }
  return best.scale;
}

function toInt8(value: number, scale: number): number {
  return Math.max(-127, Math.min(127, Math.round(value / scale)));
}

function isScale(name: string, tensors: Readonly<Record<string, HostTensor>>): boolean {
  return name.endsWith(scaleSuffix) && tensors[name.slice(0, -scaleSuffix.length)]?.dtype === 'int8';
}

function matrixShape(shape: readonly number[]): [number, number] {
  if (shape.length !== 2)
    throw new ModelError('ENCODER_UNSUPPORTED', `int8 rows need a matrix, got [${shape.join(', ')}]`);
  return [shape[0]!, shape[1]!];
}
