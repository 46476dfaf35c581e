import type { Tensor } from '../../src/index.js';
import * as e from '../../src/index.js';
import { broadcast, type Generator, type OperatorMaker, type Step, type Value } from './generator.js';

type Range = readonly [number, number];
const rangeOf = ({ low, high }: Value): Range => [low, high];
const hull = (...bounds: number[]): Range => [Math.min(...bounds), Math.max(...bounds)];
const times = ([a, b]: Range, [c, d]: Range): Range => hull(a * c, a * d, b * c, b * d);
const scaled = ([a, b]: Range, factor: number): Range => hull(a * factor, b * factor);
const withZero = ([a, b]: Range): Range => hull(a, b, 0);
const sizeOf = (x: Value) => e.elementCount(x.shape);
const whole = (values: number[], shape = [values.length]): Tensor => e.constant(e.hostTensor('int64', shape, values));

/** One operand; `range` says which values it takes, and what comes of them. */
const unary =
  (text: string, fn: (x: Tensor) => Tensor, range: (bounds: Range) => Range | undefined): OperatorMaker =>
  (g) => {
    const x = g.value((value) => range(rangeOf(value)) !== undefined);
    return x && { inputs: [x], text: text.replaceAll('$', x.name), fn, range: range(rangeOf(x))! };
  };

/** Two operands that broadcast. */
const binary =
  (
    text: string,
    fn: (a: Tensor, b: Tensor) => Tensor,
    range: (a: Range, b: Range) => Range,
    other: { fits?: (value: Value) => boolean; draw?: Range } = {},
  ): OperatorMaker =>
  (g) => {
    const a = g.value();
    if (!a) return undefined;
    const b = g.partner(a, other.fits, other.draw);
    const inputs = other.fits || g.chance(0.5) ? [a, b] : [b, a];
    const [x, y] = inputs as [Value, Value];
    if (!broadcast(x.shape, y.shape)) return undefined;
    return { inputs, text: `${text}(${x.name}, ${y.name})`, fn, range: range(rangeOf(x), rangeOf(y)) };
  };

/** One operand with an axis to choose. */
const alongAxis =
  (
    make: (x: Value, axis: number, g: Generator) => Omit<Step, 'inputs'> | undefined,
    fits: (x: Value) => boolean = () => true,
  ): OperatorMaker =>
  (g) => {
    const x = g.value((value) => value.shape.length > 0 && fits(value));
    if (!x) return undefined;
    const step = make(x, g.int(0, x.shape.length - 1), g);
    return step && { inputs: [x], ...step };
  };

const inside = (low: number, high: number, map: (x: number) => number) => (range: Range) =>
  range[0] >= low && range[1] <= high ? hull(map(range[0]), map(range[1])) : undefined;
const always = (low: number, high: number) => (): Range => [low, high];

