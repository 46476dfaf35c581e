import { sameShape } from '../dims.js';
import { hostTensor, onnxType } from '../host-tensor.js';
import type { Op, Tensor } from '../tensor.js';
import { apply, scalar } from '../tensor.js';
import type { Operand } from './arithmetic.js';
import { add, binaryOp, div, mul, neg, operands, sub, sumTo } from './arithmetic.js';
import { elementwise } from './batching.js';
import { equal, where } from './compare.js';

/** An elementwise operator of one operand, by its derivative: `derivative(x, y)` with y the output. */
export function unaryOp(name: string, derivative: (x: Tensor, y: Tensor) => Tensor): Op {
  return {
    name,
    acceptsBroadcastCotangent: true,
    shape: ([x]) => x!,
    vjp: ([x], dy, { outputs: [y] }) => [mul(dy, derivative(x!, y!))],
    batch: elementwise,
  };
}

const expOp = unaryOp('Exp', (_, y) => y);
const logOp = unaryOp('Log', (x) => div(1, x));
const sqrtOp = unaryOp('Sqrt', (_, y) => div(0.5, y));
const absOp = unaryOp('Abs', (x) => sign(x));
const sinOp = unaryOp('Sin', (x) => cos(x));
const cosOp = unaryOp('Cos', (x) => neg(sin(x)));
const tanhOp = unaryOp('Tanh', (_, y) => sub(1, mul(y, y)));
const sigmoidOp = unaryOp('Sigmoid', (_, y) => mul(y, sub(1, y)));
const signOp: Op = {
  name: 'Sign',
  shape: ([x]) => x!,
  emit: (context, node, [x]) => {
    const { dtype } = node.inputs[0]!;
    if (context.backend !== 'webgpu' || dtype !== 'float32') return context.node('Sign', [x!]);
    const zero = context.constant(hostTensor(dtype, [], [0]));
    const [above, below] = ['Greater', 'Less'].map((type) => {
      const [holds] = context.node(type, [x!, zero]);
      return context.node('Cast', [holds!], { to: onnxType[dtype] })[0]!;
    });
    return context.node('Sub', [above!, below!]);
  },
  vjp: () => [undefined],
  batch: elementwise,
};
const roundOp: Op = {
  name: 'Round',
  shape: ([x]) => x!,
  emit: (context, node, [x]) => {
    const { dtype } = node.inputs[0]!;
    if (context.backend !== 'webgpu' || dtype !== 'float32') return context.node('Round', [x!]);
    const number = (value: number) => context.constant(hostTensor(dtype, [], [value]));
    const one = (type: string, ...inputs: string[]) => context.node(type, inputs)[0]!;
    // ⌊x + ½⌋ rounds ties up; an odd result of a tie is one too large.
    const up = one('Floor', one('Add', x!, number(0.5)));
    const tie = one('Equal', one('Sub', up, x!), number(0.5));
    const half = one('Mul', up, number(0.5));
    const odd = one('Mul', one('Sub', half, one('Floor', half)), number(2));
    return context.node('Sub', [up, one('Where', tie, odd, number(0))]);
  },
  vjp: () => [undefined],
  batch: elementwise,
};
const ceilOp: Op = { name: 'Ceil', shape: ([x]) => x!, vjp: () => [undefined], batch: elementwise };
const isNanOp: Op = {
  name: 'IsNaN',
  shape: ([x]) => ({ dtype: 'bool', shape: x!.shape }),
  vjp: 'none',
  batch: elementwise,
};
// y = 1 / x  =>  dx = -dy y²
const reciprocalOp = unaryOp('Reciprocal', (_, y) => neg(mul(y, y)));
const floorOp: Op = { name: 'Floor', shape: ([x]) => x!, vjp: () => [undefined], batch: elementwise };
// d erf(x)/dx = 2/√π · exp(−x²)
const erfOp = unaryOp('Erf', (x) => mul(exp(neg(mul(x, x))), 2 / Math.sqrt(Math.PI)));
// Gradient 0 at 0, as PyTorch has it.
const reluOp: Op = {
  name: 'Relu',
  acceptsBroadcastCotangent: true,
  shape: ([x]) => x!,
  vjp: (_, dy, { outputs: [y] }) => [mul(dy, apply(positiveOp, [y!]))],
  batch: elementwise,
};
/**
 * 1 where x > 0, else 0, of a x that is nowhere negative; its gradient is zero. A steep hard sigmoid and a product take
 * half the time of a comparison and a choice.
 */
