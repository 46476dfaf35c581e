import { describe, expect, test } from 'vitest';
import * as e from '../index.js';
import type { Op } from '../tensor.js';
import { apply } from '../tensor.js';

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
    expect(code(() => e.vmap(e.add)(a, b))).toContain(
      'argument 1 [4, 3] has 4 examples, that of argument 0 [2, 3] has 2',
    );
    expect(code(() => e.vmap(e.add)(a, 2))).toContain('argument 1 is number');
    expect(code(() => e.vmap(e.neg, { inAxes: 2 })(a))).toContain('argument 0 of rank 2 has no axis 2');
    expect(code(() => e.vmap(e.neg, { inAxes: null })(a))).toContain('no argument is mapped');
    expect(code(() => e.vmap(e.neg, { outAxes: null })(a))).toContain('differs from example to example');
    expect(code(() => e.vmap((p: { a: e.Tensor }) => p.a, { inAxes: [{}] })({ a }))).toContain('argument 0/a');
  });

  test('names an operator without a rule, and the line that called it', () => {
    const op: Op = { name: 'Mystery', shape: ([x]) => x!, vjp: 'none' };
    const mapped = () => e.vmap((x: e.Tensor) => apply(op, [x]))(e.constant(e.zeros('float32', [2, 3])));
    expect(mapped).toThrow(/NOT_BATCHABLE.*Mystery of \[3\].*vmap\.test\.ts:\d+/);
  });

  test('computes what no mapped argument reaches once', async () => {
    const shared: e.Tensor[] = [];
    const fn = (x: e.Tensor, w: e.Tensor) => {
      shared.push(e.exp(w));
      return e.mul(x, shared[0]!);
    };
    const y = e.vmap(fn, { inAxes: [0, null] })(e.constant(xs), e.constant(w));
    expect(y.node.inputs[1]).toBe(shared[0]);
  });
});

