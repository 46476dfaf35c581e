/** Matrix products. */
import { add, mul } from '../../ops/arithmetic.js';
import { cast } from '../../ops/compare.js';
import { einsum } from '../../ops/einsum.js';
import { linear, matMul } from '../../ops/matmul.js';
import { reshape } from '../../ops/shape.js';
import { tril, triu } from '../../ops/triangle.js';
import type { Tensor } from '../../tensor.js';
import type { NodeContext, OperatorRule, OperatorTable } from './context.js';

/** A vector on either side is a matrix with one row or column, which is then dropped. */
function product(a: Tensor, b: Tensor): Tensor {
  const left = a.rank === 1 ? reshape(a, [1, a.shape[0]!]) : a;
  const right = b.rank === 1 ? reshape(b, [b.shape[0]!, 1]) : b;
  const y = matMul(left, right);
  if (a.rank > 1 && b.rank > 1) return y;
  const rows = a.rank === 1 ? [] : [y.shape.at(-2)!];
  const columns = b.rank === 1 ? [] : [y.shape.at(-1)!];
  return reshape(y, [...y.shape.slice(0, -2), ...rows, ...columns]);
}

function gemm(n: NodeContext): Tensor {
  const [a, b, c] = [n.in(0), n.in(1), n.optional(2)];
  const [alpha, beta] = [n.float('alpha', 1), n.float('beta', 1)];
  const [transposeA, transposeB] = [n.int('transA', 0) !== 0, n.int('transB', 0) !== 0];
  const plain = alpha === 1 && beta === 1 && !transposeA && transposeB;
  if (plain && c?.rank === 1 && c.shape[0] === b.shape[0]) return linear(a, b, c);
  const y = matMul(a, b, { transposeA, transposeB, alpha });
  return c ? add(y, mul(c, beta)) : y;
}

/** y = alpha · op(a) op(b), one of the runtime's own operators. */
export const fusedMatMul: OperatorRule = {
  trace: (n) => {
    if (n.int('transBatchA', 0) !== 0 || n.int('transBatchB', 0) !== 0) throw n.unsupported('a transposed batch');
    const options = {
      transposeA: n.int('transA', 0) !== 0,
      transposeB: n.int('transB', 0) !== 0,
      alpha: n.float('alpha', 1),
    };
    return matMul(n.in(0), n.in(1), options);
  },
};

/** The upper or lower triangle of the last two axes, from the k-th diagonal; the runtime knows it for numbers only. */
function triangle(n: NodeContext): Tensor {
  const x = n.in(0);
  const k = n.has(1) ? n.number(1, 'k') : 0;
  const keep = n.int('upper', 1) !== 0 ? triu : tril;
  return x.dtype === 'bool' ? cast(keep(cast(x, 'float32'), k), 'bool') : keep(x, k);
}

export const linearOperators: OperatorTable = {
  MatMul: { trace: (n) => product(n.in(0), n.in(1)) },
  Gemm: { trace: gemm },
  Einsum: { trace: (n) => einsum(n.string('equation'), ...n.all()), note: 'a letter once in an operand' },
  Trilu: { trace: triangle },
};
