/** Operators that work element by element, and comparisons. */
import type { DType } from '../../host-tensor.js';
import {
  celu,
  elu,
  hardSigmoid,
  hardSwish,
  leakyRelu,
  mish,
  prelu,
  silu,
  softplus,
  softsign,
  thresholdedRelu,
} from '../../ops/activations.js';
import { add, binaryOp, div, mul, neg, sub } from '../../ops/arithmetic.js';
import { elementwise } from '../../ops/batching.js';
import {
  bitwiseXor,
  cast,
  equal,
  greater,
  greaterOrEqual,
  isFloat,
  less,
  lessOrEqual,
  logicalAnd,
  logicalNot,
  logicalOr,
  logicalXor,
  maximum,
  minimum,
  where,
} from '../../ops/compare.js';
import {
  abs,
  ceil,
  cos,
  erf,
  exp,
  floor,
  gelu,
  geluTanh,
  isNan,
  log,
  pow,
  reciprocal,
  relu,
  round,
  sigmoid,
  sign,
  sin,
  sqrt,
  tanh,
} from '../../ops/elementwise.js';
import { mod } from '../../ops/modulo.js';
import { dropout } from '../../ops/random.js';
import { acos, acosh, asin, asinh, atan, atanh, cosh, sinh, tan } from '../../ops/trigonometry.js';
import type { Op, Tensor } from '../../tensor.js';
import { apply } from '../../tensor.js';
import type { NodeContext, OperatorRule, OperatorTable } from './context.js';
import { foldMath, foldMod, foldPow } from './fold.js';
import { product } from './fuse.js';

type FoldName = keyof typeof foldMath;

const foldOf = (name: string): Pick<OperatorRule, 'fold'> =>
  name in foldMath ? { fold: foldMath[name as FoldName] } : {};

const unary = (
  name: string,
  trace: (x: Tensor) => Tensor,
  more: Partial<OperatorRule> = {},
): [string, OperatorRule] => [name, { trace: (n) => trace(n.in(0)), ...foldOf(name), ...more }];

const binary = (
  name: string,
  trace: (a: Tensor, b: Tensor) => Tensor,
  more: Partial<OperatorRule> = {},
): [string, OperatorRule] => [name, { trace: (n) => trace(n.in(0), n.in(1)), ...foldOf(name), ...more }];

/** Any number of operands, combined from the left. */
const variadic = (name: string, combine: (a: Tensor, b: Tensor) => Tensor): [string, OperatorRule] => [
  name,
  { trace: (n) => n.all().reduce((a, b) => combine(a, b)), ...foldOf(name) },
];

const none = { gradient: 'none' } as const;

/** Operators that only ONNX has, without gradient. */
const plainBinary = (name: string, result?: DType) => {
  const op = binaryOp(name, 'none', result);
  return (a: Tensor, b: Tensor) => apply(op, [a, b]);
};
const plainUnary = (name: string, result?: DType) => {
  const op: Op = {
    name,
    shape: ([x]) => ({ dtype: result ?? x!.dtype, shape: x!.shape }),
    vjp: () => [undefined],
    batch: elementwise,
  };
  return (x: Tensor) => apply(op, [x]);
};

/** min and max as attributes (before opset 11) or inputs, one of which may be left out. */
function clipped(n: NodeContext): Tensor {
  const bound = (input: number, name: string) =>
    n.has(input)
      ? n.value(input).known
        ? n.number(input, name)
        : n.in(input)
      : n.hasAttribute(name)
        ? n.float(name)
        : undefined;
  const [low, high] = [bound(1, 'min'), bound(2, 'max')];
  const floored = low === undefined ? n.in(0) : maximum(n.in(0), low);
  return high === undefined ? floored : minimum(floored, high);
}

function power(n: NodeContext): Tensor {
  const exponent = n.value(1).known;
  const x = n.in(0);
  if (!isFloat(x.dtype)) throw n.unsupported('a power of whole numbers');
  if (exponent?.entries.length === 1) return pow(x, n.number(1, 'exponent'));
  return pow(x, cast(n.in(1), x.dtype));
}

function dropped(n: NodeContext): Tensor[] {
  const rate = n.has(1) ? n.number(1, 'ratio') : n.float('ratio', 0.5);
  // Before opset 12 there was no flag: exported graphs were for inference.
  const wanted = n.has(2) ? n.number(2, 'training_mode') !== 0 : false;
  const x = n.in(0);
  const seed = n.options.seed;
  const own = typeof seed === 'number' ? seed + n.serial * 1009 : add(mul(seed, 1_000_003), n.serial * 1009);
  const y = (n.options.training || wanted) && rate > 0 ? dropout(x, rate, own) : x;
  return n.outputCount > 1 ? [y, equal(x, x)] : [y];
}