const elementwise: OperatorMaker[] = [
  binary('add', e.add, (a, b) => [a[0] + b[0], a[1] + b[1]]),
  binary('sub', e.sub, (a, b) => [a[0] - b[1], a[1] - b[0]]),
  binary('mul', e.mul, times),
  binary('mul', e.mul, times),
  binary('div', e.div, (a, b) => times(a, [1 / b[1], 1 / b[0]]), { fits: (y) => y.low >= 0.4, draw: [0.5, 2] }),
  binary('maximum', e.maximum, (a, b) => [Math.max(a[0], b[0]), Math.max(a[1], b[1])]),
  binary('minimum', e.minimum, (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1])]),
  binary(
    'where greater',
    (a, b) => e.where(e.greater(a, b), e.mul(a, b), b),
    (a, b) => hull(...times(a, b), ...b),
  ),
  (g) => {
    const base = g.value(({ low, high }) => low >= 0.3 && high <= 6);
    const exponent = base && g.partner(base, ({ low, high }) => low >= -2 && high <= 2);
    if (!base || !exponent) return undefined;
    const bounds = [base.low, base.high].flatMap((a) => [exponent.low, exponent.high].map((b) => a ** b));
    const range = hull(...bounds, 1);
    return { inputs: [base, exponent], text: `pow(${base.name}, ${exponent.name})`, fn: e.pow, range };
  },
  unary('neg($)', e.neg, ([a, b]) => [-b, -a]),
  unary('exp($)', e.exp, inside(-20, 2.5, Math.exp)),
  unary('log($)', e.log, inside(0.2, 100, Math.log)),
  unary('sqrt($)', e.sqrt, inside(0.1, 100, Math.sqrt)),
  unary(
    'reciprocal($)',
    e.reciprocal,
    inside(0.3, 100, (x) => 1 / x),
  ),
  unary('abs($)', e.abs, ([a, b]) => [a <= 0 && b >= 0 ? 0 : Math.min(Math.abs(a), Math.abs(b)), Math.max(-a, b)]),
  unary('sin($)', e.sin, always(-1, 1)),
  unary('cos($)', e.cos, always(-1, 1)),
  unary('tanh($)', e.tanh, always(-1, 1)),
  unary('sigmoid($)', e.sigmoid, (r) => inside(-40, 40, (x) => 1 / (1 + Math.exp(-x)))(r)),
  unary('add(sigmoid($), 0.5)', (x) => e.add(e.sigmoid(x), 0.5), always(0.5, 1.5)),
  unary('relu($)', e.relu, ([a, b]) => [Math.max(a, 0), Math.max(b, 0)]),
  unary(
    'leakyRelu($)',
    (x) => e.leakyRelu(x, 0.2),
    ([a, b]) => withZero([a, b]),
  ),
  unary('silu($)', e.silu, withZero),
  unary('softplus($)', e.softplus, ([a, b]) => [0, Math.max(a, b, 0) + 0.7]),
  unary('elu($)', e.elu, ([a, b]) => [Math.min(0, Math.max(a, -1)), Math.max(b, 0)]),
  unary('hardSwish($)', e.hardSwish, ([a, b]) => hull(a, b, -0.5, 0)),
  unary('mish($)', e.mish, ([a, b]) => hull(a, b, -0.5, 0)),
  unary('softsign($)', e.softsign, always(-1, 1)),
  unary('geluTanh($)', e.geluTanh, ([a, b]) => hull(a, b, -0.2, 0)),
  unary('clip($, -0.5, 1)', (x) => e.clip(x, -0.5, 1), always(-0.5, 1)),
  unary(
    'pow($, 3)',
    (x) => e.pow(x, 3),
    (r) => inside(-3, 3, (x) => x ** 3)(r),
  ),
  unary(
    'mul($, floor($))',
    (x) => e.mul(x, e.floor(x)),
    (r) => withZero(times(r, [r[0] - 1, r[1]])),
  ),
  unary(
    'stopGradient(sin($)) * $',
    (x) => e.mul(e.stopGradient(e.constant(e.hostTensor(x.dtype, [], [0.7]))), x),
    (r) => scaled(r, 0.7),
  ),
];

const reducers: [string, (x: Tensor, o: e.ReduceOptions) => Tensor, (r: Range, n: number) => Range | undefined][] = [
  ['sum', e.sum, (r, n) => scaled(r, n)],
  ['mean', e.mean, (r) => r],
  ['max', e.max, (r) => r],
  ['min', e.min, (r) => r],
  ['logSumExp', e.logSumExp, ([a, b], n) => [a, b + Math.log(n)]],
  ['l2Norm', e.l2Norm, ([a, b], n) => (a >= 0.2 ? [a, b * Math.sqrt(n)] : undefined)],
  ['sumSquares', e.sumSquares, ([a, b], n) => [0, Math.max(a * a, b * b) * n]],
  ['l1Norm', e.l1Norm, ([a, b], n) => [0, Math.max(-a, b) * n]],
  [
    'prod',
    e.prod,
    ([a, b], n) => {
      const most = Math.max(-a, b, 1) ** n;
      return [-most, most];
    },
  ],
];

const reductions: OperatorMaker[] = reducers.map(([name, reduce, range]) => (g) => {
  const x = g.value(({ shape }) => shape.length > 0);
  if (!x) return undefined;
  const axes = [...x.shape.keys()].filter(() => g.chance(0.5));
  if (axes.length === 0) axes.push(g.int(0, x.shape.length - 1));
  const keepDims = g.chance(0.5);
  const bounds = range(rangeOf(x), e.elementCount(axes.map((axis) => x.shape[axis]!)));
  return (
    bounds && {
      inputs: [x],
      text: `${name}(${x.name}, { axes: [${axes}], keepDims: ${keepDims} })`,
      fn: (y) => reduce(y, { axes, keepDims }),
      range: bounds,
    }
  );
});

