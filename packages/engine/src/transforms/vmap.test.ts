import { describe, expect, test } from 'vitest';
import * as e from '../index.js';

const f32 = (shape: readonly e.Dim[]) => ({ dtype: 'float32', shape }) as const;
const near = (tensor: e.HostTensor, shape: readonly number[], wanted: readonly number[]) => {
  expect(tensor.shape).toEqual(shape);
  for (const [i, value] of wanted.entries()) expect(Number(tensor.data[i])).toBeCloseTo(value, 5);
};
const xs = e.hostTensor('float32', [2, 3], [0.5, -1, 2, 1, 0, -0.5]);
const w = e.hostTensor('float32', [3], [1, 2, -1]);

describe('vmap', () => {
  test('of a gradient: one gradient an example, for any number of examples', async () => {
    const loss = (w: e.Tensor, x: e.Tensor) => e.sum(e.mul(e.mul(w, x), e.mul(w, x)));
    await using program = await e.compile(({ xs, w }) => e.vmap(e.grad(loss), { inAxes: [null, 0] })(w, xs), {
      xs: f32(['batch', 3]),
      w: f32([3]),
    });
    const wanted = [...xs.data].map((x, i) => 2 * Number(w.data[i % 3]) * Number(x) ** 2);
    near(await program.run({ xs, w }), [2, 3], wanted);
  });

  test('maps any axis, and puts the batch anywhere', async () => {
    const fn = ({ a, b }: { a: e.Tensor; b: e.Tensor }) => ({ sum: e.add(a, b), twice: e.mul(b, 2) });
    await using program = await e.compile(
      (inputs) => e.vmap(fn, { inAxes: [{ a: 1, b: null }], outAxes: { sum: -1, twice: null } })(inputs),
      { a: f32([3, 2]), b: f32([3]) },
    );
    const a = e.hostTensor('float32', [3, 2], [1, 2, 3, 4, 5, 6]);
    const { sum, twice } = await program.run({ a, b: w });
    near(sum, [3, 2], [2, 3, 5, 6, 4, 5]);
    near(twice, [3], [2, 4, -2]);
  });

  test('says what does not fit', () => {
    const [a, b] = [e.constant(e.zeros('float32', [2, 3])), e.constant(e.zeros('float32', [4, 3]))];
    const code = (fn: () => unknown) => {
      try {
        fn();
      } catch (error) {
        return (error as Error).message;
      }
      return 'nothing';
    };
    expect(code(() => e.vmap(e.add)(a, b))).toContain('argument 1 [4, 3] has 4 examples, that of argument 0 2');
    expect(code(() => e.vmap(e.add)(a, 2))).toContain('argument 1 is number');
    expect(code(() => e.vmap(e.neg, { inAxes: 2 })(a))).toContain('argument 0 of rank 2 has no axis 2');
    expect(code(() => e.vmap(e.neg, { inAxes: null })(a))).toContain('no argument is mapped');
    expect(code(() => e.vmap(e.neg, { outAxes: null })(a))).toContain('differs from example to example');
    expect(code(() => e.vmap((p: { a: e.Tensor }) => p.a, { inAxes: [{}] })({ a }))).toContain('argument 0/a');
  });
});
