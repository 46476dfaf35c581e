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
    variant: 'one scale',
    inputs: [
      { shape: ['m', 'n'], dtype: 'uint8', below: 16 },
      { shape: [], dtype: 'float32', range: [0.1, 0.2] },
      { shape: [], dtype: 'uint8', values: [8] },
    ],
    fn: ([values, scale, zeroPoint]) => e.dequantize(values!, scale!, zeroPoint),
    torch: '(a.double() - c.double()) * b',
    dtype: 'float32',
  },
  {
    operator: 'dequantize',
    variant: 'a scale for each row',
    inputs: [
      { shape: ['m', 'n'], dtype: 'int8', from: -9, below: 10 },
      { shape: ['m', 1], dtype: 'float32', range: [0.1, 0.2] },
    ],
    fn: ([values, scale]) => e.dequantize(values!, scale!),
    torch: 'a * b',
    dtype: 'float32',
  },
  {
    operator: 'dequantize',
    variant: 'blocks',
    inputs: [
      { shape: ['m', 2, 3], dtype: 'int8', from: -9, below: 10 },
      { shape: ['m', 2, 1], dtype: 'float32', range: [0.1, 0.2] },
    ],
    fn: ([values, scale]) => e.dequantize(values!, scale!),
    torch: 'a * b',
    dtype: 'float32',
  },
  ...([4, 8] as const).map(
    (bits): OperatorCase => ({
      operator: 'linearNBits',
      variant: `${bits} bits`,
      inputs: [
        ['m', 'k', 40],
        { shape: [3, 2, 4 * bits], dtype: 'uint8', below: 256 },
        {
          shape: [3, bits / 4],
          dtype: 'uint8',
          values: bits === 4 ? [0x78, 0x97, 0x6a] : [120, 140, 128, 110, 130, 99],
        },
        [3],
      ],
      fn: ([x, packed, zeroPoints, bias]) => {
        const scales = e.constant(
          e.hostTensor(
            'float32',
            [3, 2],
            [4, 8, 12, 8, 6, 4].map((step) => step / 100 / bits),
          ),
        );
        return e.linearNBits(x!, { packed: packed!, scales, zeroPoints, bits }, bias);
      },
      torch: `F.linear(a, unpack(b, ${bits}, torch.tensor([[4, 8], [12, 8], [6, 4]]) / 100 / ${bits}, c)[:, :40], d)`,
      dtype: 'float32',
      tolerance: 1e-4, // products with weights rounded to 16 bits on some machines
    }),
  ),
  ...([4, 8] as const).map(
    (bits): OperatorCase => ({
      operator: 'dequantizeNBits',
      variant: `${bits} bits`,
      inputs: [
        { shape: ['m', 2, 4 * bits], dtype: 'uint8', from: bits === 4 ? 0 : 120, below: bits === 4 ? 256 : 136 },
        { shape: ['m', bits / 4], dtype: 'uint8', from: bits === 4 ? 0 : 120, below: bits === 4 ? 256 : 136 },
        { shape: ['m', 2], dtype: 'float32', range: [0.1, 0.2] },
      ],
      fn: ([packed, zeroPoints, scales]) =>
        e.dequantizeNBits({ packed: packed!, scales: scales!, zeroPoints, bits }, 40),
      torch: `unpack(a, ${bits}, c, b)[:, :40]`,
      dtype: 'float32',
    }),
  ),
  {
    operator: 'unpackNBits',
    inputs: [{ shape: ['m', 'n', 3], dtype: 'uint8', below: 256 }],
    fn: ([bytes]) => e.unpackNBits(bytes!, 4),
    torch: 'torch.stack([a & 15, a >> 4], -1).flatten(-2)',
    noGradient: 'of no input',
  },
  {
    operator: 'linearWritten',
    inputs: [['m', 'n', 5], { shape: [3, 5], dtype: 'int8', from: -9, below: 10 }, [3]],
    fn: ([x, whole, bias]) => e.linearWritten(x!, [whole!], ([held]) => e.dequantize(held!, e.scalar(0.1)), bias),
    torch: 'F.linear(a, b.double() * 0.1, c)',
    dtype: 'float32',
  },
  unary('fakeQuantize', (x) => e.fakeQuantize(x, 4), 'fake_quantize(a, 4)', {
    noGradient: 'straight-through by intention, not the derivative',
  }),
];