const shaping: OperatorMaker[] = [
  (g) => {
    const x = g.value(({ shape }) => shape.length > 1);
    if (!x) return undefined;
    const perm = [...x.shape.keys()];
    for (let i = perm.length - 1; i > 0; i--) {
      const j = g.int(0, i);
      [perm[i], perm[j]] = [perm[j]!, perm[i]!];
    }
    return { inputs: [x], text: `transpose(${x.name}, [${perm}])`, fn: (y) => e.transpose(y, perm), range: rangeOf(x) };
  },
  (g) => {
    const x = g.value();
    if (!x) return undefined;
    const count = sizeOf(x);
    const first = g.pick([1, 2, 3, 4, 6].filter((size) => count % size === 0));
    const shape = g.chance(0.5) ? [first, count / first] : [count / first, first, 1];
    return { inputs: [x], text: `reshape(${x.name}, [${shape}])`, fn: (y) => e.reshape(y, shape), range: rangeOf(x) };
  },
  (g) => {
    const x = g.value();
    if (!x) return undefined;
    const shape = x.shape.map((size) => (size === 1 ? g.int(1, 3) : size));
    if (g.chance(0.5)) shape.unshift(2);
    return { inputs: [x], text: `expand(${x.name}, [${shape}])`, fn: (y) => e.expand(y, shape), range: rangeOf(x) };
  },
  alongAxis((x, axis, g) => {
    const size = x.shape[axis]!;
    const [start, step] = [g.int(0, size - 1), g.int(1, 2)];
    const end = g.int(start + 1, size);
    return {
      text: `slice(${x.name}, ${axis}, ${start}, ${end}, ${step})`,
      fn: (y) => e.slice(y, axis, start, end, step),
      range: rangeOf(x),
    };
  }),
  alongAxis((x, axis, g) => {
    const [start, step] = [g.int(0, x.shape[axis]! - 1), -g.int(1, 2)];
    const end = g.int(-1, start - 1);
    return {
      text: `slice(${x.name}, ${axis}, ${start}, ${end}, ${step})`,
      fn: (y) => e.slice(y, axis, start, end, step),
      range: rangeOf(x),
    };
  }),
  alongAxis((x, axis, g) => {
    const [before, after] = [g.int(0, 2), g.int(0, 2)];
    return {
      text: `pad(${x.name}, ${axis}, ${before}, ${before + x.shape[axis]! + after})`,
      fn: (y) => e.pad(y, axis, before, before + x.shape[axis]! + after),
      range: withZero(rangeOf(x)),
    };
  }),
  (g) => {
    const a = g.value(({ shape }) => shape.length > 0);
    if (!a) return undefined;
    const axis = g.int(0, a.shape.length - 1);
    const b = g.value(
      ({ shape }) => shape.length === a.shape.length && shape.every((size, i) => i === axis || size === a.shape[i]),
    )!;
    return {
      inputs: [a, b],
      text: `concat([${a.name}, ${b.name}], ${axis})`,
      fn: (x, y) => e.concat([x, y], axis),
      range: hull(a.low, a.high, b.low, b.high),
    };
  },
  (g) => {
    const x = g.value();
    if (!x) return undefined;
    const repeats = x.shape.map(() => g.int(1, 2));
    return { inputs: [x], text: `tile(${x.name}, [${repeats}])`, fn: (y) => e.tile(y, repeats), range: rangeOf(x) };
  },
  alongAxis((x, axis) => ({
    text: `flip(${x.name}, [${axis}])`,
    fn: (y) => e.flip(y, [axis]),
    range: rangeOf(x),
  })),
  alongAxis((x, axis, g) => {
    const reverse = g.chance(0.5);
    return {
      text: `cumSum(${x.name}, ${axis}, ${reverse})`,
      fn: (y) => e.cumSum(y, axis, reverse),
      range: withZero(scaled(rangeOf(x), x.shape[axis]!)),
    };
  }),
  (g) => {
    const x = g.value(({ shape }) => shape.length > 1);
    if (!x) return undefined;
    const [upper, diagonal] = [g.chance(0.5), g.int(-1, 1)];
    return {
      inputs: [x],
      text: `${upper ? 'triu' : 'tril'}(${x.name}, ${diagonal})`,
      fn: (y) => (upper ? e.triu : e.tril)(y, diagonal),
      range: withZero(rangeOf(x)),
    };
  },
  alongAxis((x, axis, g) => {
    if (x.shape[axis]! < 2) return undefined;
    const first = g.int(1, x.shape[axis]! - 1);
    const sizes = [first, x.shape[axis]! - first];
    return {
      text: `concat(split(${x.name}, [${sizes}], ${axis}).reverse(), ${axis})`,
      fn: (y) => e.concat(e.split(y, sizes, axis).reverse(), axis),
      range: rangeOf(x),
    };
  }),
];

