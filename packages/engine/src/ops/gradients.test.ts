import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Dim, DType, HostTensor, Tensor } from '../index.js';
import * as e from '../index.js';

/**
 * Every differentiable operator: gradients, and gradients of gradients, against central differences on random shapes,
 * broadcast ones included.
 */
interface Case {
  readonly name: string;
  /** Shapes of the inputs; `m`, `n`, `k` are drawn anew for each run, 1 stays 1. */
  readonly shapes: readonly (readonly (string | number)[])[];
  readonly fn: (inputs: readonly Tensor[], sizes: Sizes) => Tensor;
  /** Where inputs may lie: away from kinks, poles and ties. */
  readonly range?: readonly [number, number];
  /** float64 unless ONNX Runtime has no kernel for it. */
  readonly dtype?: 'float32' | 'float64';
  readonly secondOrder?: false;
}
type Sizes = { m: number; n: number; k: number };

const index = (values: number[], shape = [values.length]): Tensor => e.constant(e.hostTensor('int64', shape, values));
const unary = (name: string, fn: (x: Tensor) => Tensor, rest: Partial<Case> = {}): Case => ({
  name,
  shapes: [['m', 'n']],
  fn: ([x]) => fn(x!),
  ...rest,
});
const binary = (name: string, fn: (a: Tensor, b: Tensor) => Tensor, rest: Partial<Case> = {}): Case[] =>
  [
    [
      ['m', 'n'],
      ['m', 'n'],
    ],
    [['m', 'n'], ['n']],
    [
      ['m', 1],
      [1, 'n'],
    ],
    [
      ['k', 'm', 'n'],
      ['m', 1],
    ],
    [[], ['m', 'n']],
  ].map((shapes) => ({ name: `${name} ${JSON.stringify(shapes)}`, shapes, fn: ([a, b]) => fn(a!, b!), ...rest }));

const positive = { range: [0.5, 2] } as const;
/** Distinct values a few tenths apart, in the order of a fixed permutation: no ties. */
const spread = (x: Tensor): Tensor => {
  const count = x.shape.reduce<number>((total, dim) => total * (dim as number), 1);
  const steps = Array.from({ length: count }, (_, i) => (((i * 7 + 3) % 11) + i / count) * 3);
  return e.add(x, e.constant(e.hostTensor(x.dtype, x.shape as number[], steps)));
};

