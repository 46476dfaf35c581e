import fc from 'fast-check';
import { expect, test } from 'vitest';
import { lbfgs, type Objective } from './lbfgs.js';

/** Rosenbrock 1960, in pairs: minimum 0 where every entry is 1. */
const rosenbrock: Objective = (x, gradient) => {
  let value = 0;
  for (let i = 0; i < x.length; i += 2) {
    const a = 1 - x[i]!;
    const b = x[i + 1]! - x[i]! ** 2;
    value += a * a + 100 * b * b;
    gradient[i] = -2 * a - 400 * x[i]! * b;
    gradient[i + 1] = 200 * b;
  }
  return value;
};

test('finds the bottom of the Rosenbrock valley', async () => {
  const start = Float64Array.from([-1.2, 1, -1.2, 1, 2, -3]);
  const found = await lbfgs(rosenbrock, start, { gradientTolerance: 1e-8, maxIterations: 300 });
  expect(found.converged).toBe(true);
  expect(found.evaluations).toBeLessThan(150);
  for (const x of found.x) expect(x).toBeCloseTo(1, 6);
  expect([...start]).toEqual([-1.2, 1, -1.2, 1, 2, -3]);
});

test('solves any convex quadratic', async () => {
  const size = fc.integer({ min: 1, max: 8 });
  const entry = fc.double({ min: -3, max: 3, noNaN: true });
  const problem = size.chain((n) =>
    fc.record({
      scale: fc.array(fc.double({ min: 0.01, max: 100, noNaN: true }), { minLength: n, maxLength: n }),
      target: fc.array(entry, { minLength: n, maxLength: n }),
    }),
  );
  await fc.assert(
    fc.asyncProperty(problem, async ({ scale, target }) => {
      const found = await lbfgs(
        (x, gradient) =>
          scale.reduce((sum, s, i) => {
            gradient[i] = s * (x[i]! - target[i]!);
            return sum + 0.5 * s * (x[i]! - target[i]!) ** 2;
          }, 0),
        new Float64Array(scale.length),
        { gradientTolerance: 1e-7 },
      );
      // A gradient of 1e-7 over a curvature of 0.01 leaves 1e-5.
      target.forEach((t, i) => {
        expect(found.x[i]).toBeCloseTo(t, 4);
      });
    }),
    { numRuns: 50, seed: 7 },
  );
});

test('steps back from values that are not finite', async () => {
  const found = await lbfgs(
    (x, gradient) => {
      gradient[0] = 1 - 1 / x[0]!;
      return x[0]! <= 0 ? Number.NaN : x[0]! - Math.log(x[0]!);
    },
    Float64Array.of(1e-3),
    { gradientTolerance: 1e-8 },
  );
  expect(found.x[0]).toBeCloseTo(1, 6);
});

test('stops when asked', async () => {
  const promise = lbfgs(rosenbrock, Float64Array.of(-1, 1), { signal: AbortSignal.abort() });
  await expect(promise).rejects.toMatchObject({ code: 'INTERRUPTED' });
});