const picking: OperatorMaker[] = [
  (g) => {
    const x = g.value(({ shape }) => shape.length > 0);
    if (!x) return undefined;
    const rows = Array.from({ length: g.int(1, 4) }, () => g.int(0, x.shape[0]! - 1));
    return {
      inputs: [x],
      text: `gather(${x.name}, [${rows}])`,
      fn: (y) => e.gather(y, whole(rows)),
      range: rangeOf(x),
    };
  },
  (g) => {
    const x = g.value(({ shape }) => shape.length > 0);
    if (!x) return undefined;
    const count = g.int(1, 4);
    const rows = Array.from({ length: x.shape[0]! }, () => g.int(0, count - 1));
    return {
      inputs: [x],
      text: `scatterAdd(${x.name}, [${rows}], ${count})`,
      fn: (y) => e.scatterAdd(y, whole(rows), count),
      range: withZero(scaled(rangeOf(x), x.shape[0]!)),
    };
  },
  alongAxis((x, axis, g) => {
    const shape = x.shape.map((size, i) => (i === axis ? g.int(1, 4) : size));
    const places = Array.from({ length: e.elementCount(shape) }, () => g.int(0, x.shape[axis]! - 1));
    return {
      text: `gatherElements(${x.name}, [${places}] as [${shape}], ${axis})`,
      fn: (y) => e.gatherElements(y, whole(places, shape), axis),
      range: rangeOf(x),
    };
  }),
  alongAxis((x, axis, g) => {
    const count = g.int(1, 4);
    const places = Array.from({ length: sizeOf(x) }, () => g.int(0, count - 1));
    return {
      text: `scatterElements(${x.name}, [${places}], ${axis}, ${count})`,
      fn: (y) => e.scatterElements(y, whole(places, [...x.shape]), axis, count),
      range: withZero(scaled(rangeOf(x), x.shape[axis]!)),
    };
  }),
  (g) => {
    const x = g.value(({ shape }) => shape.length > 1);
    if (!x) return undefined;
    const tuples = Array.from({ length: g.int(1, 4) }, () => [g.int(0, x.shape[0]! - 1), g.int(0, x.shape[1]! - 1)]);
    const indices = () => whole(tuples.flat(), [tuples.length, 2]);
    return {
      inputs: [x],
      text: `gatherNd(${x.name}, [${tuples.map((tuple) => `[${tuple}]`)}])`,
      fn: (y) => e.gatherNd(y, indices()),
      range: rangeOf(x),
    };
  },
  (g) => {
    const base = g.value(({ shape }) => shape.length > 0);
    if (!base) return undefined;
    const at = g.int(0, base.shape[0]! - 1);
    const reduction = g.pick(['none', 'add'] as const);
    const updates = g.input([1, ...base.shape.slice(1)]);
    return {
      inputs: [base, updates],
      text: `scatterNd(${base.name}, [[${at}]], ${updates.name}, { reduction: '${reduction}' })`,
      fn: (x, y) => e.scatterNd(x, whole([at], [1, 1]), y, { reduction }),
      range: hull(base.low - 1, base.high + 1),
    };
  },
  alongAxis((x, axis, g) => {
    const [k, largest] = [g.int(1, x.shape[axis]!), g.chance(0.5)];
    return {
      text: `topK(${x.name}, ${k}, { axis: ${axis}, largest: ${largest} }).values`,
      fn: (y) => e.topK(y, k, { axis, largest }).values,
      range: rangeOf(x),
    };
  }),
];