const cases: Case[] = [
  ...binary('add', e.add),
  ...binary('sub', e.sub),
  ...binary('mul', e.mul),
  ...binary('div', e.div, positive),
  ...binary('maximum', (a, b) => e.maximum(e.add(a, 3), e.mul(b, b))),
  ...binary('minimum', (a, b) => e.minimum(e.sub(a, 3), b)),
  ...binary('where', (a, b) => e.where(e.greater(e.stopGradient(a), 0), e.mul(a, a), b)),
  unary('neg', e.neg),
  unary('exp', e.exp),
  unary('log', e.log, positive),
  unary('sqrt', e.sqrt, positive),
  unary('abs', e.abs, positive),
  unary('sign times x', (x) => e.mul(e.sign(x), x), positive),
  unary('sin', e.sin),
  unary('cos', e.cos),
  unary('tanh', e.tanh),
  unary('sigmoid', e.sigmoid),
  unary('erf', e.erf, { dtype: 'float32' }),
  unary('gelu', e.gelu, { dtype: 'float32' }),
  unary('relu of positive', e.relu, positive),
  unary('relu of negative', e.relu, { range: [-2, -0.5] }),
  unary('pow 3', (x) => e.pow(x, 3)),
  unary('pow -0.5', (x) => e.pow(x, -0.5), positive),
  unary('cast', (x) => e.cast(e.cast(x, 'float64'), 'float32'), { dtype: 'float32', secondOrder: false }),
  unary('sum all', (x) => e.sum(e.mul(x, x))),
  unary('sum axis', (x) => e.sum(e.mul(x, x), { axes: [0] })),
  unary('sum keepDims', (x) => e.mul(x, e.sum(x, { axes: [1], keepDims: true }))),
  unary('mean', (x) => e.mul(x, e.mean(x, { axes: [-1], keepDims: true }))),
  unary('mean all', (x) => e.mul(x, e.mean(x))),
  unary('max', (x) => e.mul(e.max(spread(x), { axes: [1] }), 2)),
  unary('expand', (x) => e.exp(e.expand(e.reshape(x, [...x.shape, 1]), [...x.shape, 3]))),
  unary('reshape', (x) => e.exp(e.reshape(x, [-1]))),
  unary('unsqueeze', (x) => e.exp(e.unsqueeze(x, 0, -1))),
  unary('transpose', (x) => e.mul(e.transpose(x), 2)),
  { name: 'transpose perm', shapes: [['m', 'n', 'k']], fn: ([x]) => e.exp(e.transpose(x!, [2, 0, 1])) },
  unary('slice', (x) => e.exp(e.slice(x, 1, 1, 2))),
  unary('pad', (x) => e.mul(e.pad(x, 0, 1, 8), 3)),
  {
    name: 'concat',
    shapes: [
      ['m', 'n'],
      ['m', 'k'],
    ],
    fn: ([a, b]) => e.exp(e.concat([a!, b!], 1)),
  },
  unary('gather', (x) => e.exp(e.gather(x, index([1, 0, 1, 1], [2, 2])))),
  unary('scatterAdd', (x) => e.exp(e.scatterAdd(e.gather(x, index([0, 1, 1])), index([2, 0, 2]), 4))),
  unary('moveRows', (x) => {
    // Two rows put into three places, the last of which is padding that is masked out again.
    const rows = e.slice(x, 0, 0, 2);
    const padded = e.moveRows(rows, index([1, 0, 0]), index([1, 0]));
    const shown = e.mul(padded, e.constant(e.hostTensor(x.dtype, [3, 1], [1, 1, 0])));
    const live = e.constant(e.hostTensor(x.dtype, [3], [1, 1, 0]));
    return e.exp(e.moveRows(shown, index([1, 0]), index([1, 0, 0]), live));
  }),
  unary('cumSum', (x) => e.exp(e.mul(e.cumSum(x, 1), 0.3))),
  unary('softmax', (x) => e.softmax(x)),
  unary('softmax axis 0', (x) => e.softmax(x, 0)),
  unary('logSoftmax', (x) => e.logSoftmax(x)),
  unary('l2Normalize', (x) => e.l2Normalize(x), positive),
  unary('dropout', (x) => e.dropout(e.mul(x, x), 0.4, 3)),
  {
    name: 'layerNorm, fused',
    dtype: 'float32',
    shapes: [['m', 5], [5], [5]],
    fn: ([x, scale, bias]) => e.layerNorm(spread(x!), scale!, bias!),
  },

  {
    name: 'layerNorm, written out',
    shapes: [['m', 5], [5], [5]],
    fn: ([x, scale, bias]) => e.layerNorm(spread(x!), scale!, bias!),
  },
  { name: 'crossEntropy', shapes: [[3, 'n']], fn: ([x]) => e.crossEntropy(x!, index([0, 1, 1])) },
  {
    name: 'matMul',
    shapes: [
      ['m', 'k'],
      ['k', 'n'],
    ],
    fn: ([a, b]) => e.matMul(a!, b!),
  },
  {
    name: 'matMul alpha',
    shapes: [
      ['m', 'k'],
      ['k', 'n'],
    ],
    fn: ([a, b]) => e.matMul(a!, b!, { alpha: 0.5 }),
  },
  ...[false, true].flatMap((transposeA) =>
    [false, true].map(
      (transposeB): Case => ({
        name: `matMul transposeA ${transposeA} transposeB ${transposeB}`,
        shapes: [transposeA ? ['k', 'm'] : ['m', 'k'], transposeB ? ['n', 'k'] : ['k', 'n']],
        fn: ([a, b]) => e.matMul(a!, b!, { transposeA, transposeB }),
      }),
    ),
  ),
  {
    name: 'matMul batched, transposed, scaled',
    dtype: 'float32',
    shapes: [
      [2, 'k', 'm'],
      [2, 'n', 'k'],
    ],
    fn: ([a, b]) => e.matMul(a!, b!, { transposeA: true, transposeB: true, alpha: 2 }),
  },
  {
    name: 'matMul batched, broadcast',
    shapes: [
      [2, 1, 'm', 'k'],
      [3, 'k', 'n'],
    ],
    fn: ([a, b]) => e.matMul(a!, b!),
  },
  {
    name: 'matMul with a weight',
    shapes: [
      [2, 'm', 'k'],
      ['k', 'n'],
    ],
    fn: ([a, b]) => e.matMul(a!, b!),
  },
  {
    name: 'matMul of a transpose',
    shapes: [
      ['m', 'k'],
      ['n', 'k'],
    ],
    fn: ([a, b]) => e.matMul(a!, e.transpose(b!)),
  },
  { name: 'linear', shapes: [[2, 'm', 'k'], ['n', 'k'], ['n']], fn: ([x, w, b]) => e.linear(x!, w!, b!) },
  {
    name: 'linear without bias',
    shapes: [
      ['m', 'k'],
      ['n', 'k'],
    ],
    fn: ([x, w]) => e.linear(x!, w!),
  },
  unary('silu', e.silu),
  unary('softplus', e.softplus, positive),
  unary('leakyRelu of negative', (x) => e.leakyRelu(x, 0.1), { range: [-2, -0.5] }),
  unary('elu of negative', e.elu, { range: [-2, -0.5] }),
  unary('hardSwish', e.hardSwish),
  unary('geluTanh', e.geluTanh),
  unary('clip inside', (x) => e.mul(e.clip(x, -3, 3), x)),
  unary('min', (x) => e.mul(e.min(spread(x), { axes: [1] }), 2)),
  unary('logSumExp', (x) => e.logSumExp(x, { axes: [1] })),
  unary('sumSquares', (x) => e.mul(x, e.sumSquares(x, { axes: [1], keepDims: true }))),
  unary('l2Norm', (x) => e.l2Norm(x, { axes: [1] }), positive),
  unary('floor times x', (x) => e.mul(e.floor(e.stopGradient(x)), x)),
  unary('split', (x) =>
    e.mul(
      ...(e
        .split(
          e.concat([x, e.exp(x)], 1),
          [2, 2].map((_, i) => (i === 0 ? 1 : 2 * (x.shape[1] as number) - 1)),
        )
        .map((part) => e.sum(part)) as [Tensor, Tensor]),
    ),
  ),
  unary('tile', (x) => e.exp(e.tile(x, [2, 3]))),
  unary('gatherElements', (x) => e.exp(e.gatherElements(e.slice(x, 0, 0, 2), index([1, 0, 1, 1], [2, 2]), 1))),
  unary('scatterElements', (x) =>
    e.exp(e.scatterElements(e.slice(e.slice(x, 0, 0, 2), 1, 0, 2), index([2, 0, 1, 1], [2, 2]), 1, 4)),
  ),
  unary('topK', (x) => e.exp(e.mul(e.topK(spread(x), 2).values, 0.1))),
  unary('rmsNorm', (x) => e.rmsNorm(x, e.slice(e.reshape(x, [-1]), 0, 0, x.shape[1] as number)), positive),
  {
    name: 'groupNorm',
    dtype: 'float32',
    shapes: [['m', 4, 3], [4], [4]],
    fn: ([x, scale, bias]) => e.groupNorm(spread(x!), 2, scale!, bias!),
  },
  {
    name: 'batchNorm',
    shapes: [['m', 2, 3], [2], [2]],
    fn: ([x, scale, bias]) => e.batchNorm(spread(x!), scale!, bias!).y,
  },
  { name: 'einsum, one', shapes: [['m', 'n', 'k']], fn: ([x]) => e.exp(e.einsum('abc->ca', x!)) },
  {
    name: 'einsum, product',
    shapes: [
      ['m', 'k'],
      ['k', 'n'],
    ],
    fn: ([a, b]) => e.einsum('ik,kj->ji', a!, b!),
  },
  {
    name: 'einsum, batched',
    shapes: [
      [2, 'm', 3, 'k'],
      [2, 'n', 3, 'k'],
    ],
    fn: ([a, b]) => e.einsum('bqhd,bkhd->bhqk', a!, b!),
  },
  { name: 'einsum, outer', shapes: [['m'], ['n']], fn: ([a, b]) => e.einsum('i,j->ij', a!, b!) },
  {
    name: 'attention, causal',
    shapes: [
      [2, 3, 'k'],
      [2, 3, 'k'],
      [2, 3, 'n'],
    ],
    dtype: 'float32',
    fn: ([q, k, v]) => e.attention(q!, k!, v!, { causal: true }),
  },
  {
    name: 'rotary',
    shapes: [
      ['m', 3, 4],
      [3, 2],
      [3, 2],
    ],
    fn: ([x, cosine, sine]) => e.rotary(x!, cosine!, sine!),
  },
  {
    name: 'conv 1-D, stride, padding',
    shapes: [[2, 2, 7], [3, 2, 3], [3]],
    dtype: 'float32',
    fn: ([x, w, b]) => e.conv(x!, w!, b, { stride: 2, padding: 1 }),
  },
  {
    name: 'conv 2-D',
    shapes: [
      ['m', 2, 4, 5],
      [3, 2, 2, 3],
    ],
    dtype: 'float32',
    fn: ([x, w]) => e.conv(x!, w!),
  },
  {
    name: 'conv 2-D, stride 2 that does not divide, dilation, groups',
    shapes: [
      [2, 4, 6, 7],
      [6, 2, 2, 2],
    ],
    dtype: 'float32',
    fn: ([x, w]) => e.conv(x!, w!, undefined, { stride: 2, padding: 1, dilation: 2, groups: 2 }),
  },
  {
    name: 'conv depthwise',
    shapes: [
      [1, 3, 5, 5],
      [3, 1, 3, 3],
    ],
    dtype: 'float32',
    fn: ([x, w]) => e.conv(x!, w!, undefined, { padding: 1, groups: 3 }),
  },
  {
    name: 'convTranspose',
    shapes: [[2, 2, 3, 3], [2, 3, 3, 3], [3]],
    dtype: 'float32',
    fn: ([x, w, b]) => e.convTranspose(x!, w!, b, { stride: 2, padding: 1, outputPadding: 1 }),
  },
  {
    name: 'maxPool',
    shapes: [[2, 2, 4, 4]],
    dtype: 'float32',
    fn: ([x]) => e.exp(e.mul(e.maxPool(spread(x!), { kernel: 2 }), 0.1)),
  },
  {
    name: 'maxPool, overlapping',
    shapes: [[1, 2, 5, 5]],
    dtype: 'float32',
    fn: ([x]) => e.exp(e.mul(e.maxPool(spread(x!), { kernel: 3, stride: 2, padding: 1 }), 0.1)),
  },
  {
    name: 'averagePool',
    shapes: [[2, 2, 4, 4]],
    dtype: 'float32',
    fn: ([x]) => e.exp(e.averagePool(x!, { kernel: 2 })),
  },
  { name: 'globalAveragePool', shapes: [['m', 2, 'n', 3]], fn: ([x]) => e.exp(e.globalAveragePool(x!)) },
];

