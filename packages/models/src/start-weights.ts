import { elementCount, type HostTensor, hostTensor, normals } from '@fewtune/engine';

/** Draws weights [out, ...] after He et al. 2015 (arXiv:1502.01852): standard deviation √(2 / fan-in), seeded. */
export function heWeights(seed: number): (shape: readonly number[]) => HostTensor {
  const normal = normals(seed);
  return (shape) => {
    const deviation = Math.sqrt(2 / elementCount(shape.slice(1)));
    const values = Float32Array.from({ length: elementCount(shape) }, () => normal() * deviation);
    return hostTensor('float32', shape, values);
  };
}

/** [length], every element the same. */
export const filled = (length: number, value: number): HostTensor =>
  hostTensor('float32', [length], new Float32Array(length).fill(value));
