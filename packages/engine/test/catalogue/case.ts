import type { Dim, DType, HostTensor, Tensor } from '../../src/index.js';
import * as e from '../../src/index.js';

/** A size of a case: a number, or a letter that is drawn anew for each run (2..4; `k` 2..3), or made symbolic. */
export type Size = number | 'm' | 'n' | 'k';
export type Sizes = Readonly<Record<'m' | 'n' | 'k', number>>;

/** An input: float in the case's range and dtype if only its shape is given. */
export type InputSpec =
  | readonly Size[]
  | {
      readonly shape: readonly Size[];
      /** A float one is the case's. */
      readonly dtype: DType;
      /** Whole numbers `from` (0) up to `below`, excluded. */
      readonly from?: number;
      readonly below?: Size;
      /** Distinct whole numbers, for places that must not repeat. */
      readonly distinct?: boolean;
      /** The very values, where they must fit together. */
      readonly values?: readonly number[];
      /** Floats of another range. */
      readonly range?: readonly [number, number];
    };

/** One way of using one public operator. */
export interface OperatorCase {
  /** The export of `src/index.ts`. */
  readonly operator: string;
  readonly variant?: string;
  readonly inputs: readonly InputSpec[];
  /** The operator and nothing else, so that the value compares with `torch`. */
  readonly fn: (inputs: readonly Tensor[], sizes: Readonly<Record<'m' | 'n' | 'k', Dim>>) => Tensor;
  /** The same in PyTorch, of `a`, `b`, `c`, …, and sizes `m`, `n`, `k`; helpers in fixtures/operator-references.py. */
  readonly torch: string;
  /** Where float inputs lie, away from kinks and poles; [-1, 1] when left out. */
  readonly range?: readonly [number, number];
  /** Inputs without ties: multiples of 0.3, shuffled, a little shaken. */
  readonly distinct?: boolean;
  /** float64 unless ONNX Runtime's CPU has no kernel for it. */
  readonly dtype?: 'float32' | 'float64';
  /** Why there is no gradient to check. */
  readonly noGradient?: string;
  /** Why there is no second order to check. */
  readonly noSecondOrder?: string;
  /** Relative tolerance of the forward value; 1e-9 in float64, 1e-5 in float32 when left out. */
  readonly tolerance?: number;
}

export const nameOf = ({ operator, variant }: OperatorCase): string => (variant ? `${operator}, ${variant}` : operator);

/** A pseudorandom sequence in 0..1 (a linear congruence: the same everywhere). */
export function uniform(seed: number): () => number {
  let state = seed >>> 0;
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  next();
  next();
  return next;
}

export const resolve = (shape: readonly Size[], sizes: Sizes): number[] =>
  shape.map((dim) => (typeof dim === 'number' ? dim : sizes[dim]));

export const shapeOf = (spec: InputSpec): readonly Size[] => ('shape' in spec ? spec.shape : spec);
export const isFloatInput = (spec: InputSpec): boolean => !('shape' in spec) || spec.dtype.startsWith('float');

