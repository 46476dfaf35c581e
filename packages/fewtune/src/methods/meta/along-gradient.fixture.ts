import { type HostTensor, hostTensor, type Named } from '@fewtune/engine';

/**
 * A gradient's length, and by central differences how the loss rises along it, as a share of that length: 1 where the
 * gradient is right, as a wrong one promises more than it keeps.
 */
export async function riseAlong(
  gradient: Named<HostTensor>,
  weights: Named<HostTensor>,
  h: number,
  lossAt: (weights: Named<HostTensor>) => Promise<number>,
): Promise<{ norm: number; rise: number }> {
  const norm = Math.hypot(...Object.values(gradient).flatMap(({ data }) => [...(data as Float32Array)]));
  const moved = (distance: number) =>
    Object.fromEntries(
      Object.entries(weights).map(([name, { shape, data }]) => {
        const g = gradient[name]!.data as Float32Array;
        const values = (data as Float32Array).map((w, i) => w + (distance * g[i]!) / norm);
        return [name, hostTensor('float32', shape, values)];
      }),
    );
  const slope = ((await lossAt(moved(h))) - (await lossAt(moved(-h)))) / (2 * h);
  return { norm, rise: slope / norm };
}
