import * as e from '../../src/index.js';
import type { OperatorCase } from './case.js';

const resized = (variant: string, options: e.ResizeOptions, torch: string, sizes = [4, 5]): OperatorCase => ({
  operator: 'resize',
  variant,
  inputs: [['m', 2, ...sizes]],
  fn: ([x]) => e.resize(x!, options),
  torch,
});

/** Convolution and pooling: ONNX Runtime's CPU has them in float32. */
export const visionCases: OperatorCase[] = [
  {
    operator: 'conv',
    variant: '1-D, stride, padding',
    inputs: [['m', 2, 7], [3, 2, 3], [3]],
    dtype: 'float32',
    fn: ([x, w, b]) => e.conv(x!, w!, b, { stride: 2, padding: 1 }),
    torch: 'F.conv1d(a, b, c, stride=2, padding=1)',
  },
  {
    operator: 'conv',
    variant: '2-D',
    inputs: [
      ['m', 2, 4, 5],
      [3, 2, 2, 3],
    ],
    dtype: 'float32',
    fn: ([x, w]) => e.conv(x!, w!),
    torch: 'F.conv2d(a, b)',
  },
  {
    operator: 'conv',
    variant: 'stride 2 that does not divide, dilation, groups',
    inputs: [
      [2, 4, 6, 7],
      [6, 2, 2, 2],
    ],
    dtype: 'float32',
    fn: ([x, w]) => e.conv(x!, w!, undefined, { stride: 2, padding: 1, dilation: 2, groups: 2 }),
    torch: 'F.conv2d(a, b, stride=2, padding=1, dilation=2, groups=2)',
  },
  {
    operator: 'conv',
    variant: 'depthwise',
    inputs: [
      ['m', 3, 5, 5],
      [3, 1, 3, 3],
    ],
    dtype: 'float32',
    fn: ([x, w]) => e.conv(x!, w!, undefined, { padding: 1, groups: 3 }),
    torch: 'F.conv2d(a, b, padding=1, groups=3)',
  },
  {
    operator: 'convTranspose',
    inputs: [['m', 2, 3, 3], [2, 3, 3, 3], [3]],
    dtype: 'float32',
    fn: ([x, w, b]) => e.convTranspose(x!, w!, b, { stride: 2, padding: 1, outputPadding: 1 }),
    torch: 'F.conv_transpose2d(a, b, c, stride=2, padding=1, output_padding=1)',
  },
  {
    operator: 'maxPool',
    inputs: [['m', 2, 4, 4]],
    dtype: 'float32',
    distinct: true,
    fn: ([x]) => e.maxPool(x!, { kernel: 2 }),
    torch: 'F.max_pool2d(a, 2)',
  },
  {
    operator: 'maxPool',
    variant: 'overlapping',
    inputs: [['m', 2, 5, 5]],
    dtype: 'float32',
    distinct: true,
    fn: ([x]) => e.maxPool(x!, { kernel: 3, stride: 2, padding: 1 }),
    torch: 'F.max_pool2d(a, 3, 2, 1)',
  },
  {
    operator: 'averagePool',
    inputs: [['m', 2, 4, 4]],
    dtype: 'float32',
    fn: ([x]) => e.averagePool(x!, { kernel: 2 }),
    torch: 'F.avg_pool2d(a, 2)',
  },
  {
    operator: 'averagePool',
    variant: 'overlapping, padded',
    inputs: [['m', 2, 5, 5]],
    dtype: 'float32',
    fn: ([x]) => e.averagePool(x!, { kernel: 3, stride: 2, padding: 1 }),
    torch: 'F.avg_pool2d(a, 3, 2, 1)',
  },
  resized(
    'nearest, twice',
    { scales: 2, coordinates: 'asymmetric', rounding: 'floor' },
    'F.interpolate(a, scale_factor=2)',
  ),
  resized(
    'nearest, half',
    { scales: 0.5, coordinates: 'asymmetric', rounding: 'floor' },
    'F.interpolate(a, scale_factor=0.5)',
  ),
  resized(
    'nearest, other sizes, half_pixel',
    { sizes: [7, 3], rounding: 'round_prefer_ceil' },
    'F.interpolate(a, size=(7, 3), mode="nearest-exact")',
  ),
  resized('linear', { sizes: [7, 3], mode: 'linear' }, 'F.interpolate(a, size=(7, 3), mode="bilinear")'),
  resized(
    'linear, align_corners',
    { sizes: [7, 9], mode: 'linear', coordinates: 'align_corners' },
    'F.interpolate(a, size=(7, 9), mode="bilinear", align_corners=True)',
  ),
  resized('linear, 1-D', { scales: 1.5, mode: 'linear' }, 'F.interpolate(a, scale_factor=1.5, mode="linear")', [6]),
  resized(
    'linear, asymmetric',
    { scales: 2, mode: 'linear', coordinates: 'asymmetric' },
    'asymmetric_linear(a, 2)',
    [4],
  ),
  resized('cubic', { scales: 2, mode: 'cubic' }, 'F.interpolate(a, scale_factor=2, mode="bicubic")'),
  {
    operator: 'globalAveragePool',
    inputs: [['m', 2, 'n', 3]],
    fn: ([x]) => e.globalAveragePool(x!),
    torch: 'a.mean((2, 3))',
  },
];
