/** Models exported by PyTorch with what they and their gradients should give; see fixtures/onnx/export-models.py. */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type DType, type HostTensor, hostTensor } from '../src/index.js';

const folder = fileURLToPath(new URL('fixtures/onnx/', import.meta.url));

export const fixtureNames = readdirSync(folder)
  .filter((file) => file.endsWith('.onnx'))
  .map((file) => file.slice(0, -'.onnx'.length))
  .sort();

export const fixturePath = (name: string): string => `${folder}${name}.onnx`;
export const fixtureBytes = (name: string): Uint8Array => new Uint8Array(readFileSync(fixturePath(name)));

export interface Reference {
  readonly inputs: Record<string, HostTensor>;
  readonly outputs: Record<string, HostTensor>;
  readonly cotangent: HostTensor;
  readonly gradients: Record<string, HostTensor>;
}

type Packed = { dtype: DType; shape: number[]; data: string };

export function reference(name: string): Reference {
  const json = JSON.parse(readFileSync(`${folder}${name}.json`, 'utf8')) as Record<string, never>;
  const unpackAll = (packed: Record<string, Packed>) =>
    Object.fromEntries(Object.entries(packed).map(([key, value]) => [key, unpack(value)]));
  const { inputs, outputs, cotangent, gradients } = json as unknown as {
    inputs: Record<string, Packed>;
    outputs: Record<string, Packed>;
    cotangent: Packed;
    gradients: Record<string, Packed>;
  };
  return {
    inputs: unpackAll(inputs),
    outputs: unpackAll(outputs),
    cotangent: unpack(cotangent),
    gradients: unpackAll(gradients),
  };
}

function unpack({ dtype, shape, data }: Packed): HostTensor {
  const bytes = new Uint8Array(Buffer.from(data, 'base64'));
  return hostTensor(dtype, shape, dtype === 'int64' ? new BigInt64Array(bytes.buffer) : new Float32Array(bytes.buffer));
}

/** Largest difference, relative to the largest magnitude expected (or a larger one to measure by). */
export function worst(found: HostTensor, expected: HostTensor, atLeast = 1e-12): number {
  if (String(found.shape) !== String(expected.shape)) return Number.POSITIVE_INFINITY;
  let difference = 0;
  for (const [i, value] of (expected.data as Float32Array).entries()) {
    const own = Math.abs(value - Number(found.data[i]));
    if (!(own <= difference)) difference = own;
  }
  return difference / Math.max(magnitude(expected), atLeast);
}

export function magnitude({ data }: HostTensor): number {
  return (data as Float32Array).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}