describe('vmap composes', () => {
  /** The mapped function against a loop over rows, both traced into one program. */
  async function agrees(fn: (x: e.Tensor, w: e.Tensor) => e.Tensor, wanted?: (x: e.Tensor, w: e.Tensor) => e.Tensor) {
    await using program = await e.compile(
      ({ xs, w }) => ({
        mapped: e.vmap(fn, { inAxes: [0, null] })(xs, w),
        rows: e.concat(
          [0, 1].map((i) => e.unsqueeze((wanted ?? fn)(e.reshape(e.slice(xs, 0, i, i + 1), [3]), w), 0)),
          0,
        ),
      }),
      { xs: f32([2, 3]), w: f32([3]) },
    );
    const { mapped, rows } = await program.run({ xs, w });
    near(mapped, rows.shape, [...rows.data].map(Number));
  }
  const loss = (w: e.Tensor, x: e.Tensor) => e.sum(e.tanh(e.mul(e.mul(w, x), e.exp(x))));

  test('with gradients of gradients, and forward derivatives', async () => {
    await agrees((x, w) => e.grad((w: e.Tensor) => e.sum(e.sin(e.grad(loss)(w, x))))(w));
    await agrees((x, w) => e.jvp((x: e.Tensor) => e.mul(e.sin(x), w), x, w).tangent);
    await agrees(
      (x, w) =>
        e.jvp(
          e.grad((x: e.Tensor) => loss(w, x)),
          x,
          w,
        ).tangent,
    );
  });

  test('with itself, inside and outside of gradients', async () => {
    const table = (a: e.Tensor, b: e.Tensor) => e.sum(e.sin(e.mul(a, b)));
    await using program = await e.compile(
      ({ xs, ys }) => {
        const pairs = (xs: e.Tensor) => e.vmap((x: e.Tensor) => e.vmap((y: e.Tensor) => table(x, y))(ys))(xs); // [xs, ys]
        const gradient = e.grad((xs: e.Tensor) => e.sum(e.mul(pairs(xs), pairs(xs))))(xs);
        return { pairs: pairs(xs), gradient };
      },
      { xs: f32(['a', 3]), ys: f32(['b', 3]) },
    );
    const rows = [0, 1].map((i) => [...xs.data.slice(3 * i, 3 * i + 3)].map(Number));
    const pair = (i: number, j: number) => rows[i]!.reduce((sum, x, k) => sum + Math.sin(x * rows[j]![k]!), 0);
    const { pairs, gradient } = await program.run({ xs, ys: xs });
    near(pairs, [2, 2], [pair(0, 0), pair(0, 1), pair(1, 0), pair(1, 1)]);
    const slope = (i: number, k: number) =>
      [0, 1].reduce((sum, j) => sum + 2 * pair(i, j) * Math.cos(rows[i]![k]! * rows[j]![k]!) * rows[j]![k]!, 0);
    near(
      gradient,
      [2, 3],
      [0, 1].flatMap((i) => [0, 1, 2].map((k) => slope(i, k))),
    );
  });

  test('with gradient rules of your own, which may use what the function closes over', async () => {
    // A wrong derivative on purpose: what comes back is the rule's, not the derived one.
    const strange = (x: e.Tensor, w: e.Tensor) =>
      e.customVjp(
        (a: e.Tensor, b: e.Tensor) => e.mul(a, b),
        ([a, b], dy) => [e.mul(dy, e.add(a, x)), e.mul(dy, e.sum(b))],
      )(x, w);
    const scalar = (x: e.Tensor, w: e.Tensor) => e.sum(e.sin(strange(x, w)));
    await agrees(scalar);
    await agrees((x, w) => e.grad((x: e.Tensor) => scalar(x, w))(x));
    await agrees((x, w) => e.grad((w: e.Tensor) => scalar(x, w))(w));
    // Gradient of the mapped function: shared arguments get the sum over the batch.
    await using program = await e.compile(
      ({ xs, w }) => {
        const total = (w: e.Tensor) => e.sum(e.vmap(scalar, { inAxes: [0, null] })(xs, w));
        return {
          outer: e.grad(total)(w),
          inner: e.sum(e.vmap((x: e.Tensor) => e.grad((w: e.Tensor) => scalar(x, w))(w))(xs), { axes: [0] }),
        };
      },
      { xs: f32(['batch', 3]), w: f32([3]) },
    );
    const { outer, inner } = await program.run({ xs, w });
    near(outer, [3], [...inner.data].map(Number));
  });

  test('with random numbers: the same for every example, others where the seed is mapped', async () => {
    await using program = await e.compile(
      ({ xs, seeds }) => ({
        same: e.vmap((x: e.Tensor) => e.add(e.mul(x, 0), e.randomUniform([3], 7)))(xs),
        others: e.vmap((seed: e.Tensor) => e.randomUniform([3], seed))(seeds),
      }),
      { xs: f32(['batch', 3]), seeds: { dtype: 'int64', shape: ['batch'] } },
    );
    const { same, others } = await program.run({ xs, seeds: e.hostTensor('int64', [2], [7, 8]) });
    expect([...same.data.slice(3)]).toEqual([...same.data.slice(0, 3)]);
    expect([...others.data.slice(0, 3)]).toEqual([...same.data.slice(0, 3)]);
    expect([...others.data.slice(3)]).not.toEqual([...same.data.slice(0, 3)]);
  });

  test('a product with a shared weight is one product of the whole batch', () => {
    const [x, weight, bias] = [[5, 4, 3], [2, 3], [2]].map((shape) => e.constant(e.zeros('float32', shape)));
    const layer = (x: e.Tensor) => e.linear(x, weight!, bias);
    const y = e.vmap(layer)(x!);
    expect(y.shape).toEqual([5, 4, 2]);
    const gemm = y.node.inputs[0]!.node;
    expect([gemm.op.name, gemm.inputs[0]!.shape]).toEqual(['Gemm', [20, 3]]);
  });
});
