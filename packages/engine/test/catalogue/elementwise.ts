import type { Tensor } from '../../src/index.js';
import * as e from '../../src/index.js';
import type { InputSpec, OperatorCase } from './case.js';

const grid = ['m', 'n'] as const;

export const unary = (
  operator: string,
  fn: (x: Tensor) => Tensor,
  torch: string,
  rest: Partial<OperatorCase> = {},
): OperatorCase => ({ operator, inputs: [grid], fn: ([x]) => fn(x!), torch, ...rest });

/** Five ways to broadcast. */
export const binary = (
  operator: string,
  fn: (a: Tensor, b: Tensor) => Tensor,
  torch: string,
  rest: Partial<OperatorCase> = {},
): OperatorCase[] => {
  const pairs: [string, InputSpec, InputSpec][] = [
    ['equal shapes', grid, grid],
    ['rows by a row', grid, ['n']],
    ['a column by a row', ['m', 1], [1, 'n']],
    ['another rank', ['k', 'm', 'n'], ['m', 1]],
    ['a scalar', [], grid],
  ];
  return pairs.map(([variant, a, b]) => ({
    operator,
    variant,
    inputs: [a, b],
    fn: ([x, y]) => fn(x!, y!),
    torch,
    ...rest,
  }));
};

const positive = { range: [0.5, 2] } as const;
const negative = { variant: 'negative', range: [-2, -0.5] } as const;
const above = { variant: 'positive', range: [0.5, 2] } as const;
const whole: InputSpec = { shape: grid, dtype: 'int64', from: -2, below: 3 };
const truth: InputSpec = { shape: grid, dtype: 'bool' };
const otherTruth: InputSpec = { shape: ['n'], dtype: 'bool' };
const piecewise = { noGradient: 'piecewise constant: none is traced' } as const;
const comparison = (operator: string, fn: (a: Tensor, b: Tensor) => Tensor, torch: string): OperatorCase => ({
  operator,
  inputs: [whole, { shape: ['n'], dtype: 'int64', from: -2, below: 3 }],
  fn: ([a, b]) => fn(a!, b!),
  torch,
  noGradient: 'result is bool',
});
const logical = (operator: string, fn: (a: Tensor, b: Tensor) => Tensor, torch: string): OperatorCase => ({
  operator,
  inputs: [truth, otherTruth],
  fn: ([a, b]) => fn(a!, b!),
  torch,
  noGradient: 'result is bool',
});

