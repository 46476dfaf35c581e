/** Operators that work element by element, and comparisons. */
import type { DType } from '../../host-tensor.js';
import { elu, hardSwish, leakyRelu, softplus } from '../../ops/activations.js';
import { add, binaryOp, div, mul, neg, sub } from '../../ops/arithmetic.js';
import { equal, greater, isFloat, less, logicalAnd, logicalNot, maximum, minimum, where } from '../../ops/compare.js';
import { stopGradient } from '../../ops/control.js';
import {
  abs,
  cos,
  erf,
  exp,
  floor,
  gelu,
  geluTanh,
  log,
  pow,
  relu,
  round,
  sigmoid,
  sign,
  sin,
  sqrt,
  tanh,
} from '../../ops/elementwise.js';
import { dropout } from '../../ops/random.js';
import type { Op, Tensor } from '../../tensor.js';
import { apply } from '../../tensor.js';
import type { NodeContext, OperatorRule, OperatorTable } from './context.js';
import { foldMath, foldMod, foldPow } from './fold.js';

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
  const op: Op = { name, shape: ([x]) => ({ dtype: result ?? x!.dtype, shape: x!.shape }), vjp: () => [undefined] };
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
  if (exponent?.entries.length !== 1 || !isFloat(n.value(0).dtype)) {
    throw n.unsupported('an exponent that is not one constant number');
  }
  return pow(n.in(0), n.number(1, 'exponent'));
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

/** Mish: x tanh(softplus(x)). Misra 2019, arXiv:1908.08681. */
const mish = (x: Tensor) => mul(x, tanh(softplus(x)));

/** clip(alpha x + beta, 0, 1) */
const hardSigmoid = (x: Tensor, alpha: number, beta: number) => minimum(maximum(add(mul(x, alpha), beta), 0), 1);

/** scale (max(0, x) + min(0, alpha (exp(x / over) − 1))) */
const eluLike = (x: Tensor, alpha: number, over = 1) =>
  where(greater(x, 0), x, mul(sub(exp(minimum(div(x, over), 0)), 1), alpha));

export const geluRule: OperatorRule = {
  trace: (n) => (n.string('approximate', 'none') === 'tanh' ? geluTanh : gelu)(n.in(0)),
};

const isNan = plainUnary('IsNaN', 'bool');

export const elementwiseOperators: OperatorTable = Object.fromEntries([
  binary('Add', add),
  binary('Sub', sub),
  binary('Mul', mul),
  binary('Div', div),
  unary('Neg', neg),
  unary('Abs', abs),
  unary('Exp', exp),
  unary('Log', log),
  unary('Sqrt', sqrt),
  unary('Sin', sin),
  unary('Cos', cos),
  unary('Erf', erf),
  unary('Reciprocal', (x) => div(1, x)),
  unary('Sign', sign, none),
  unary('Round', round, none),
  unary('Floor', floor, none),
  unary('Ceil', (x) => neg(floor(neg(x))), none),
  ['Pow', { trace: power, fold: foldPow, note: 'the exponent is one constant' }],
  ['Mod', { trace: (n) => modulo(n), fold: (inputs, n) => foldMod(n.int('fmod', 0) === 1)(inputs), ...none }],
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
  unary('Softsign', (x) => div(x, add(abs(x), 1))),
  unary('HardSwish', hardSwish),
  unary('Mish', mish),
  ['Gelu', geluRule],
  ['Swish', { trace: (n) => mul(n.in(0), sigmoid(mul(n.in(0), n.float('alpha', 1)))) }],
  ['LeakyRelu', { trace: (n) => leakyRelu(n.in(0), n.float('alpha', 0.01)) }],
  ['PRelu', { trace: (n) => where(greater(n.in(0), 0), n.in(0), mul(n.in(0), n.in(1))) }],
  ['Elu', { trace: (n) => elu(n.in(0), n.float('alpha', 1)) }],
  ['Celu', { trace: (n) => eluLike(n.in(0), n.float('alpha', 1), n.float('alpha', 1)) }],
  ['Selu', { trace: (n) => mul(eluLike(n.in(0), n.float('alpha', 1.6732632)), n.float('gamma', 1.050701)) }],
  ['HardSigmoid', { trace: (n) => hardSigmoid(n.in(0), n.float('alpha', 0.2), n.float('beta', 0.5)) }],
  ['ThresholdedRelu', { trace: (n) => where(greater(n.in(0), n.float('alpha', 1)), n.in(0), 0) }],
  ['Dropout', { trace: dropped, note: 'drops when the file or `training` says so' }],
  ['Where', { trace: (n) => where(n.in(0), n.in(1), n.in(2)), ...foldOf('Where') }],
  binary('Equal', equal, none),
  binary('Greater', greater, none),
  binary('Less', less, none),
  binary('GreaterOrEqual', plainBinary('GreaterOrEqual', 'bool'), none),
  binary('LessOrEqual', plainBinary('LessOrEqual', 'bool'), none),
  binary('And', logicalAnd, none),
  binary('Or', plainBinary('Or'), none),
  binary('Xor', plainBinary('Xor'), none),
  binary('BitwiseAnd', plainBinary('BitwiseAnd'), none),
  binary('BitwiseOr', plainBinary('BitwiseOr'), none),
  binary('BitwiseXor', plainBinary('BitwiseXor'), none),
  unary('Not', logicalNot, none),
  unary('IsNaN', isNan, none),
  unary('IsInf', plainUnary('IsInf', 'bool'), none),
]);

/** a − b floor(a / b), or with the dividend's sign (fmod). */
function modulo(n: NodeContext): Tensor {
  const [a, b] = [n.in(0), n.in(1)];
  if (!isFloat(a.dtype)) return modOp(a, b);
  const ratio = stopGradient(div(a, b));
  const whole = n.int('fmod', 0) === 1 ? mul(sign(ratio), floor(abs(ratio))) : floor(ratio);
  return sub(a, mul(b, whole));
}

const modOp = plainBinary('Mod');
