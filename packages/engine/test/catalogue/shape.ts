import type { Tensor } from '../../src/index.js';
import * as e from '../../src/index.js';
import type { InputSpec, OperatorCase } from './case.js';
import { unary } from './elementwise.js';

const places = (shape: readonly (number | 'm' | 'n' | 'k')[], below: number | 'm' | 'n' | 'k'): InputSpec => ({
  shape,
  dtype: 'int64',
  below,
});

export const shapeCases: OperatorCase[] = [
  unary('expand', (x) => e.expand(e.unsqueeze(x, -1), [...x.shape, 3]), 'a[..., None].expand(m, n, 3)'),
  unary('expand', (x) => e.expand(x, [2, ...x.shape]), 'a.expand(2, m, n)', { variant: 'leading axis' }),
  unary('reshape', (x) => e.reshape(x, [-1]), 'a.reshape(-1)'),
  unary('unsqueeze', (x) => e.unsqueeze(x, 0, -1), 'a[None, :, :, None]'),
  unary('transpose', e.transpose as (x: Tensor) => Tensor, 'a.T'),
  {
    operator: 'transpose',
    variant: 'perm',
    inputs: [['m', 'n', 'k']],
    fn: ([x]) => e.transpose(x!, [2, 0, 1]),
    torch: 'a.permute(2, 0, 1)',
  },
  { operator: 'slice', inputs: [['m', 5]], fn: ([x]) => e.slice(x!, 1, 1, 3), torch: 'a[:, 1:3]' },
  {
    operator: 'slice',
    variant: 'step 2',
    inputs: [['m', 6, 'n']],
    fn: ([x]) => e.slice(x!, 1, 1, 6, 2),
    torch: 'a[:, 1:6:2]',
  },
  {
    operator: 'slice',
    variant: 'step -2, last axis',
    inputs: [['m', 6]],
    fn: ([x]) => e.slice(x!, -1, 4, -1, -2),
    torch: 'a.flip(1)[:, 1::2]',
  },
  {
    operator: 'slice',
    variant: 'step -1, part',
    inputs: [['m', 6]],
    fn: ([x]) => e.slice(x!, 1, 4, 1, -1),
    torch: 'a[:, 2:5].flip(1)',
  },
  unary('flip', (x) => e.flip(x, [0, -1]), 'a.flip(0, 1)'),
  { operator: 'tril', inputs: [['k', 'm', 'm']], fn: ([x]) => e.tril(x!), torch: 'a.tril()' },
  { operator: 'triu', inputs: [['m', 'n']], fn: ([x]) => e.triu(x!, 1), torch: 'a.triu(1)' },
  {
    operator: 'embedding',
    inputs: [['m', 'n'], places([2, 3], 'm')],
    fn: ([table, at]) => e.embedding(table!, at!),
    torch: 'F.embedding(b, a)',
  },
  { operator: 'pad', inputs: [['m', 3]], fn: ([x]) => e.pad(x!, 1, 1, 6), torch: 'F.pad(a, (1, 2))' },
  {
    operator: 'concat',
    inputs: [
      ['m', 3],
      ['m', 2],
    ],
    fn: ([a, b]) => e.concat([a!, b!], 1),
    torch: 'torch.cat([a, b], 1)',
  },
  {
    operator: 'split',
    inputs: [['m', 5]],
    fn: ([x]) => e.concat(e.split(x!, [1, 3, 1]).reverse(), 1),
    torch: 'torch.cat(list(torch.split(a, [1, 3, 1], 1))[::-1], 1)',
  },
  unary('tile', (x) => e.tile(x, [2, 3]), 'a.tile(2, 3)'),
  {
    operator: 'gather',
    inputs: [['m', 'n'], places([2, 3], 'm')],
    fn: ([x, at]) => e.gather(x!, at!),
    torch: 'a[b]',
  },
  {
    operator: 'scatterAdd',
    inputs: [['m', 'n'], places(['m'], 4)],
    fn: ([x, at]) => e.scatterAdd(x!, at!, 4),
    torch: 'torch.zeros(4, n, dtype=a.dtype).index_add(0, b, a)',
  },
  {
    operator: 'moveRows',
    inputs: [
      [3, 'n'],
      { shape: [2, 2], dtype: 'int64', values: [2, 0, 1, 0] },
      { shape: [3], dtype: 'int64', values: [1, 2, 0] },
    ],
    // The last place is padding, which nothing may read.
    fn: ([x, at, back]) => e.slice(e.reshape(e.moveRows(x!, at!, back!), [4, x!.shape[1]!]), 0, 0, 3),
    torch: 'a[b].reshape(4, n)[:3]',
  },
  {
    operator: 'gatherElements',
    inputs: [['m', 'n'], places(['m', 3], 'n')],
    fn: ([x, at]) => e.gatherElements(x!, at!, 1),
    torch: 'torch.gather(a, 1, b)',
  },
  {
    operator: 'scatterElements',
    inputs: [['m', 3], places(['m', 3], 4)],
    fn: ([x, at]) => e.scatterElements(x!, at!, 1, 4),
    torch: 'torch.zeros(m, 4, dtype=a.dtype).scatter_add(1, b, a)',
  },
  {
    operator: 'topK',
    inputs: [['m', 5]],
    distinct: true,
    fn: ([x]) => e.topK(x!, 2).values,
    torch: 'torch.topk(a, 2).values',
  },
  {
    operator: 'topK',
    variant: 'places of the smallest, first axis',
    inputs: [[5, 'n']],
    distinct: true,
    fn: ([x]) => e.topK(x!, 2, { axis: 0, largest: false }).indices,
    torch: 'torch.topk(a, 2, dim=0, largest=False).indices',
    noGradient: 'result is int64',
  },
  unary('cumSum', (x) => e.cumSum(x, 1), 'torch.cumsum(a, 1)'),
  unary('cumSum', (x) => e.cumSum(x, 0, true), 'a.flip(0).cumsum(0).flip(0)', { variant: 'reverse' }),
  {
    operator: 'oneHot',
    inputs: [places(['m', 2], 4)],
    fn: ([at]) => e.oneHot(at!, 4),
    torch: 'F.one_hot(a, 4).float()',
    noGradient: 'of whole numbers',
  },
  {
    operator: 'arange',
    inputs: [['m', 'n']],
    fn: ([x]) => e.arange(x!.shape[1]!),
    torch: 'torch.arange(n)',
    noGradient: 'result is int64',
  },
  unary('sizeOf', (x) => e.sizeOf(x.shape, x.dtype), 'torch.tensor(float(m * n))', { noGradient: 'of sizes alone' }),
];
