import type { Dim } from '../dims.js';
import { showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import { hostTensor } from '../host-tensor.js';
import type { Attributes, Op, Tensor } from '../tensor.js';
import { apply, scalarValue } from '../tensor.js';
import { add, mul, scaledByScalar, sumTo } from './arithmetic.js';
import { alignExample } from './batching.js';
import { broadcastShapes } from './broadcast.js';
import { beforeSwap, reshape } from './shape.js';

export interface MatMulOptions {
  /** Take the last two axes of `a` swapped. */
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  /** A factor on the product. */
  readonly alpha?: number;
}

type Flags = { transposeA: boolean; transposeB: boolean; alpha: number };

function matMulShape(a: Tensor, b: Tensor, { transposeA, transposeB }: Flags): Dim[] {
  const [m, k] = lastTwo(a, transposeA);
  const [inner, n] = lastTwo(b, transposeB);
  if (k !== inner) {
    const show = (x: Tensor, flag: boolean) => `${showShape(x.shape)}${flag ? ' (transposed)' : ''}`;
    throw new EngineError(
      'SHAPE_MISMATCH',
      `matMul: inner sizes differ, a ${show(a, transposeA)} x b ${show(b, transposeB)} (${k} against ${inner})`,
    );
  }
  return [...broadcastShapes('matMul', a.shape.slice(0, -2), b.shape.slice(0, -2)), m, n];
}

function lastTwo(x: Tensor, swapped: boolean): [Dim, Dim] {
  if (x.rank < 2) {
    throw new EngineError('SHAPE_MISMATCH', `matMul takes tensors of rank 2 or more, not ${showShape(x.shape)}`);
  }
  const [row, column] = [x.shape.at(-2)!, x.shape.at(-1)!];
  return swapped ? [column, row] : [row, column];
}

const matMulOp: Op = {
  name: 'MatMul',
  /** a [..., m, k], b [..., k, n] -> [..., m, n]; leading axes broadcast. */
  shape: ([a, b], flags) => ({ dtype: a!.dtype, shape: matMulShape(a!, b!, flags as Flags) }),
  emit: (context, node, inputs) => {
    const { transposeA, transposeB, alpha } = node.attributes as Flags;
    const [a, b] = node.inputs as [Tensor, Tensor];
    if (!transposeA && !transposeB && alpha === 1) return context.node('MatMul', inputs);
    if (a.rank === 2 && b.rank === 2) {
      return context.node('Gemm', inputs, { transA: Number(transposeA), transB: Number(transposeB), alpha });
    }
    if (!context.portable && context.backend !== 'webgpu' && a.dtype === 'float32') {
      const attributes = { transA: Number(transposeA), transB: Number(transposeB), alpha };
      return context.node('FusedMatMul', inputs, attributes, { domain: 'com.microsoft' });
    }
    const swap = (name: string, x: Tensor, flag: boolean) =>
      flag
        ? context.node('Transpose', [name], { perm: [...Array(x.rank - 2).keys(), x.rank - 1, x.rank - 2] })[0]!
        : name;
    const factor = (name: string) =>
      alpha === 1 ? [name] : context.node('Mul', [name, context.constant(hostTensor(a.dtype, [], [alpha]))]);
    // In float16 the product could be too large before it is scaled down.
    const first = a.dtype === 'float16' ? factor(inputs[0]!)[0]! : inputs[0]!;
    const product = context.node('MatMul', [swap(first, a, transposeA), swap(inputs[1]!, b, transposeB)]);
    return a.dtype === 'float16' ? product : factor(product[0]!);
  },
  // y = α a b  =>  da = α dy bᵀ, db = α aᵀ dy, and likewise for transposed operands.
  vjp: ([a, b], dy, { outputs: [y], attributes }) => {
    const { transposeA, transposeB, alpha } = attributes as Flags;
    const batch = y!.shape.slice(0, -2);
    const da = transposeA
      ? matMul(b!, dy, { transposeA: transposeB, transposeB: true, alpha })
      : matMul(dy, b!, { transposeB: !transposeB, alpha });
    const db = transposeB
      ? matMul(dy, a!, { transposeA: true, transposeB: transposeA, alpha })
      : matMul(a!, dy, { transposeA: !transposeA, alpha });
    return [
      sumTo(da, a!.shape, [...batch, ...a!.shape.slice(-2)]),
      sumTo(db, b!.shape, [...batch, ...b!.shape.slice(-2)]),
    ];
  },
  // The batch is one more leading axis; with a shared second operand the product is folded to a single one.
  batch: ([a, b], { node, batched }) => {
    const rank = node.outputs[0]!.rank;
    return matMul(
      batched[0] ? alignExample(a!, rank) : a!,
      batched[1] ? alignExample(b!, rank) : b!,
      node.attributes as Flags,
    );
  },
};

/**
 * Matrix product, a [..., m, k] times b [..., k, n]; leading axes broadcast. A swap of the last two axes that stands
 * before an operand is folded into the product.
 *
 * @throws EngineError SHAPE_MISMATCH when inner sizes or leading axes do not fit
 */
export function matMul(a: Tensor, b: Tensor, options: MatMulOptions = {}): Tensor {
  let { transposeA = false, transposeB = false, alpha = 1 } = options;
  const [plainA, plainB] = [beforeSwap(a), beforeSwap(b)];
  if (plainA) transposeA = !transposeA;
  if (plainB) transposeB = !transposeB;
  let [x, y] = [plainA ?? a, plainB ?? b];
  // A factor that is a number goes into the product's own; any other scalar goes to whichever is smaller.
  let after: Tensor | undefined;
  const withoutFactor = (operand: Tensor, isLarger: boolean): Tensor => {
    const scaled = scaledByScalar(operand);
    const number = scaled && scalarValue(scaled.factor);
    if (!scaled || (number === undefined && !isLarger)) return operand;
    if (number !== undefined) alpha *= number;
    else after = after ? mul(after, scaled.factor) : scaled.factor;
    return scaled.rest;
  };
  if (x.rank >= 2 && y.rank >= 2) {
    const [m, inner] = lastTwo(x, transposeA);
    const [, n] = lastTwo(y, transposeB);
    [x, y] = [withoutFactor(x, isMore(inner, n)), withoutFactor(y, isMore(inner, m))];
  }
  const flags = { transposeA, transposeB, alpha };
  const times = (product: Tensor) => (after ? mul(product, after) : product);
  // One large product instead of many small ones, and a weight gradient that is one product as well.
  if (y.rank === 2 && x.rank > 2 && !transposeA) {
    const flat = times(apply(matMulOp, [reshape(x, [-1, x.shape.at(-1)!]), y], flags));
    return reshape(flat, [...x.shape.slice(0, -1), flat.shape[1]!]);
  }
  return times(apply(matMulOp, [x, y], flags as Attributes));
}

const isMore = (a: Dim, b: Dim): boolean => typeof a === 'number' && typeof b === 'number' && a > b;

const gemmOp: Op = {
  name: 'Gemm',
  /** x [m, in], weight [out, in], bias [out] -> [m, out] */
  shape: ([x, weight, bias]) => {
    const shape = matMulShape(x!, weight!, { transposeA: false, transposeB: true, alpha: 1 });
    if (bias!.rank !== 1 || bias!.shape[0] !== shape[1]) {
      throw new EngineError(
        'SHAPE_MISMATCH',
        `linear: bias ${showShape(bias!.shape)} does not fit weight ${showShape(weight!.shape)}`,
      );
    }
    return { dtype: x!.dtype, shape };
  },
  emit: (context, _, inputs) => context.node('Gemm', inputs, { transB: 1 }),
  vjp: ([x, weight, bias], dy, { outputs: [y] }) => [
    matMul(dy, weight!),
    matMul(dy, x!, { transposeA: true }),
    sumTo(dy, bias!.shape, y!.shape),
  ],
  batch: ([x, weight, bias], { batched }) => {
    if (!batched[1] && !batched[2]) return linear(x!, weight!, bias!);
    const y = matMul(x!, weight!, { transposeB: true });
    return add(y, batched[2] ? alignExample(bias!, 2) : bias!);
  },
};

/**
 * A dense layer, y = x Wᵀ + b.
 *
 * @param x       [..., in]
 * @param weight  [out, in], as checkpoints store it
 * @param bias    [out]
 */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  if (!bias) return matMul(x, weight, { transposeB: true });
  if (weight.rank === 2) {
    const flat = apply(gemmOp, [reshape(x, [-1, x.shape.at(-1)!]), weight, bias]);
    return reshape(flat, [...x.shape.slice(0, -1), flat.shape[1]!]);
  }
  return add(matMul(x, weight, { transposeB: true }), bias);
}