/** gamma · elu(x), whose usual factors are the engine's `selu`; a file may have others. Klambauer et al. 2017. */
const scaledElu = (x: Tensor, alpha: number, gamma: number) => mul(elu(x, alpha), gamma);

export const geluRule: OperatorRule = {
  trace: (n) => (n.string('approximate', 'none') === 'tanh' ? geluTanh : gelu)(n.in(0)),
};

export const elementwiseOperators: OperatorTable = Object.fromEntries([
  binary('Add', add),
  binary('Sub', sub),
  binary('Mul', product),
  binary('Div', div),
  unary('Neg', neg),
  unary('Abs', abs),
  unary('Exp', exp),
  unary('Log', log),
  unary('Sqrt', sqrt),
  unary('Sin', sin),
  unary('Cos', cos),
  unary('Tan', tan),
  unary('Asin', asin),
  unary('Acos', acos),
  unary('Atan', atan),
  unary('Sinh', sinh),
  unary('Cosh', cosh),
  unary('Asinh', asinh),
  unary('Acosh', acosh),
  unary('Atanh', atanh),
  unary('Erf', erf),
  unary('Reciprocal', reciprocal),
  unary('Sign', sign, none),
  unary('Round', round, none),
  unary('Floor', floor, none),
  unary('Ceil', ceil, none),
  ['Pow', { trace: power, fold: foldPow }],
  [
    'Mod',
    {
      trace: (n) => mod(n.in(0), n.in(1), { truncated: n.int('fmod', 0) === 1 }),
      fold: (inputs, n) => foldMod(n.int('fmod', 0) === 1)(inputs),
      ...none,
    },
  ],
  variadic('Max', maximum),
  variadic('Min', minimum),
  variadic('Sum', add),
  [
    'Mean',
    {
      trace: (n) =>
        div(
          n.all().reduce((a, b) => add(a, b)),
          n.inputCount,
        ),
    },
  ],
  ['Clip', { trace: clipped }],
  unary('Relu', relu),
  unary('Sigmoid', sigmoid),
  unary('Tanh', tanh),
  unary('Softplus', softplus),
  unary('Softsign', softsign),
  unary('HardSwish', hardSwish),
  unary('Mish', mish),
  ['Gelu', geluRule],
  [
    'Swish',
    {
      trace: (n) =>
        n.float('alpha', 1) === 1 ? silu(n.in(0)) : mul(n.in(0), sigmoid(mul(n.in(0), n.float('alpha', 1)))),
    },
  ],
  ['LeakyRelu', { trace: (n) => leakyRelu(n.in(0), n.float('alpha', 0.01)) }],
  ['PRelu', { trace: (n) => prelu(n.in(0), n.in(1)) }],
  ['Elu', { trace: (n) => elu(n.in(0), n.float('alpha', 1)) }],
  ['Celu', { trace: (n) => celu(n.in(0), n.float('alpha', 1)) }],
  ['Selu', { trace: (n) => scaledElu(n.in(0), n.float('alpha', 1.6732632), n.float('gamma', 1.050701)) }],
  ['HardSigmoid', { trace: (n) => hardSigmoid(n.in(0), n.float('alpha', 0.2), n.float('beta', 0.5)) }],
  ['ThresholdedRelu', { trace: (n) => thresholdedRelu(n.in(0), n.float('alpha', 1)) }],
  ['Dropout', { trace: dropped, note: 'drops when the file or `training` says so' }],
  ['Where', { trace: (n) => where(n.in(0), n.in(1), n.in(2)), ...foldOf('Where') }],
  binary('Equal', equal, none),
  binary('Greater', greater, none),
  binary('Less', less, none),
  binary('GreaterOrEqual', greaterOrEqual, none),
  binary('LessOrEqual', lessOrEqual, none),
  binary('And', logicalAnd, none),
  binary('Or', logicalOr, none),
  binary('Xor', logicalXor, none),
  binary('BitwiseAnd', plainBinary('BitwiseAnd'), none),
  binary('BitwiseOr', plainBinary('BitwiseOr'), none),
  binary('BitwiseXor', bitwiseXor, none),
  unary('Not', logicalNot, none),
  unary('IsNaN', isNan, none),
  unary('IsInf', plainUnary('IsInf', 'bool'), none),
]);
