import * as e from '../../src/index.js';
import type { OperatorCase } from './case.js';
import { unary } from './elementwise.js';

const positive = { range: [0.5, 2] } as const;

export const reduceCases: OperatorCase[] = [
  unary('sum', (x) => e.sum(x), 'a.sum()', { variant: 'all' }),
  unary('sum', (x) => e.sum(x, { axes: [0] }), 'a.sum(0)', { variant: 'axis' }),
  unary('sum', (x) => e.sum(x, { axes: [-1], keepDims: true }), 'a.sum(-1, keepdim=True)', { variant: 'keepDims' }),
  unary('mean', (x) => e.mean(x), 'a.mean()', { variant: 'all' }),
  unary('mean', (x) => e.mean(x, { axes: [-1], keepDims: true }), 'a.mean(-1, keepdim=True)', { variant: 'axis' }),
  unary('max', (x) => e.max(x, { axes: [1] }), 'a.amax(1)', { distinct: true }),
  unary('min', (x) => e.min(x, { axes: [1] }), 'a.amin(1)', { distinct: true }),
  unary('logSumExp', (x) => e.logSumExp(x, { axes: [1] }), 'torch.logsumexp(a, 1)'),
  unary('sumSquares', (x) => e.sumSquares(x, { axes: [1] }), '(a * a).sum(1)'),
  unary('l2Norm', (x) => e.l2Norm(x, { axes: [1] }), 'a.norm(dim=1)', positive),
  unary('l1Norm', (x) => e.l1Norm(x, { axes: [0] }), 'a.abs().sum(0)', positive),
  unary('prod', (x) => e.prod(x, { axes: [-1] }), 'a.prod(-1)'),
  {
    operator: 'prod',
    variant: 'two axes, with zeros',
    inputs: [
      { shape: [3, 2, 3], dtype: 'float64', values: [1, 0, 2, 3, 1, 1, 1, 2, 1, 0, 1, 0, 2, 1, 1, 1, 1, 3] },
      ['n'],
    ],
    fn: ([x, scale]) => e.mul(e.prod(x!, { axes: [0, 2], keepDims: true }), scale!),
    torch: 'a.prod(0, keepdim=True).prod(2, keepdim=True) * b',
  },
  unary('argMin', (x) => e.argMin(x, 0), 'a.argmin(0)', { distinct: true, noGradient: 'result is int64' }),
  unary('argMax', (x) => e.argMax(x), 'a.argmax(-1)', { distinct: true, noGradient: 'result is int64' }),
  unary('softmax', (x) => e.softmax(x), 'torch.softmax(a, -1)'),
  unary('softmax', (x) => e.softmax(x, 0), 'torch.softmax(a, 0)', { variant: 'first axis' }),
  unary('logSoftmax', (x) => e.logSoftmax(x), 'torch.log_softmax(a, -1)'),
];