const sizes = fc.record({
  m: fc.integer({ min: 2, max: 4 }),
  n: fc.integer({ min: 2, max: 4 }),
  k: fc.integer({ min: 2, max: 3 }),
});

function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const random = (dtype: DType, shape: readonly number[], [low, high]: readonly [number, number], next: () => number) =>
  e.hostTensor(
    dtype,
    shape,
    Array.from({ length: e.elementCount(shape) }, () => low + (high - low) * next()),
  );

/** Largest difference between the gradients and central differences, relative to the largest gradient. */
async function gradientError(
  { fn, shapes, dtype = 'float64', range = [-1, 1] }: Case,
  at: Sizes,
  seed: number,
  order: 1 | 2,
) {
  const next = uniform(seed);
  const resolve = (shape: readonly (string | number)[]) =>
    shape.map((dim) => (typeof dim === 'number' ? dim : at[dim as keyof Sizes]));
  const inputs = shapes.map((shape) => random(dtype, resolve(shape), range, next));
  /** A weighted sum, so that no direction is special. */
  const weigh = (y: Tensor, salt: number) =>
    e.sum(e.mul(y, e.constant(random(y.dtype, y.shape as number[], [0.5, 1.5], uniform(seed + salt)))));
  const first = (xs: readonly Tensor[]) => weigh(fn(xs, at), 1);
  const scalar =
    order === 1
      ? first
      : (xs: readonly Tensor[]) =>
          e
            .grad(first)(xs)
            .map((g, i) => weigh(g, 2 + i))
            .reduce((a, b) => e.add(a, b));
  const program = await e.compile(
    (xs: readonly Tensor[]) => e.valueAndGrad(scalar)(xs),
    inputs.map(({ dtype, shape }) => ({ dtype, shape: shape as readonly Dim[] })),
  );
  const run = async (xs: readonly HostTensor[]) => program.run(xs);
  const { gradient } = await run(inputs);
  const epsilon = dtype === 'float64' ? 1e-5 : 5e-3;
  let worst = 0;
  let largest = 1e-3;
  for (const [i, input] of inputs.entries()) {
    const analytic = gradient[i]!.data as Float64Array;
    for (let j = 0; j < input.data.length; j++) {
      const shifted = async (delta: number) => {
        const data = (input.data as Float64Array).slice();
        data[j]! += delta;
        const { value } = await run(inputs.map((x, at) => (at === i ? { ...x, data } : x)));
        return Number(value.data[0]);
      };
      const numeric = ((await shifted(epsilon)) - (await shifted(-epsilon))) / (2 * epsilon);
      worst = Math.max(worst, Math.abs(numeric - analytic[j]!));
      largest = Math.max(largest, Math.abs(analytic[j]!), Math.abs(numeric));
    }
  }
  await program.dispose();
  return worst / largest;
}

// float64: truncation near 1e-10, rounding near 1e-9 at a step of 1e-5. float32: both near 1e-3 at a step of 5e-3.
const tolerance = (dtype: string | undefined) => (dtype === 'float32' ? 1e-2 : 1e-5);

describe('gradients agree with central differences', () => {
  test.each(cases)('$name', async (c) => {
    await fc.assert(
      fc.asyncProperty(sizes, fc.integer({ min: 1, max: 1e6 }), async (at, seed) => {
        expect(await gradientError(c, at, seed, 1)).toBeLessThan(tolerance(c.dtype));
      }),
      { numRuns: 4, seed: 7 },
    );
  });
});

describe('gradients of gradients agree with central differences', () => {
  test.each(cases.filter((c) => c.secondOrder !== false))('$name', async (c) => {
    await fc.assert(
      fc.asyncProperty(sizes, fc.integer({ min: 1, max: 1e6 }), async (at, seed) => {
        expect(await gradientError(c, at, seed, 2)).toBeLessThan(tolerance(c.dtype));
      }),
      { numRuns: 2, seed: 7 },
    );
  });
});