/** Numbers 0..count-1 in a random order. */
function shuffled(count: number, next: () => number): number[] {
  const order = [...Array(count).keys()];
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(next() * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

/** The inputs of a case, the same for the same seed on every machine. */
export function inputsOf(c: OperatorCase, sizes: Sizes, seed: number): HostTensor[] {
  const next = uniform(seed);
  return c.inputs.map((spec) => {
    const shape = resolve(shapeOf(spec), sizes);
    const count = e.elementCount(shape);
    const draw = (one: () => number) => Array.from({ length: count }, one);
    if (!('shape' in spec)) return e.hostTensor(c.dtype ?? 'float64', shape, floats(c, c.range, count, next));
    const type = isFloatInput(spec) ? (c.dtype ?? 'float64') : spec.dtype;
    if (spec.values) return e.hostTensor(type, shape, spec.values);
    if (isFloatInput(spec)) return e.hostTensor(type, shape, floats(c, spec.range, count, next));
    const from = spec.from ?? 0;
    const below = typeof spec.below === 'string' ? sizes[spec.below] : (spec.below ?? 2);
    const values = spec.distinct
      ? shuffled(below - from, next).slice(0, count)
      : draw(() => Math.floor(next() * (below - from)));
    return e.hostTensor(
      spec.dtype,
      shape,
      values.map((value) => value + from),
    );
  });
}

function floats(c: OperatorCase, range: readonly [number, number] = [-1, 1], count: number, next: () => number) {
  if (c.distinct) return shuffled(count, next).map((rank) => (rank - count / 2 + 0.3 * next()) * 0.3);
  return Array.from({ length: count }, () => range[0] + (range[1] - range[0]) * next());
}

/** The case as a traced scalar of all its inputs: Σ w ∘ sin(y), or for second order a weighted sum of its gradient. */
export function lossOf(c: OperatorCase, sizes: Sizes, seed: number, order: 1 | 2) {
  // A weighted sum, so that no direction is special; the sine gives linear operators a second derivative.
  const weigh = (y: Tensor, salt: number) => {
    const next = uniform(seed + salt);
    const shape = y.shape as number[];
    const weights = Array.from({ length: e.elementCount(shape) }, () => 0.5 + next());
    return e.sum(e.mul(y, e.constant(e.hostTensor(y.dtype, shape, weights))));
  };
  /** Floats apart: gradients are taken of them. */
  const split = (xs: readonly Tensor[]) => xs.filter((x) => x.dtype.startsWith('float'));
  const merge = (xs: readonly Tensor[], floats: readonly Tensor[]) => {
    const rest = [...floats];
    return xs.map((x) => (x.dtype.startsWith('float') ? rest.shift()! : x));
  };
  const first = (floats: readonly Tensor[], xs: readonly Tensor[]) => weigh(e.sin(c.fn(merge(xs, floats), sizes)), 1);
  const scalar =
    order === 1
      ? first
      : (floats: readonly Tensor[], xs: readonly Tensor[]) =>
          e
            .grad(first)(floats, xs)
            .map((g, i) => weigh(g, 2 + i))
            .reduce((a, b) => e.add(a, b));
  return (xs: readonly Tensor[]) => e.valueAndGrad(scalar)(split(xs), xs);
}

/** Gradients differ from central differences by no more: truncation and rounding at the steps below. */
export const gradientTolerance = (c: OperatorCase) => (c.dtype === 'float32' ? 5e-3 : 1e-5);

/**
 * Largest difference between gradients and central differences, relative to the largest gradient. Up to `elements` of
 * each input, drawn by the seed, are shifted.
 */
export async function gradientError(c: OperatorCase, sizes: Sizes, seed: number, order: 1 | 2, elements = 12) {
  const inputs = inputsOf(c, sizes, seed);
  const program = await e.compile(
    lossOf(c, sizes, seed, order),
    inputs.map(({ dtype, shape }) => ({ dtype, shape: shape as readonly Dim[] })),
  );
  const run = (xs: readonly HostTensor[]) => program.run(xs as never);
  const { gradient } = await run(inputs);
  const next = uniform(seed + 99);
  let worst = 0;
  let largest = 1e-3;
  let place = 0;
  for (const [i, input] of inputs.entries()) {
    if (!input.dtype.startsWith('float')) continue;
    const analytic = gradient[place++]!.data as Float64Array;
    for (const j of shuffled(input.data.length, next).slice(0, elements)) {
      const shifted = async (delta: number) => {
        const data = (input.data as Float64Array).slice();
        data[j]! += delta;
        const { value } = await run(inputs.map((x, at) => (at === i ? { ...x, data } : x)));
        return Number(value.data[0]);
      };
      const central = async (h: number) => ((await shifted(h)) - (await shifted(-h))) / (2 * h);
      // float32 drowns small steps in rounding: a large step, and Richardson's extrapolation against truncation.
      const numeric =
        input.dtype === 'float64' ? await central(1e-5) : (4 * (await central(0.02)) - (await central(0.04))) / 3;
      const error = Math.abs(numeric - analytic[j]!);
      worst = Math.max(worst, Number.isNaN(error) ? Infinity : error);
      largest = Math.max(largest, Math.abs(analytic[j]!), Math.abs(numeric));
    }
  }
  await program.dispose();
  return worst / largest;
}