const products: OperatorMaker[] = [
  (g) => {
    const a = g.value(({ shape }) => shape.length > 1);
    if (!a) return undefined;
    const [transposeA, transposeB] = [g.chance(0.3), g.chance(0.4)];
    const [rows, columns] = a.shape.slice(-2) as [number, number];
    const k = transposeA ? rows : columns;
    const n = g.int(1, 3);
    const tail = transposeB ? [n, k] : [k, n];
    const lead = g.chance(0.4) ? a.shape.slice(0, -2).map((size) => (g.chance(0.5) ? 1 : size)) : [];
    const b = g.input([...lead, ...tail]);
    const alpha = g.chance(0.3) ? 0.5 : 1;
    return {
      inputs: [a, b],
      text: `matMul(${a.name}, ${b.name}, ${JSON.stringify({ transposeA, transposeB, alpha })})`,
      fn: (x, y) => e.matMul(x, y, { transposeA, transposeB, alpha }),
      range: scaled(times(rangeOf(a), [-1, 1]), k * alpha),
    };
  },
  (g) => {
    const x = g.value(({ shape }) => shape.length > 1);
    if (!x) return undefined;
    const [k, n] = [x.shape.at(-1)!, g.int(1, 3)];
    const [w, b] = [g.input([n, k]), g.input([n])];
    const [low, high] = scaled(times(rangeOf(x), [-1, 1]), k);
    return {
      inputs: [x, w, b],
      text: `linear(${x.name}, ${w.name}, ${b.name})`,
      fn: e.linear,
      range: [low - 1, high + 1],
    };
  },
  (g) => {
    const a = g.value(({ shape }) => shape.length === 3);
    if (!a) return undefined;
    const [b, , k] = a.shape as [number, number, number];
    const y = g.input([g.int(1, 3), b, k]);
    const equation = g.pick(['bik,jbk->bji', 'bik,jbk->ij', 'bik,jbk->bk']);
    return {
      inputs: [a, y],
      text: `einsum('${equation}', ${a.name}, ${y.name})`,
      fn: (p, q) => e.einsum(equation, p, q),
      range: scaled(times(rangeOf(a), [-1, 1]), sizeOf(a) * y.shape[0]!),
    };
  },
  (g) => {
    const q = g.value(({ shape, low, high }) => shape.length >= 2 && Math.max(-low, high) <= 8);
    if (!q) return undefined;
    const lead = q.shape.slice(0, -2);
    const causal = g.chance(0.5);
    const keys = causal ? q.shape.at(-2)! : g.int(1, 3);
    const [k, v] = [g.input([...lead, keys, q.shape.at(-1)!]), g.input([...lead, keys, g.int(1, 3)])];
    return {
      inputs: [q, k, v],
      text: `attention(${q.name}, ${k.name}, ${v.name}, { causal: ${causal} })`,
      fn: (a, b, c) => e.attention(a, b, c, { causal }),
      range: [-1, 1],
    };
  },
];

