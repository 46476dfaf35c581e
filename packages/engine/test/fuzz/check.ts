import type { HostTensor, Tensor } from '../../src/index.js';
import * as e from '../../src/index.js';
import { uniform } from '../catalogue/case.js';
import { lossOf, type Program, weigh } from './generator.js';

/** How a program's gradient compares with differences, and what could not be compared. */
export interface Comparison {
  readonly compared: number;
  /** Directions in which the differences themselves do not agree: a kink is near, or rounding is too large. */
  readonly rejected: number;
  /** The largest error of those compared, relative to the largest gradient, and where. */
  readonly worst: number;
  readonly where: string;
}

export const toleranceOf = ({ dtype }: Program) => (dtype === 'float64' ? 1e-5 : 2e-2);

/** One element of each input, and in float64 a random direction as well, are followed by differences. */
export async function compare(program: Program, order: 1 | 2): Promise<Comparison> {
  const { dtype, inputs, seed } = program;
  const next = uniform(seed + 17);
  const at = inputs.map(({ shape, low, high }) =>
    e.hostTensor(
      dtype,
      shape,
      Array.from({ length: e.elementCount(shape) }, () => low + (high - low) * next()),
    ),
  );
  const value = lossOf(program);
  const scalar =
    order === 1
      ? value
      : (xs: readonly Tensor[]) =>
          e
            .grad(value)(xs)
            .map((g, i) => weigh(g, seed + 40 + i))
            .reduce((a, b) => e.add(a, b));
  const compiled = await e.compile(
    (xs: readonly Tensor[]) => e.valueAndGrad(scalar)(xs),
    at.map(({ shape }) => ({ dtype, shape })),
  );
  try {
    const evaluate = async (xs: readonly HostTensor[]) => compiled.run(xs as never);
    const start = await evaluate(at);
    const centre = Number(start.value.data[0]);
    const gradients = (start.gradient as unknown as HostTensor[]).map(({ data }) => [...data].map(Number));
    if (![centre, ...gradients.flat()].every(Number.isFinite)) {
      return { compared: 1, rejected: 0, worst: Number.POSITIVE_INFINITY, where: 'a value or gradient is not finite' };
    }
    const scale = Math.max(0.1, ...gradients.flat().map(Math.abs));
    const tolerance = toleranceOf(program);
    let [compared, rejected, worst, where] = [0, 0, 0, ''];
    for (const [i, input] of at.entries()) {
      for (const direction of directionsOf(input.data.length, dtype, next)) {
        const along = async (h: number) => {
          const data = (input.data as Float64Array).map((x, j) => x + h * direction[j]!);
          const { value } = await evaluate(at.map((x, j) => (j === i ? { ...x, data } : x)));
          return Number(value.data[0]);
        };
        const h = dtype === 'float64' ? 2e-6 : 1e-2;
        const [a, b, c, d] = [await along(-2 * h), await along(-h), await along(h), await along(2 * h)];
        const [fine, coarse] = [(c - b) / (2 * h), (d - a) / (4 * h)];
        // Second differences over h: they double with h where the function is smooth, and stay where it has a kink.
        const [bend, wide] = [(c - 2 * centre + b) / h, (d - 2 * centre + a) / (2 * h)];
        const doubtful = Math.abs(fine - coarse) > tolerance * scale || Math.abs(wide - 2 * bend) > tolerance * scale;
        if (doubtful) {
          rejected++;
          continue;
        }
        compared++;
        const analytic = gradients[i]!.reduce((sum, g, j) => sum + g * direction[j]!, 0);
        const numeric = dtype === 'float64' ? fine : (4 * fine - coarse) / 3;
        const error = Math.abs(numeric - analytic) / scale;
        if (error > worst) {
          const element =
            direction.filter((x) => x !== 0).length === 1 ? `[${direction.indexOf(1)}]` : ' (a direction)';
          [worst, where] = [error, `${inputs[i]!.name}${element}: gradient ${analytic}, differences ${numeric}`];
        }
      }
    }
    return { compared, rejected, worst, where };
  } finally {
    await compiled.dispose();
  }
}

function directionsOf(count: number, dtype: string, next: () => number): number[][] {
  const element = Math.floor(next() * count);
  const one = Array.from({ length: count }, (_, i) => Number(i === element));
  const length = Math.sqrt(count);
  return dtype === 'float64' ? [one, Array.from({ length: count }, () => (2 * next() - 1) / length)] : [one];
}
