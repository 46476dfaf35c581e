import { expect, test } from 'vitest';
import * as e from '../src/index.js';
import type { OperatorCase } from './catalogue.js';
import { as32, catalogue, forwardSeed, forwardSizes, inputsOf, lossOf, nameOf } from './catalogue.js';

/** The case with its float arguments in float16 and everything after them under the policy. */
const lowered = (c: OperatorCase): OperatorCase => ({
  ...c,
  fn: (xs, sizes) => {
    const halves = xs.map((x) => (x.dtype === 'float32' ? e.cast(x, 'float16') : x));
    return e.withPrecision((ys: readonly e.Tensor[]) => c.fn(ys, sizes), e.float16Compute)(halves);
  },
});

const cases = catalogue.filter((c) => !c.noGradient).map((c) => ({ name: nameOf(c), c: as32(c) }));

test.each(cases)('$name in float16', async ({ c }) => {
  const inputs = inputsOf(c, forwardSizes, forwardSeed);
  const run = async (which: OperatorCase) => {
    const specs = inputs.map(({ dtype, shape }) => ({ dtype, shape }));
    await using program = await e.compile(
      (xs: readonly e.Tensor[]) => lossOf(which, forwardSizes, forwardSeed, 1)(xs),
      specs,
    );
    return tensorsOf(await program.run(inputs as never));
  };
  const [wanted, got] = [await run(c), await run(lowered(c))];
  for (const [i, { data }] of wanted.entries()) {
    const exact = Array.from(data as Float32Array);
    const largest = Math.max(1, ...exact.map(Math.abs));
    const worst = Math.max(...exact.map((value, j) => Math.abs(Number(got[i]!.data[j]) - value)));
    expect(worst / largest).toBeLessThan(0.05);
  }
});

const tensorsOf = (tree: unknown): e.HostTensor[] => {
  if (typeof tree === 'object' && tree !== null && ArrayBuffer.isView((tree as e.HostTensor).data))
    return [tree as e.HostTensor];
  return Object.values(tree as Record<string, unknown>).flatMap(tensorsOf);
};
