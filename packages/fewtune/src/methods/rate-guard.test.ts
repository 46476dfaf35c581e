import { expect, test } from 'vitest';
import { RateGuard } from './rate-guard.js';

/** Twice the loss of a guess among five. */
const harmless = 2 * Math.log(5);

test('easy tasks: a loss far above tiny ones is no explosion, one beyond any guess is', () => {
  const guard = new RateGuard(4);
  for (const loss of [6e-4, 1e-4, 0.115, 2e-4, 1.5]) expect(guard.judge(loss, false, harmless)).toBeUndefined();
  expect(guard.judge(40, false, harmless)).toContain('rose to 40');
  expect(guard.judge(Number.POSITIVE_INFINITY, false, harmless)).toContain('Infinity');
  expect(guard.judge(0.1, true)).toContain('gradient');
});

test('hard tasks: twice the first loss is none; a rate is lowered so often, and not before a step was good', () => {
  const guard = new RateGuard(2);
  expect(guard.lower()).toBe(false);
  for (const loss of [1.6, 3.3, 1.4]) expect(guard.judge(loss, false, harmless)).toBeUndefined();
  expect([guard.lower(), guard.lower(), guard.lower(), guard.halvings]).toEqual([true, true, false, 2]);
  // What a checkpoint keeps makes the same guard.
  const again = new RateGuard(2, guard.state());
  expect(again.judge(40, false, harmless)).toBe(guard.judge(40, false, harmless));
  expect(again.lower()).toBe(false);
});
