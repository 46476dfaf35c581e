import * as e from '../../src/index.js';
import type { OperatorCase } from './case.js';
import { unary } from './elementwise.js';

/** Normalisation, losses, noise and quantisation. */
export const compositeCases: OperatorCase[] = [
  unary('l2Normalize', (x) => e.l2Normalize(x), 'F.normalize(a, dim=-1)', { range: [0.5, 2] }),
  {
    operator: 'layerNorm',
    variant: 'fused',
    dtype: 'float32',
    distinct: true,
    inputs: [['m', 5], [5], [5]],
    fn: ([x, scale, bias]) => e.layerNorm(x!, scale!, bias!),
    torch: 'F.layer_norm(a, (5,), b, c)',
  },
  {
    operator: 'layerNorm',
    variant: 'written out',
    distinct: true,
    inputs: [['m', 5], [5], [5]],
    fn: ([x, scale, bias]) => e.layerNorm(x!, scale!, bias!),
    torch: 'F.layer_norm(a, (5,), b, c)',
  },
  {
    operator: 'rmsNorm',
    range: [0.5, 2],
    inputs: [['m', 'n'], ['n']],
    fn: ([x, scale]) => e.rmsNorm(x!, scale!),
    torch: 'F.rms_norm(a, (n,), b, eps=1e-6)',
  },
  {
    operator: 'groupNorm',
    distinct: true,
    inputs: [['m', 4, 3], [4], [4]],
    fn: ([x, scale, bias]) => e.groupNorm(x!, 2, scale!, bias!),
    torch: 'F.group_norm(a, 2, b, c)',
  },
  {
    operator: 'instanceNorm',
    distinct: true,
    inputs: [['m', 2, 4], [2], [2]],
    fn: ([x, scale, bias]) => e.instanceNorm(x!, scale!, bias!),
    torch: 'F.instance_norm(a, weight=b, bias=c)',
  },
  {
    operator: 'batchNorm',
    variant: 'by the batch',
    distinct: true,
    inputs: [['m', 2, 3], [2], [2]],
    fn: ([x, scale, bias]) => e.batchNorm(x!, scale!, bias!).y,
    torch: 'F.batch_norm(a, None, None, b, c, training=True)',
  },
  {
    operator: 'batchNorm',
    variant: 'by given statistics',
    range: [0.5, 2],
    inputs: [['m', 2, 3], [2], [2], [2], [2]],
    fn: ([x, scale, bias, mean, variance]) =>
      e.batchNorm(x!, scale!, bias!, { statistics: { mean: mean!, variance: variance! } }).y,
    torch: 'F.batch_norm(a, d, e, b, c)',
  },
  {
    operator: 'crossEntropy',
    inputs: [['m', 3], { shape: ['m'], dtype: 'int64', below: 3 }],
    fn: ([x, targets]) => e.crossEntropy(x!, targets!),
    torch: 'F.cross_entropy(a, b)',
  },
  unary('dropout', (x) => e.dropout(x, 0.4, 3), 'a * (random_uniform(a.shape, 3) >= 0.4) / 0.6', { tolerance: 1e-7 }),
  {
    operator: 'randomUniform',
    inputs: [['m', 'n']],
    fn: ([x]) => e.randomUniform(x!.shape, 5),
    torch: 'random_uniform((m, n), 5)',
    noGradient: 'of no input',
  },
  {
    operator: 'dequantize',
    inputs: [
      { shape: ['m', 'n'], dtype: 'int8', from: -9, below: 10 },
      { shape: ['m', 1], dtype: 'float32', range: [0.1, 0.2] },
    ],
    fn: ([values, scale]) => e.dequantize(values!, scale!),
    torch: 'a * b',
    dtype: 'float32',
  },
  unary('fakeQuantize', (x) => e.fakeQuantize(x, 4), 'fake_quantize(a, 4)', {
    noGradient: 'straight-through by intention, not the derivative',
  }),
];
