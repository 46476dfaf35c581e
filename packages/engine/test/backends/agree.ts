import { expect } from 'vitest';
import type { Result, Training } from './suite.js';

/** Values and gradients agree within `tolerance` of the largest of each output. */
export function expectAgreement(found: Result | undefined, wanted: Result, tolerance: number): void {
  if (found === undefined || typeof found === 'string' || typeof wanted === 'string') {
    throw new Error(`no numbers to compare: ${found ?? 'not run'}${typeof wanted === 'string' ? `, ${wanted}` : ''}`);
  }
  expect(Object.keys(found)).toEqual(Object.keys(wanted));
  for (const [name, values] of Object.entries(wanted)) {
    const others = found[name]!;
    expect(others.length, name).toBe(values.length);
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
    for (const [i, value] of values.entries()) {
      // An error that is NaN fails, too.
      const fits = Object.is(value, others[i]) || Math.abs(value - others[i]!) <= tolerance * largest;
      if (!fits) throw new Error(`${name}[${i}] is ${others[i]}, on the CPU ${value}`);
    }
  }
}

/** Cases that WebGPU computes otherwise, and why. */
export const otherwise: Readonly<Record<string, string>> = {
  isNan: 'no: WGSL may assume that there is no NaN',
};

/** Losses and weights of a training run agree, and going back to a snapshot repeats it bit for bit. */
export function expectSameTraining(found: Training, wanted: Training): void {
  expect(found.repeated[1]).toEqual(found.repeated[0]);
  const { losses, weights } = found;
  expectAgreement({ losses, weights }, { losses: wanted.losses, weights: wanted.weights }, 1e-4);
  expect(losses.at(-1)).toBeLessThan(losses[0]!);
}
