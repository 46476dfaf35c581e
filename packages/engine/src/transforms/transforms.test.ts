import { describe, expect, test } from 'vitest';
import * as e from '../index.js';

const f32 = (shape: readonly e.Dim[]) => ({ dtype: 'float32', shape }) as const;
const x = e.hostTensor('float32', [3], [0.5, -1, 2]);
const v = e.hostTensor('float32', [3], [1, 2, -1]);
const near = (tensor: e.HostTensor, wanted: readonly number[]) => {
  expect(tensor.data).toHaveLength(wanted.length);
  for (const [i, value] of wanted.entries()) expect(Number(tensor.data[i])).toBeCloseTo(value, 5);
};

describe('jvp', () => {
  test('is the derivative along a direction: element by element, and through a product', async () => {
    await using program = await e.compile(
      ({ x, v }) => {
        const { value, tangent } = e.jvp((x: e.Tensor) => e.sin(e.mul(x, x)), x, v);
        const outer = (p: { x: e.Tensor }) => e.matMul(e.reshape(p.x, [-1, 1]), e.reshape(p.x, [1, -1]));
        const product = e.jvp(outer, { x }, { x: v });
        return { value, tangent, trace: e.sum(product.tangent) };
      },
      { x: f32(['n']), v: f32(['n']) },
    );
    const { value, tangent, trace } = await program.run({ x, v });
    near(
      value,
      [0.5, -1, 2].map((a) => Math.sin(a * a)),
    );
    near(
      tangent,
      [
        [0.5, 1],
        [-1, 2],
        [2, -1],
      ].map(([a, b]) => Math.cos(a! * a!) * 2 * a! * b!),
    );
    // Σ (v xᵀ + x vᵀ) = 2 Σv Σx
    near(trace, [2 * 2 * 1.5]);
  });

  test('forward over reverse is a Hessian times a vector', async () => {
    const loss = (x: e.Tensor) => e.sum(e.mul(e.mul(x, x), x)); // Hessian: diag(6 x)
    await using program = await e.compile(({ x, v }) => e.jvp(e.grad(loss), x, v).tangent, {
      x: f32([3]),
      v: f32([3]),
    });
    near(await program.run({ x, v }), [3, -12, -12]);
  });

  test('vjp pulls any cotangent back', async () => {
    await using program = await e.compile(({ x, v }) => e.vjp((p: { x: e.Tensor }) => e.exp(p.x), { x }).pullBack(v), {
      x: f32([3]),
      v: f32([3]),
    });
    near((await program.run({ x, v })).x, [Math.exp(0.5), 2 * Math.exp(-1), -Math.exp(2)]);
  });
});

test('a rule of your own replaces the derived one', async () => {
  const roundThrough = e.customVjp(e.round, (_, dy) => [dy]);
  await using program = await e.compile(
    ({ x }) => e.valueAndGrad((x: e.Tensor) => e.sum(e.mul(roundThrough(x), x)))(x),
    { x: f32([3]) },
  );
  const { value, gradient } = await program.run({ x: e.hostTensor('float32', [3], [0.6, 1.2, -0.7]) });
  near(value, [1 * 0.6 + 1 * 1.2 + -1 * -0.7]);
  near(gradient, [1 + 0.6, 1 + 1.2, -1 - 0.7]); // round(x) + x · 1
});

test('fake quantisation rounds forward and lets the gradient through', async () => {
  await using program = await e.compile(({ x }) => e.valueAndGrad((x: e.Tensor) => e.sum(e.fakeQuantize(x, 4)))(x), {
    x: f32([1, 3]),
  });
  const { value, gradient } = await program.run({ x: e.hostTensor('float32', [1, 3], [0.71, -0.24, 0.07]) });
  const step = 0.71 / 7;
  near(value, [(7 - 2 + 1) * step]);
  near(gradient, [1, 1, 1]);
});

test('dequantised weights are exact, and what is multiplied by them has its gradient', async () => {
  const values = e.constant(e.hostTensor('int8', [2, 2], [-4, 2, 8, 0]));
  const scale = e.constant(e.hostTensor('float32', [2, 1], [0.5, 0.25]));
  await using program = await e.compile(
    ({ x }) => e.valueAndGrad((x: e.Tensor) => e.sum(e.linear(x, e.dequantize(values, scale))))(x),
    { x: f32([1, 2]) },
  );
  const { value, gradient } = await program.run({ x: e.hostTensor('float32', [1, 2], [1, 3]) });
  near(value, [-2 + 3 + 2]);
  near(gradient, [0, 1]);
});
