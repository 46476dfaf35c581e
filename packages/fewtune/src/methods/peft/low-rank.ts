import type { HostTensor } from '@fewtune/engine';
import type { Random } from '../../data/random.js';

/** W ≈ Uᵀ diag(s) V: u [rank, rows] and v [rank, columns] hold one vector a row; s [rank] falls. */
export interface LowRank {
  readonly u: Float64Array;
  readonly s: Float64Array;
  readonly v: Float64Array;
}

/** Directions carried along besides those asked for: the more, the faster the rest converges. */
const oversampling = 8;

/**
 * The largest singular values of a matrix with their vectors, by subspace iteration with Rayleigh-Ritz steps (Halko,
 * Martinsson & Tropp 2011, sections 4.5 and 5, arXiv:0909.4061) in double precision. A matrix of a lower rank has zeros
 * in `s` and `u`.
 *
 * @param matrix    [rows, columns]
 * @param tolerance relative change of Σ s² of one step below which it stops; vectors are as good as its square root
 */
export function truncatedSvd(
  matrix: HostTensor,
  rank: number,
  random: Random,
  tolerance = 1e-6,
  mostSteps = 200,
): LowRank {
  const [rows, columns] = matrix.shape as [number, number];
  const w = matrix.data as Float32Array;
  const turned = transposed(w, rows, columns);
  const width = Math.min(rank + oversampling, rows, columns);
  let v = orthonormal(
    Float64Array.from({ length: width * columns }, () => random.gaussian()),
    width,
  );
  let y = products(w, rows, columns, v, width);
  let before = Number.NaN;
  for (let step = 0; step < mostSteps; step++) {
    v = orthonormal(products(turned, columns, rows, y, width), width);
    y = products(w, rows, columns, v, width);
    const { values } = symmetricEigen(gram(y, width), width);
    const energy = values.subarray(0, rank).reduce((sum, value) => sum + value, 0);
    if (Math.abs(energy - before) <= tolerance * energy || energy === 0) break;
    before = energy;
  }
  const { values, vectors } = symmetricEigen(gram(y, width), width);
  const s = Float64Array.from({ length: rank }, (_, i) => Math.sqrt(Math.max(0, values[i] ?? 0)));
  const u = rotated(y, width, vectors, rank);
  for (let i = 0; i < u.length; i++) u[i] = s[Math.floor(i / rows)]! > 0 ? u[i]! / s[Math.floor(i / rows)]! : 0;
  return { u, s, v: rotated(v, width, vectors, rank) };
}

/**
 * Eigenvalues, falling, and eigenvectors (as columns) of a symmetric matrix, by Jacobi's rotations (Golub & Van Loan,
 * Matrix Computations, section 8.5). For small ones: some dozens of rows.
 *
 * @param matrix [size, size]; is used up
 */
export function symmetricEigen(matrix: Float64Array, size: number): { values: Float64Array; vectors: Float64Array } {
  const vectors = new Float64Array(size * size);
  for (let i = 0; i < size; i++) vectors[i * size + i] = 1;
  const total = matrix.reduce((sum, value) => sum + value * value, 0);
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0;
    for (let p = 0; p < size; p++) for (let q = p + 1; q < size; q++) off += matrix[p * size + q]! ** 2;
    if (off <= 1e-30 * total) break;
    for (let p = 0; p < size; p++) {
      for (let q = p + 1; q < size; q++) {
        const apq = matrix[p * size + q]!;
        if (apq === 0) continue;
        const theta = (matrix[q * size + q]! - matrix[p * size + p]!) / (2 * apq);
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(t * t + 1);
        rotate(matrix, size, p, q, c, t * c);
        rotateColumns(vectors, size, p, q, c, t * c);
      }
    }
  }
  const order = [...Array(size).keys()].sort((a, b) => matrix[b * size + b]! - matrix[a * size + a]!);
  return {
    values: Float64Array.from(order, (i) => matrix[i * size + i]!),
    vectors: Float64Array.from({ length: size * size }, (_, at) => vectors[at - (at % size) + order[at % size]!]!),
  };
}

