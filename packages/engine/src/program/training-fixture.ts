/** Numbers for the tests of training programs. */
import type { HostTensor } from '../host-tensor.js';
import { elementCount, hostTensor } from '../host-tensor.js';

/** Numbers between -1 and 1 that look like none in particular. */
export function wave(shape: readonly number[], frequency: number): HostTensor {
  const values = Array.from({ length: elementCount(shape) }, (_, i) => Math.sin(1 + i * frequency));
  return hostTensor('float32', shape, values);
}

/** max |a − b| / max |b| over all weights. */
export function distance(a: Readonly<Record<string, HostTensor>>, b: Readonly<Record<string, HostTensor>>): number {
  let worst = 0;
  for (const [name, { data }] of Object.entries(b)) {
    const largest = Math.max(...Array.from(data as Float32Array, Math.abs));
    for (const [i, value] of (data as Float32Array).entries()) {
      worst = Math.max(worst, Math.abs((a[name]!.data as Float32Array)[i]! - value) / largest);
    }
  }
  return worst;
}

/** For comparing bit for bit. */
export const bytes = ({ data }: HostTensor): Buffer => Buffer.from(data.buffer, data.byteOffset, data.byteLength);
