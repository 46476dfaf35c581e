import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { OperatorCase } from './catalogue.js';
import { catalogue, gradientError, gradientTolerance, nameOf } from './catalogue.js';
import type { Column } from './record.js';
import { record } from './record.js';

/** Every differentiable operator, and its gradient, against central differences on random shapes. */
const sizes = fc.record({
  m: fc.integer({ min: 2, max: 4 }),
  n: fc.integer({ min: 2, max: 4 }),
  k: fc.integer({ min: 2, max: 3 }),
});
const named = catalogue.map((c) => ({ name: nameOf(c), c }));

function checkOrder(order: 1 | 2, column: Column, numRuns: number, without: (c: OperatorCase) => string | undefined) {
  const outcomes: Record<string, string> = {};
  for (const { name, c } of named) {
    const reason = without(c);
    if (reason) outcomes[name] = `no: ${reason}`;
  }
  test.each(named.filter(({ c }) => !without(c)))('$name', async ({ name, c }) => {
    await fc.assert(
      fc.asyncProperty(sizes, fc.integer({ min: 1, max: 1e6 }), async (at, seed) => {
        expect(await gradientError(c, at, seed, order)).toBeLessThan(gradientTolerance(c));
      }),
      { numRuns, seed: 7 },
    );
    outcomes[name] = 'yes';
  });
  test('are as recorded', () => record(column, outcomes));
}

describe('gradients agree with central differences', () => {
  checkOrder(1, 'gradient', 4, (c) => c.noGradient);
});

describe('gradients of gradients agree with central differences', () => {
  checkOrder(2, 'second-order', 2, (c) => c.noGradient ?? c.noSecondOrder);
});