export const elementwiseCases: OperatorCase[] = [
  ...binary('add', e.add, 'a + b'),
  ...binary('sub', e.sub, 'a - b'),
  ...binary('mul', e.mul, 'a * b'),
  ...binary('div', e.div, 'a / b', positive),
  ...binary('maximum', e.maximum, 'torch.maximum(a, b)', { distinct: true }),
  ...binary('minimum', e.minimum, 'torch.minimum(a, b)', { distinct: true }),
  {
    operator: 'where',
    inputs: [truth, grid, ['n']],
    fn: ([c, a, b]) => e.where(c!, a!, b!),
    torch: 'torch.where(a, b, c)',
  },
  unary('neg', e.neg, '-a'),
  unary('exp', e.exp, 'torch.exp(a)'),
  unary('log', e.log, 'torch.log(a)', positive),
  unary('sqrt', e.sqrt, 'torch.sqrt(a)', positive),
  unary('abs', e.abs, 'torch.abs(a)', above),
  unary('abs', e.abs, 'torch.abs(a)', negative),
  unary('sign', e.sign, 'torch.sign(a)', piecewise),
  unary('round', (x) => e.round(e.mul(x, 4)), 'torch.round(a * 4)', piecewise),
  unary('floor', (x) => e.floor(e.mul(x, 4)), 'torch.floor(a * 4)', piecewise),
  unary('sin', e.sin, 'torch.sin(a)'),
  unary('cos', e.cos, 'torch.cos(a)'),
  unary('tanh', e.tanh, 'torch.tanh(a)'),
  unary('sigmoid', e.sigmoid, 'torch.sigmoid(a)'),
  unary('erf', e.erf, 'torch.erf(a)', { dtype: 'float32' }),
  unary('pow', (x) => e.pow(x, 3), 'a ** 3', { variant: 'cube' }),
  unary('pow', (x) => e.pow(x, -0.5), 'a ** -0.5', { variant: 'inverse root', ...positive }),
  ...binary('pow', e.pow, 'a ** b', positive),
  unary('reciprocal', e.reciprocal, '1 / a', positive),
  unary('ceil', (x) => e.ceil(e.mul(x, 4)), 'torch.ceil(a * 4)', piecewise),
  unary('trunc', (x) => e.trunc(e.mul(x, 4)), 'torch.trunc(a * 4)', piecewise),
  unary('isNan', (x) => e.isNan(e.log(x)), 'torch.isnan(torch.log(a))', { noGradient: 'result is bool' }),
  unary('tan', e.tan, 'torch.tan(a)', { dtype: 'float32' }),
  unary('asin', e.asin, 'torch.asin(a)', { dtype: 'float32', range: [-0.8, 0.8] }),
  unary('acos', e.acos, 'torch.acos(a)', { dtype: 'float32', range: [-0.8, 0.8] }),
  unary('atan', e.atan, 'torch.atan(a)', { dtype: 'float32' }),
  unary('sinh', e.sinh, 'torch.sinh(a)', { dtype: 'float32' }),
  unary('cosh', e.cosh, 'torch.cosh(a)', { dtype: 'float32' }),
  unary('asinh', e.asinh, 'torch.asinh(a)', { dtype: 'float32' }),
  unary('acosh', e.acosh, 'torch.acosh(a)', { dtype: 'float32', range: [1.5, 3] }),
  unary('atanh', e.atanh, 'torch.atanh(a)', { dtype: 'float32', range: [-0.8, 0.8] }),
  {
    operator: 'mod',
    inputs: [grid, { shape: ['n'], dtype: 'float64', range: [3, 4] }],
    range: [-2, -0.5],
    fn: ([a, b]) => e.mod(a!, b!),
    torch: 'torch.remainder(a, b)',
  },
  {
    operator: 'mod',
    variant: 'truncated',
    inputs: [grid, { shape: ['n'], dtype: 'float64', range: [3, 4] }],
    range: [-7, -6.5],
    fn: ([a, b]) => e.mod(a!, b!, { truncated: true }),
    torch: 'torch.fmod(a, b)',
  },
  {
    operator: 'mod',
    variant: 'whole numbers',
    inputs: [whole, { shape: ['n'], dtype: 'int64', from: 2, below: 5 }],
    fn: ([a, b]) => e.mod(a!, b!),
    torch: 'a % b',
    noGradient: 'result is int64',
  },
  unary('relu', e.relu, 'F.relu(a)', above),
  unary('relu', e.relu, 'F.relu(a)', negative),
  unary('gelu', e.gelu, 'F.gelu(a)', { dtype: 'float32' }),
  unary('geluTanh', e.geluTanh, 'F.gelu(a, approximate="tanh")'),
  unary('silu', e.silu, 'F.silu(a)'),
  unary('softplus', e.softplus, 'F.softplus(a)', above),
  unary('softplus', e.softplus, 'F.softplus(a)', negative),
  unary('leakyRelu', (x) => e.leakyRelu(x, 0.1), 'F.leaky_relu(a, 0.1)', above),
  unary('leakyRelu', (x) => e.leakyRelu(x, 0.1), 'F.leaky_relu(a, 0.1)', negative),
  unary('elu', e.elu, 'F.elu(a)', above),
  unary('elu', e.elu, 'F.elu(a)', negative),
  unary('hardSwish', e.hardSwish, 'F.hardswish(a)'),
  unary('hardSwish', (x) => e.hardSwish(e.mul(x, 4)), 'F.hardswish(a * 4)', { variant: 'outside', range: [1, 2] }),
  unary('hardSigmoid', (x) => e.hardSigmoid(x), 'torch.clip(0.2 * a + 0.5, 0, 1)'),
  unary('hardSigmoid', (x) => e.hardSigmoid(x, 1 / 6), 'F.hardsigmoid(a)', { variant: 'of PyTorch' }),
  unary('relu6', e.relu6, 'F.relu6(a)', above),
  unary('relu6', e.relu6, 'F.relu6(a)', { variant: 'outside', range: [6.5, 8] }),
  unary('hardTanh', (x) => e.hardTanh(x), 'F.hardtanh(a)', { range: [-0.9, 0.9] }),
  unary('hardTanh', (x) => e.hardTanh(x), 'F.hardtanh(a)', { variant: 'outside', range: [1.5, 2] }),
  unary('softsign', e.softsign, 'F.softsign(a)', above),
  unary('softsign', e.softsign, 'F.softsign(a)', negative),
  unary('selu', e.selu, 'F.selu(a)', above),
  unary('selu', e.selu, 'F.selu(a)', negative),
  unary('celu', (x) => e.celu(x, 1.5), 'F.celu(a, 1.5)', above),
  unary('celu', (x) => e.celu(x, 1.5), 'F.celu(a, 1.5)', negative),
  unary('mish', e.mish, 'F.mish(a)', above),
  unary('mish', e.mish, 'F.mish(a)', negative),
  unary('logSigmoid', e.logSigmoid, 'F.logsigmoid(a)', above),
  unary('logSigmoid', e.logSigmoid, 'F.logsigmoid(a)', negative),
  ...[above, negative].map(
    (side): OperatorCase => ({
      operator: 'prelu',
      inputs: [
        ['k', 'm', 'n'],
        ['m', 1],
      ],
      fn: ([x, slope]) => e.prelu(x!, slope!),
      torch: 'F.prelu(a, b.flatten())',
      ...side,
    }),
  ),
  unary('thresholdedRelu', (x) => e.thresholdedRelu(x, 0.3), 'F.threshold(a, 0.3, 0)', above),
  unary('thresholdedRelu', (x) => e.thresholdedRelu(x, 0.3), 'F.threshold(a, 0.3, 0)', negative),
  unary('clip', (x) => e.clip(x, -3, 3), 'torch.clip(a, -3, 3)', { variant: 'inside' }),
  unary('clip', (x) => e.clip(x, -0.25, 0.25), 'torch.clip(a, -0.25, 0.25)', above),
  unary('cast', (x) => e.cast(e.cast(x, 'float64'), 'float32'), 'a', { dtype: 'float32', variant: 'floats' }),
  unary('cast', (x) => e.cast(e.mul(x, 5), 'int64'), '(a * 5).to(torch.int64)', {
    variant: 'to whole numbers',
    noGradient: 'result is int64',
  }),
  comparison('equal', e.equal, 'a == b'),
  comparison('greater', e.greater, 'a > b'),
  comparison('less', e.less, 'a < b'),
  comparison('greaterOrEqual', e.greaterOrEqual, 'a >= b'),
  comparison('lessOrEqual', e.lessOrEqual, 'a <= b'),
  logical('logicalAnd', e.logicalAnd, 'a & b'),
  logical('logicalOr', e.logicalOr, 'a | b'),
  logical('logicalXor', e.logicalXor, 'a ^ b'),
  {
    operator: 'logicalNot',
    inputs: [truth],
    fn: ([a]) => e.logicalNot(a!),
    torch: '~a',
    noGradient: 'result is bool',
  },
  {
    operator: 'bitwiseXor',
    inputs: [whole, { shape: ['n'], dtype: 'int64', from: 0, below: 16 }],
    fn: ([a, b]) => e.bitwiseXor(a!, b!),
    torch: 'a ^ b',
    noGradient: 'result is int64',
  },
  unary('stopGradient', e.stopGradient, 'a', { noGradient: 'by intention' }),
];
