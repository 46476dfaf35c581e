import { type HostTensor, hostTensor } from '@fewtune/engine';

/** Images at twice the size that the network sees: warped down to it, so that strokes stay smooth. */
export const sourceSize = 56;
export const size = 28;

/** How one image is seen: mirrored, turned by quarter turns, then bent. */
export interface View {
  readonly mirrored: boolean;
  readonly turns: number;
  /** Radians, factors and pixels of the source; left out, the image is only shrunk. */
  readonly bend?: Bend;
}

export interface Bend {
  readonly angle: number;
  readonly shear: number;
  readonly scale: readonly [number, number];
  readonly shift: readonly [number, number];
  /** Displacements of a grid of 4 × 4 knots, in half image widths, x then y; smooth between. */
  readonly knots?: Float32Array;
}

/** A small random affine map and a smooth displacement. */
export function randomBend(random: () => number, gaussian: () => number, elastic: number): Bend {
  const around = (reach: number) => (2 * random() - 1) * reach;
  return {
    angle: around(0.26),
    shear: around(0.2),
    scale: [Math.exp(around(0.18)), Math.exp(around(0.18))],
    shift: [around(0.12), around(0.12)],
    ...(elastic > 0 && { knots: Float32Array.from({ length: 32 }, () => gaussian() * elastic) }),
  };
}

/**
 * @param source float32 [n, 1, 56, 56]
 * @param views  of each of `rows`
 * @returns float32 [rows, 1, 28, 28]
 */
export function seen(source: HostTensor, rows: ArrayLike<number>, views: readonly View[]): HostTensor {
  const values = source.data as Float32Array;
  const area = sourceSize * sourceSize;
  const out = new Float32Array(rows.length * size * size);
  const blurred = new Float32Array(area);
  for (let i = 0; i < rows.length; i++) {
    blur(values.subarray(rows[i]! * area, (rows[i]! + 1) * area), blurred);
    warp(blurred, views[i]!, out.subarray(i * size * size, (i + 1) * size * size));
  }
  return hostTensor('float32', [rows.length, 1, size, size], out);
}

/** Mean of each pixel and its neighbours to the right, below and both: what a pixel of the result covers. */
function blur(from: Float32Array, to: Float32Array): void {
  for (let y = 0; y < sourceSize; y++) {
    for (let x = 0; x < sourceSize; x++) {
      const right = x + 1 < sourceSize;
      const below = y + 1 < sourceSize;
      const at = y * sourceSize + x;
      const sum =
        from[at]! +
        (right ? from[at + 1]! : 0) +
        (below ? from[at + sourceSize]! : 0) +
        (right && below ? from[at + sourceSize + 1]! : 0);
      to[at] = sum / 4;
    }
  }
}

/** Samples bilinearly; coordinates run from −1 to 1, outside is paper. */
function warp(image: Float32Array, { mirrored, turns, bend }: View, out: Float32Array): void {
  const { angle, shear, scale, shift, knots } = bend ?? {
    angle: 0,
    shear: 0,
    scale: [1, 1],
    shift: [0, 0],
    knots: undefined,
  };
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  // Rotation × (scale with shear).
  const [a, b, c, d] = [cos * scale[0], cos * shear - sin * scale[1], sin * scale[0], sin * shear + cos * scale[1]];
  const quarter = ((turns % 4) + 4) % 4;
  const [qc, qs] = [[1, 0, -1, 0][quarter]!, [0, 1, 0, -1][quarter]!];
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      let u = (2 * column + 1) / size - 1;
      let v = (2 * row + 1) / size - 1;
      if (knots) {
        const [du, dv] = [between(knots, 0, u, v), between(knots, 16, u, v)];
        u += du;
        v += dv;
      }
      const [bu, bv] = [a * u + b * v + shift[0]!, c * u + d * v + shift[1]!];
      const x = (mirrored ? -1 : 1) * (qc * bu - qs * bv);
      const y = qs * bu + qc * bv;
      // The blurred pixel at p covers p and p + 1: its middle is half a pixel on.
      out[row * size + column] = sample(image, ((x + 1) * sourceSize) / 2 - 1, ((y + 1) * sourceSize) / 2 - 1);
    }
  }
}

function sample(image: Float32Array, x: number, y: number): number {
  const [left, top] = [Math.floor(x), Math.floor(y)];
  const [fx, fy] = [x - left, y - top];
  const at = (column: number, row: number) =>
    column >= 0 && row >= 0 && column < sourceSize && row < sourceSize ? image[row * sourceSize + column]! : 0;
  return (
    (1 - fy) * ((1 - fx) * at(left, top) + fx * at(left + 1, top)) +
    fy * ((1 - fx) * at(left, top + 1) + fx * at(left + 1, top + 1))
  );
}

/** A 4 × 4 grid over −1 to 1, smoothly (cosine) between the knots. */
function between(knots: Float32Array, from: number, u: number, v: number): number {
  const place = (t: number) => Math.min(Math.max((t + 1) * 1.5, 0), 2.9999);
  const [gx, gy] = [place(u), place(v)];
  const [x, y] = [Math.floor(gx), Math.floor(gy)];
  const ease = (t: number) => 0.5 - 0.5 * Math.cos(Math.PI * t);
  const [fx, fy] = [ease(gx - x), ease(gy - y)];
  const at = (column: number, row: number) => knots[from + 4 * row + column]!;
  return (1 - fy) * ((1 - fx) * at(x, y) + fx * at(x + 1, y)) + fy * ((1 - fx) * at(x, y + 1) + fx * at(x + 1, y + 1));
}
