import * as e from '../../src/index.js';
import type { OperatorCase } from './case.js';

export const matMulCases: OperatorCase[] = [
  ...[false, true].flatMap((transposeA) =>
    [false, true].map(
      (transposeB): OperatorCase => ({
        operator: 'matMul',
        variant: `${transposeA ? 'aᵀ' : 'a'} ${transposeB ? 'bᵀ' : 'b'}`,
        inputs: [transposeA ? ['k', 'm'] : ['m', 'k'], transposeB ? ['n', 'k'] : ['k', 'n']],
        fn: ([a, b]) => e.matMul(a!, b!, { transposeA, transposeB }),
        torch: `a${transposeA ? '.T' : ''} @ b${transposeB ? '.T' : ''}`,
      }),
    ),
  ),
  {
    operator: 'matMul',
    variant: 'scaled',
    inputs: [
      ['m', 'k'],
      ['k', 'n'],
    ],
    fn: ([a, b]) => e.matMul(a!, b!, { alpha: 0.5 }),
    torch: '0.5 * a @ b',
  },
  {
    operator: 'matMul',
    variant: 'batched, transposed, scaled',
    dtype: 'float32',
    inputs: [
      [2, 'k', 'm'],
      [2, 'n', 'k'],
    ],
    fn: ([a, b]) => e.matMul(a!, b!, { transposeA: true, transposeB: true, alpha: 2 }),
    torch: '2 * a.mT @ b.mT',
  },
  {
    operator: 'matMul',
    variant: 'batched, broadcast',
    inputs: [
      [2, 1, 'm', 'k'],
      [3, 'k', 'n'],
    ],
    fn: ([a, b]) => e.matMul(a!, b!),
    torch: 'a @ b',
  },
  {
    operator: 'matMul',
    variant: 'with a weight',
    inputs: [
      [2, 'm', 'k'],
      ['k', 'n'],
    ],
    fn: ([a, b]) => e.matMul(a!, b!),
    torch: 'a @ b',
  },
  {
    operator: 'matMul',
    variant: 'of a transpose',
    inputs: [
      ['m', 'k'],
      ['n', 'k'],
    ],
    fn: ([a, b]) => e.matMul(a!, e.transpose(b!)),
    torch: 'a @ b.T',
  },
  {
    operator: 'linear',
    inputs: [[2, 'm', 'k'], ['n', 'k'], ['n']],
    fn: ([x, w, b]) => e.linear(x!, w!, b!),
    torch: 'F.linear(a, b, c)',
  },
  {
    operator: 'linear',
    variant: 'without bias',
    inputs: [
      ['m', 'k'],
      ['n', 'k'],
    ],
    fn: ([x, w]) => e.linear(x!, w!),
    torch: 'F.linear(a, b)',
  },
  {
    operator: 'einsum',
    variant: 'one',
    inputs: [['m', 'n', 'k']],
    fn: ([x]) => e.einsum('abc->ca', x!),
    torch: 'torch.einsum("abc->ca", a)',
  },
  {
    operator: 'einsum',
    variant: 'product',
    inputs: [
      ['m', 'k'],
      ['k', 'n'],
    ],
    fn: ([a, b]) => e.einsum('ik,kj->ji', a!, b!),
    torch: 'torch.einsum("ik,kj->ji", a, b)',
  },
  {
    operator: 'einsum',
    variant: 'batched',
    inputs: [
      [2, 'm', 3, 'k'],
      [2, 'n', 3, 'k'],
    ],
    fn: ([a, b]) => e.einsum('bqhd,bkhd->bhqk', a!, b!),
    torch: 'torch.einsum("bqhd,bkhd->bhqk", a, b)',
  },
  {
    operator: 'einsum',
    variant: 'outer',
    inputs: [['m'], ['n']],
    fn: ([a, b]) => e.einsum('i,j->ij', a!, b!),
    torch: 'torch.outer(a, b)',
  },
  {
    operator: 'einsum',
    variant: 'ellipsis',
    inputs: [
      [2, 'm', 3, 'k'],
      [2, 'm', 'k', 'n'],
    ],
    fn: ([a, b]) => e.einsum('...ik,...kj->...ij', a!, b!),
    torch: 'torch.einsum("...ik,...kj->...ij", a, b)',
  },
  {
    operator: 'einsum',
    variant: 'three, without the result',
    inputs: [
      ['m', 'k'],
      ['k', 'n'],
      ['n', 2],
    ],
    fn: ([a, b, c]) => e.einsum('dk,kn,na', a!, b!, c!),
    torch: 'torch.einsum("dk,kn,na", a, b, c)',
  },
  {
    operator: 'attention',
    inputs: [
      [2, 'm', 3],
      [2, 'n', 3],
      [2, 'n', 'k'],
    ],
    fn: ([q, k, v]) => e.attention(q!, k!, v!),
    torch: 'F.scaled_dot_product_attention(a, b, c)',
    tolerance: 1e-7, // the scale becomes a float32 attribute of a fused product
  },
  {
    operator: 'attention',
    variant: 'causal, biased',
    inputs: [
      [2, 'm', 3],
      [2, 'm', 3],
      [2, 'm', 'k'],
      ['m', 'm'],
    ],
    dtype: 'float32',
    fn: ([q, k, v, bias]) => e.attention(q!, k!, v!, { causal: true, bias }),
    torch: 'F.scaled_dot_product_attention(a, b, c, d + torch.full((m, m), -1e9).triu(1))',
  },
  {
    operator: 'rotary',
    inputs: [
      ['m', 'n', 4],
      ['n', 2],
      ['n', 2],
    ],
    fn: ([x, cosine, sine]) => e.rotary(x!, cosine!, sine!),
    torch: 'torch.cat([a[..., :2] * b - a[..., 2:] * c, a[..., 2:] * b + a[..., :2] * c], -1)',
  },
];