/** A ← JᵀAJ. */
function rotate(a: Float64Array, size: number, p: number, q: number, c: number, s: number): void {
  rotateColumns(a, size, p, q, c, s);
  for (let k = 0; k < size; k++) {
    const [x, y] = [a[p * size + k]!, a[q * size + k]!];
    a[p * size + k] = c * x - s * y;
    a[q * size + k] = s * x + c * y;
  }
}

function rotateColumns(a: Float64Array, size: number, p: number, q: number, c: number, s: number): void {
  for (let k = 0; k < size; k++) {
    const [x, y] = [a[k * size + p]!, a[k * size + q]!];
    a[k * size + p] = c * x - s * y;
    a[k * size + q] = s * x + c * y;
  }
}

/**
 * Vectors [count, n] made orthonormal in their order, in place: Gram and Schmidt, twice against rounding. One that depends
 * on those before it becomes zero.
 */
export function orthonormal(vectors: Float64Array, count: number): Float64Array {
  const n = vectors.length / count;
  for (let j = 0; j < count; j++) {
    const own = vectors.subarray(j * n, (j + 1) * n);
    const whole = Math.sqrt(dot(own, own));
    for (let again = 0; again < 2; again++) {
      for (let k = 0; k < j; k++) {
        const other = vectors.subarray(k * n, (k + 1) * n);
        const share = dot(own, other);
        for (let i = 0; i < n; i++) own[i]! -= share * other[i]!;
      }
    }
    const length = Math.sqrt(dot(own, own));
    for (let i = 0; i < n; i++) own[i] = length > 1e-12 * whole ? own[i]! / length : 0;
  }
  return vectors;
}

/**
 * W times each of some vectors.
 *
 * @param w       [rows, columns]
 * @param vectors [count, columns]
 * @returns [count, rows]
 */
export function products(
  w: Float32Array,
  rows: number,
  columns: number,
  vectors: Float64Array,
  count: number,
): Float64Array {
  const out = new Float64Array(count * rows);
  for (let row = 0; row < rows; row++) {
    const from = row * columns;
    let k = 0;
    // Four at a time: each weight is read once for them.
    for (; k + 4 <= count; k += 4) {
      const [p, q, r, s] = [k * columns, (k + 1) * columns, (k + 2) * columns, (k + 3) * columns];
      let [a, b, c, d] = [0, 0, 0, 0];
      for (let i = 0; i < columns; i++) {
        const value = w[from + i]!;
        a += value * vectors[p + i]!;
        b += value * vectors[q + i]!;
        c += value * vectors[r + i]!;
        d += value * vectors[s + i]!;
      }
      out[k * rows + row] = a;
      out[(k + 1) * rows + row] = b;
      out[(k + 2) * rows + row] = c;
      out[(k + 3) * rows + row] = d;
    }
    for (; k < count; k++) {
      let sum = 0;
      for (let i = 0; i < columns; i++) sum += w[from + i]! * vectors[k * columns + i]!;
      out[k * rows + row] = sum;
    }
  }
  return out;
}

/** [rows, columns] to [columns, rows]. */
export function transposed(data: Float32Array, rows: number, columns: number): Float32Array {
  const turned = new Float32Array(data.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) turned[column * rows + row] = data[row * columns + column]!;
  }
  return turned;
}

/** Products of some vectors with each other, [count, count]. */
function gram(vectors: Float64Array, count: number): Float64Array {
  const n = vectors.length / count;
  const product = new Float64Array(count * count);
  for (let p = 0; p < count; p++) {
    for (let q = 0; q <= p; q++) {
      const value = dot(vectors.subarray(p * n, (p + 1) * n), vectors.subarray(q * n, (q + 1) * n));
      product[p * count + q] = value;
      product[q * count + p] = value;
    }
  }
  return product;
}

/** The first `keep` combinations of some vectors [count, n], by the columns of a square matrix. */
function rotated(vectors: Float64Array, count: number, by: Float64Array, keep: number): Float64Array {
  const n = vectors.length / count;
  const out = new Float64Array(keep * n);
  for (let j = 0; j < Math.min(keep, count); j++) {
    for (let k = 0; k < count; k++) {
      const share = by[k * count + j]!;
      for (let i = 0; i < n; i++) out[j * n + i]! += share * vectors[k * n + i]!;
    }
  }
  return out;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}