const positiveOp: Op = {
  name: 'Positive',
  shape: ([x]) => x!,
  emit: (context, node, [x]) => {
    const { dtype } = node.inputs[0]!;
    if (dtype === 'float32') return context.node('HardSigmoid', [x!], { alpha: 1e30, beta: 0 });
    return context.node('Sign', [x!]);
  },
  vjp: () => [undefined],
  batch: elementwise,
};
/** Exact GELU, x Φ(x) (Hendrycks & Gimpel 2016, arXiv:1606.08415), as ONNX's fused operator (opset 20). */
const geluOp = unaryOp('Gelu', (x) => {
  // d/dx x Φ(x) = Φ(x) + x φ(x); with u = x/√2 that is (1 + erf u)/2 + u e^(−u²)/√π, in as few passes as there are.
  const u = mul(x, Math.SQRT1_2);
  const cdf = add(mul(erf(u), 0.5), 0.5);
  return add(cdf, mul(u, exp(sub(-0.5 * Math.log(Math.PI), mul(u, u)))));
});
/** GELU by its tanh approximation, x σ(2 a (x + b x³)) with a = √(2/π), b = 0.044715, as ONNX's fused operator. */
const [tanhLinear, tanhCubic] = [2 * Math.sqrt(2 / Math.PI), 2 * Math.sqrt(2 / Math.PI) * 0.044715];
const tanhGate = (x: Tensor) => sigmoid(mul(x, add(mul(mul(x, x), tanhCubic), tanhLinear)));
const geluTanhOp: Op = {
  ...unaryOp('GeluTanh', (x) => {
    const gate = tanhGate(x);
    const slope = mul(x, add(mul(mul(x, x), 3 * tanhCubic), tanhLinear));
    return add(gate, mul(slope, mul(gate, sub(1, gate))));
  }),
  emit: (context, _, inputs) => context.node('Gelu', inputs, { approximate: 'tanh' }),
};
// x^p, p a constant exponent
const powOp: Op = {
  name: 'Pow',
  acceptsBroadcastCotangent: true,
  shape: ([x]) => x!,
  emit: (context, node, [x]) => {
    const exponent = node.attributes.exponent as number;
    return context.node('Pow', [x!, context.constant(hostTensor(node.inputs[0]!.dtype, [], [exponent]))]);
  },
  vjp: ([x], dy, { attributes }) => {
    const p = attributes.exponent as number;
    return [mul(dy, mul(pow(x!, p - 1), p))];
  },
  batch: elementwise,
};

// y = a^b  =>  da = dy b a^(b−1), db = dy y log a; with 0⁰ = 1 and no slope of a constant, as PyTorch decides them.
const tensorPowOp: Op = {
  ...binaryOp('Pow', ([a, b], dy, { outputs: [y] }) => {
    const slope = where(equal(b!, 0), 0, mul(b!, pow(a!, sub(b!, 1))));
    const logarithm = where(equal(a!, 0), 0, log(where(equal(a!, 0), 1, a!)));
    return [sumTo(mul(dy, slope), a!.shape, y!.shape), sumTo(mul(dy, mul(y!, logarithm)), b!.shape, y!.shape)];
  }),
  emit: (context, node, inputs) => {
    // WebGPU's Pow fails where both operands are broadcast.
    const { shape } = node.outputs[0]!;
    const whole = (i: number) => context.backend !== 'webgpu' || sameShape(node.inputs[i]!.shape, shape);
    const operands = inputs.map((input, i) =>
      whole(i) ? input : context.node('Expand', [input, context.shape(shape)])[0]!,
    );
    return context.node('Pow', operands);
  },
};

export const exp = (x: Tensor): Tensor => apply(expOp, [x]);
export const log = (x: Tensor): Tensor => apply(logOp, [x]);
export const sqrt = (x: Tensor): Tensor => apply(sqrtOp, [x]);
export const abs = (x: Tensor): Tensor => apply(absOp, [x]);
export const sin = (x: Tensor): Tensor => apply(sinOp, [x]);
export const cos = (x: Tensor): Tensor => apply(cosOp, [x]);
export const tanh = (x: Tensor): Tensor => apply(tanhOp, [x]);
export const sigmoid = (x: Tensor): Tensor => apply(sigmoidOp, [x]);
export const erf = (x: Tensor): Tensor => apply(erfOp, [x]);
export const relu = (x: Tensor): Tensor => apply(reluOp, [x]);
export const gelu = (x: Tensor): Tensor => apply(geluOp, [x]);
/** Gaussian error linear unit by its tanh approximation. Hendrycks & Gimpel 2016, arXiv:1606.08415. */
export const geluTanh = (x: Tensor): Tensor => (x.dtype === 'float64' ? mul(x, tanhGate(x)) : apply(geluTanhOp, [x])); // the fused one rounds as float32 does
/** -1, 0 or 1; its gradient is zero everywhere and is not traced. */
export const sign = (x: Tensor): Tensor => apply(signOp, [x]);

/** To the nearest whole number, halves to even; gradient zero. */
export const round = (x: Tensor): Tensor => apply(roundOp, [x]);
export const floor = (x: Tensor): Tensor => apply(floorOp, [x]);

export const ceil = (x: Tensor): Tensor => apply(ceilOp, [x]);
/** Towards zero. */
export const trunc = (x: Tensor): Tensor => mul(sign(x), floor(abs(x)));
export const reciprocal = (x: Tensor): Tensor => apply(reciprocalOp, [x]);
/** bool: true where the element is not a number. */
export const isNan = (x: Tensor): Tensor => apply(isNanOp, [x]);

/**
 * x to a power: a number, or a tensor that broadcasts. A tensor exponent has a gradient where x is positive; where x is 0
 * it is 0, and below it is NaN.
 */
export function pow(x: Tensor, exponent: Operand): Tensor {
  if (typeof exponent !== 'number') return apply(tensorPowOp, operands(x, exponent));
  if (exponent === 1) return x;
  if (exponent === 0) return where(equal(x, x), scalar(1, x.dtype), scalar(1, x.dtype));
  if (exponent === 2) return mul(x, x);
  return apply(powOp, [x], { exponent });
}