const normalizing: OperatorMaker[] = [
  alongAxis((x, axis) => ({ text: `softmax(${x.name}, ${axis})`, fn: (y) => e.softmax(y, axis), range: [0, 1] })),
  alongAxis((x, axis) => ({
    text: `logSoftmax(${x.name}, ${axis})`,
    fn: (y) => e.logSoftmax(y, axis),
    range: [x.low - x.high - Math.log(x.shape[axis]!), 0],
  })),
  (g) => {
    const x = g.value(({ shape }) => shape.length > 0 && shape.at(-1)! > 1);
    if (!x) return undefined;
    const [scale, bias] = [g.input([x.shape.at(-1)!]), g.input([x.shape.at(-1)!])];
    const bound = Math.sqrt(x.shape.at(-1)!) + 1;
    return {
      inputs: [x, scale, bias],
      text: `layerNorm(${x.name}, ${scale.name}, ${bias.name}, 0.1)`,
      fn: (y, s, b) => e.layerNorm(y, s, b, 0.1),
      range: [-bound, bound],
    };
  },
  (g) => {
    const x = g.value(({ shape }) => shape.length > 0);
    if (!x) return undefined;
    const scale = g.input([x.shape.at(-1)!]);
    const bound = Math.sqrt(x.shape.at(-1)!);
    return {
      inputs: [x, scale],
      text: `rmsNorm(${x.name}, ${scale.name}, 0.1)`,
      fn: (y, s) => e.rmsNorm(y, s, 0.1),
      range: [-bound, bound],
    };
  },
  (g) => {
    const x = g.value(({ shape }) => shape.length === 3);
    if (!x) return undefined;
    const channels = x.shape[1]!;
    const [scale, bias] = [g.input([channels]), g.input([channels])];
    const byBatch = g.chance(0.5);
    const bound = Math.sqrt(sizeOf(x)) + 1;
    return {
      inputs: [x, scale, bias],
      text: `${byBatch ? 'batchNorm' : 'instanceNorm'}(${x.name}, ${scale.name}, ${bias.name}, 0.1)`,
      fn: (y, s, b) => (byBatch ? e.batchNorm(y, s, b, { epsilon: 0.1 }).y : e.instanceNorm(y, s, b, 0.1)),
      range: [-bound, bound],
    };
  },
  (g) => {
    const x = g.value(({ shape }) => shape.length === 2);
    if (!x) return undefined;
    const targets = Array.from({ length: x.shape[0]! }, () => g.int(0, x.shape[1]! - 1));
    return {
      inputs: [x],
      text: `crossEntropy(${x.name}, [${targets}])`,
      fn: (y) => e.crossEntropy(y, whole(targets)),
      range: [0, x.high - x.low + Math.log(x.shape[1]!)],
    };
  },
  unary(
    'dropout($, 0.3, 5)',
    (x) => e.dropout(x, 0.3, 5),
    (r) => withZero(scaled(r, 1 / 0.7)),
  ),
  (g) => {
    const x = g.value(({ shape }) => shape.length >= 2 && shape.length <= 4);
    if (!x) return undefined;
    const axis = x.shape.length - 1;
    const mode = g.pick(['nearest', 'linear'] as const);
    const to = g.int(1, 6);
    return {
      inputs: [x],
      text: `resize(${x.name}, { axes: [${axis}], sizes: [${to}], mode: '${mode}' })`,
      fn: (y) => e.resize(y, { axes: [axis], sizes: [to], mode }),
      range: rangeOf(x),
    };
  },
];

/** Kernels that ONNX Runtime's CPU has in float32 alone. */
const single: OperatorMaker[] = [
  unary('erf($)', e.erf, always(-1, 1)),
  unary('gelu($)', e.gelu, ([a, b]) => hull(a, b, -0.2, 0)),
  unary('atan($)', e.atan, always(-1.6, 1.6)),
  unary('sinh($)', e.sinh, (r) => inside(-2, 2, Math.sinh)(r)),
  unary('asinh($)', e.asinh, (r) => inside(-40, 40, Math.asinh)(r)),
  unary('tan($)', e.tan, (r) => inside(-1, 1, Math.tan)(r)),
  (g) => {
    const x = g.value(({ shape }) => shape.length === 3 && shape[2]! > 1);
    if (!x) return undefined;
    const kernel = g.int(1, 2);
    const w = g.input([g.int(1, 3), x.shape[1]!, kernel]);
    const options = { stride: g.int(1, 2), padding: g.int(0, 1), dilation: 1 };
    return {
      inputs: [x, w],
      text: `conv(${x.name}, ${w.name}, undefined, ${JSON.stringify(options)})`,
      fn: (a, b) => e.conv(a, b, undefined, options),
      range: scaled(withZero(times(rangeOf(x), [-1, 1])), x.shape[1]! * kernel),
    };
  },
  (g) => {
    const x = g.value(({ shape }) => shape.length === 3 && shape[2]! > 1);
    if (!x) return undefined;
    const padding: [number, number][] = [[0, g.int(0, 1)]];
    const options = { kernel: 2, stride: g.int(1, 2), padding, ceilMode: g.chance(0.3) };
    const [name, fn] = g.pick([
      ['maxPool', e.maxPool],
      ['averagePool', e.averagePool],
    ] as const);
    return {
      inputs: [x],
      text: `${name}(${x.name}, ${JSON.stringify(options)})`,
      fn: (y) => fn(y, options),
      range: withZero(rangeOf(x)),
    };
  },
];

const double = [...elementwise, ...reductions, ...shaping, ...picking, ...products, ...normalizing];

/** What random programs are made of. */
export const makers = { float64: double, float32: [...double, ...single, ...single] } as const;
