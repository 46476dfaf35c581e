/** One-node ONNX models: what the operator table makes of each is compared with what the runtime itself computes. */
import * as e from '../src/index.js';

export type AttributeValue =
  | number
  | string
  | readonly number[]
  | { readonly float: number }
  | { readonly tensor: e.HostTensor };

export interface OperatorCase {
  readonly op: string;
  readonly what?: string;
  /** Fed at run time; `null` for one left out. */
  readonly inputs: readonly (e.HostTensor | null)[];
  /** Inputs (by their place) that are initialisers. */
  readonly constants?: readonly number[];
  readonly attributes?: Readonly<Record<string, AttributeValue>>;
  readonly outputs?: number;
  readonly opset?: number;
  readonly tolerance?: number;
}

/** Numbers that look random, without ties: halves of a golden-ratio sequence. */
export function numbers(shape: readonly number[], from = -1, to = 1, shift = 0): e.HostTensor {
  const count = e.elementCount(shape);
  const data = Float32Array.from(
    { length: count },
    (_, i) => from + (to - from) * (((i + 1 + shift * 97) * 0.618033988749895) % 1),
  );
  return e.hostTensor('float32', shape, data);
}

export const ints = (shape: readonly number[], values: readonly number[], dtype: e.DType = 'int64') =>
  e.hostTensor(dtype, shape, values);
const vector = (...values: number[]) => ints([values.length], values);
const bools = (shape: readonly number[]) =>
  e.hostTensor(
    'bool',
    shape,
    Array.from({ length: e.elementCount(shape) }, (_, i) => ((i * 7) % 3) % 2),
  );

const x = numbers([2, 3, 4]);
const positive = numbers([2, 3, 4], 0.5, 2);
const image = numbers([2, 4, 6, 6]);
const scale = numbers([4], 0.5, 1.5);
const shift = numbers([4], -1, 1, 3);
const float = (value: number) => ({ float: value });

const unary = (op: string, input = x, more: Partial<OperatorCase> = {}): OperatorCase => ({
  op,
  inputs: [input],
  ...more,
});
const binary = (op: string, more: Partial<OperatorCase> = {}): OperatorCase => ({
  op,
  inputs: [x, numbers([3, 1], 0.5, 2, 1)],
  ...more,
});
const wholes = ints([2, 3], [5, -5, 7, 2, -9, 4]);
const bits = ints([2, 3], [5, 1, 7, 2, 9, 4]);
const truth = (op: string): OperatorCase => ({ op, inputs: [bools([2, 3]), bools([3])] });
const reduce = (op: string): OperatorCase[] => [
  { op, what: 'axes as input', inputs: [positive, vector(0, -1)], constants: [1], opset: 18 },
  { op, what: 'all, dropped', inputs: [positive], attributes: { keepdims: 0 }, opset: 18 },
  ...(op === 'ReduceSum'
    ? []
    : [{ op, what: 'axes as attribute', inputs: [positive], attributes: { axes: [1] }, opset: 13 }]),
];
const ms = (op: string) => `com.microsoft.${op}`;
const heads = numbers([2, 5, 8]);

const fourBits = e.quantizeNBits(numbers([5, 40]), { bits: 4, blockSize: 16 });

export const operatorCases: readonly OperatorCase[] = [
  ...[
    'Neg',
    'Abs',
    'Exp',
    'Sin',
    'Cos',
    'Erf',
    'Sign',
    'Round',
    'Floor',
    'Ceil',
    'Relu',
    'Sigmoid',
    'Tanh',
    'Softplus',
    'Softsign',
    'HardSwish',
    'Mish',
    'LeakyRelu',
    'Elu',
    'Celu',
    'Selu',
    'HardSigmoid',
    'ThresholdedRelu',
    'Identity',
    'IsNaN',
    'IsInf',
    'Tan',
    'Asin',
    'Acos',
    'Atan',
    'Sinh',
    'Cosh',
    'Asinh',
    'Atanh',
  ].map((op) => unary(op)),
  ...['Log', 'Sqrt', 'Reciprocal'].map((op) => unary(op, positive)),
  unary('Acosh', numbers([2, 3, 4], 1.1, 3)),
  unary('Gelu'),
  unary('Gelu', x, { what: 'tanh', attributes: { approximate: 'tanh' } }),
  unary('LeakyRelu', x, { what: 'alpha', attributes: { alpha: float(0.3) } }),
  unary('Elu', x, { what: 'alpha', attributes: { alpha: float(0.3) } }),
  unary('Celu', x, { what: 'alpha', attributes: { alpha: float(0.3) } }),
  unary('Selu', x, { what: 'alpha and gamma', attributes: { alpha: float(0.3), gamma: float(2) } }),
  unary('HardSigmoid', x, { what: 'alpha and beta', attributes: { alpha: float(0.7), beta: float(0.4) } }),
  { op: 'PRelu', inputs: [x, numbers([3, 1], 0.1, 0.4)] },
  ...['Add', 'Sub', 'Mul', 'Div', 'Max', 'Min', 'Equal', 'Greater', 'Less', 'GreaterOrEqual', 'LessOrEqual'].map((op) =>
    binary(op),
  ),
  { op: 'Sum', inputs: [x, positive, numbers([4])] },
  { op: 'Mean', inputs: [x, positive, numbers([4])] },
  { op: 'Div', what: 'whole numbers', inputs: [wholes, vector(2, 3, 4)] },
  { op: 'Pow', inputs: [positive, e.hostTensor('float32', [], [2.5])], constants: [1] },
  { op: 'Pow', what: 'square', inputs: [x, e.hostTensor('float32', [], [2])], constants: [1] },
  { op: 'Mod', inputs: [wholes, vector(2, 3, 4)] },
  { op: 'Mod', what: 'fmod', inputs: [x, numbers([3, 1], 0.3, 0.6, 1)], attributes: { fmod: 1 } },
  {
    op: 'Clip',
    inputs: [x, e.hostTensor('float32', [], [-0.3]), e.hostTensor('float32', [], [0.4])],
    constants: [1, 2],
  },
  { op: 'Clip', what: 'one bound', inputs: [x, null, e.hostTensor('float32', [], [0.4])], constants: [2] },
  { op: 'Dropout', inputs: [x] },
  { op: 'Where', inputs: [bools([3, 1]), x, positive] },
  truth('And'),
  truth('Or'),
  truth('Xor'),
  { op: 'Not', inputs: [bools([2, 3])] },
  ...['BitwiseAnd', 'BitwiseOr', 'BitwiseXor'].map((op): OperatorCase => ({ op, inputs: [bits, vector(3, 6, 5)] })),
  { op: 'MatMul', inputs: [x, numbers([4, 5])] },
  { op: 'MatMul', what: 'batches', inputs: [numbers([2, 1, 3, 4]), numbers([5, 4, 2])] },
  { op: 'MatMul', what: 'vectors', inputs: [numbers([4]), numbers([2, 4, 3])] },
  { op: 'MatMul', what: 'a vector on the right', inputs: [x, numbers([4])] },
  { op: 'Gemm', inputs: [numbers([2, 3]), numbers([3, 4]), numbers([4])] },
  {
    op: 'Gemm',
    what: 'everything set',
    inputs: [numbers([3, 2]), numbers([4, 3]), numbers([2, 1])],
    attributes: { transA: 1, transB: 1, alpha: float(0.5), beta: float(2) },
  },
  {
    op: 'Gemm',
    what: 'as PyTorch exports it',
    inputs: [numbers([2, 3]), numbers([4, 3]), numbers([4])],
    attributes: { transB: 1 },
  },
  { op: 'Einsum', inputs: [numbers([2, 3, 4]), numbers([2, 5, 4])], attributes: { equation: 'bij,bkj->bik' } },
  { op: 'Trilu', inputs: [numbers([2, 4, 5])] },
  { op: 'Trilu', what: 'of flags', inputs: [bools([4, 5])] },
  {
    op: 'Trilu',
    what: 'lower, shifted',
    inputs: [numbers([2, 4, 5]), ints([], [-1])],
    constants: [1],
    attributes: { upper: 0 },
  },
  ...[
    'ReduceSum',
    'ReduceMean',
    'ReduceMax',
    'ReduceMin',
    'ReduceL1',
    'ReduceL2',
    'ReduceSumSquare',
    'ReduceLogSum',
    'ReduceLogSumExp',
    'ReduceProd',
  ].flatMap(reduce),
  { op: 'Softmax', inputs: [x], attributes: { axis: 1 } },
  { op: 'Softmax', what: 'opset 11: axes joined', inputs: [x], opset: 11 },
  { op: 'LogSoftmax', inputs: [x] },
  { op: 'LogSoftmax', what: 'opset 11: axes joined', inputs: [x], opset: 11 },
  { op: 'ArgMax', inputs: [x], attributes: { axis: 1 } },
  { op: 'ArgMin', inputs: [x], attributes: { axis: -1, keepdims: 0 } },
  { op: 'TopK', inputs: [x, vector(2)], constants: [1], outputs: 2 },
  { op: 'CumSum', inputs: [x, ints([], [1])], constants: [1] },
  {
    op: 'CumSum',
    what: 'exclusive, reverse',
    inputs: [x, ints([], [1])],
    constants: [1],
    attributes: { exclusive: 1, reverse: 1 },
  },
  { op: 'LayerNormalization', inputs: [x, scale, shift] },
  {
    op: 'LayerNormalization',
    what: 'two axes, no bias',
    inputs: [x, numbers([3, 4], 0.5, 1.5)],
    attributes: { axis: 1 },
  },
  { op: 'LayerNormalization', what: 'statistics', inputs: [x, scale, shift], outputs: 3 },
  { op: 'RMSNormalization', inputs: [x, scale], opset: 23 },
  { op: 'SimplifiedLayerNormalization', inputs: [x, scale], attributes: { epsilon: float(1e-6) } },
  { op: 'BatchNormalization', inputs: [image, scale, shift, numbers([4]), numbers([4], 0.5, 2)] },
  { op: 'InstanceNormalization', inputs: [image, scale, shift] },
  { op: 'GroupNormalization', inputs: [image, scale, shift], attributes: { num_groups: 2 }, opset: 21 },
  {
    op: 'GroupNormalization',
    what: 'one scale a group',
    inputs: [image, numbers([2]), numbers([2])],
    attributes: { num_groups: 2 },
    opset: 18,
  },
  { op: 'MeanVarianceNormalization', inputs: [image] },
  { op: 'LpNormalization', inputs: [x] },
  {
    op: 'Conv',
    inputs: [image, numbers([3, 4, 3, 3]), numbers([3])],
    attributes: { pads: [1, 1, 1, 1], strides: [2, 1] },
  },
  {
    op: 'Conv',
    what: 'grouped, dilated',
    inputs: [image, numbers([4, 2, 3, 2])],
    attributes: { group: 2, dilations: [2, 1] },
  },
  { op: 'Conv', what: 'padded unevenly', inputs: [image, numbers([3, 4, 3, 3])], attributes: { pads: [1, 0, 2, 1] } },
  { op: 'Conv', what: 'SAME_UPPER', inputs: [image, numbers([3, 4, 2, 2])], attributes: { auto_pad: 'SAME_UPPER' } },
  {
    op: 'Conv',
    what: 'SAME_LOWER',
    inputs: [image, numbers([3, 4, 2, 3])],
    attributes: { auto_pad: 'SAME_LOWER', strides: [2, 2] },
  },
  { op: 'Conv', what: 'one axis', inputs: [numbers([2, 4, 9]), numbers([3, 4, 3])], attributes: { strides: [2] } },
  {
    op: 'ConvTranspose',
    inputs: [image, numbers([4, 3, 3, 3]), numbers([3])],
    attributes: { strides: [2, 2], pads: [1, 1, 1, 1], output_padding: [1, 1] },
  },
  {
    op: 'ConvTranspose',
    what: 'uneven',
    inputs: [image, numbers([4, 3, 3, 3]), numbers([3])],
    attributes: { strides: [2, 2], pads: [0, 1, 1, 0], output_padding: [1, 0] },
  },
  { op: 'MaxPool', inputs: [image], attributes: { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] } },
  {
    op: 'MaxPool',
    what: 'ceil_mode',
    inputs: [image],
    attributes: { kernel_shape: [3, 3], strides: [2, 2], ceil_mode: 1 },
  },
  { op: 'AveragePool', inputs: [image], attributes: { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] } },
  {
    op: 'AveragePool',
    what: 'padding counts',
    inputs: [image],
    attributes: { kernel_shape: [3, 3], pads: [1, 1, 1, 1], count_include_pad: 1 },
  },
  { op: 'AveragePool', what: 'not square', inputs: [image], attributes: { kernel_shape: [3, 2], strides: [1, 2] } },
  {
    op: 'AveragePool',
    what: 'ceil_mode',
    inputs: [image],
    attributes: { kernel_shape: [3, 3], strides: [2, 2], ceil_mode: 1 },
  },
  {
    op: 'AveragePool',
    what: 'ceil with padding that counts',
    inputs: [image],
    attributes: { kernel_shape: [2, 3], strides: [2, 2], pads: [1, 0, 0, 1], ceil_mode: 1, count_include_pad: 1 },
  },
  {
    op: 'MaxPool',
    what: 'each axis its own',
    inputs: [image],
    attributes: { kernel_shape: [2, 3], strides: [1, 2], pads: [0, 1, 1, 0], dilations: [2, 1] },
  },
  { op: 'GlobalAveragePool', inputs: [image] },
  { op: 'GlobalMaxPool', inputs: [image] },
  { op: 'Pad', inputs: [x, vector(0, 1, -1, 0, 2, 1), e.hostTensor('float32', [], [0.5])], constants: [1, 2] },
  ...['reflect', 'edge', 'wrap'].map(
    (mode): OperatorCase => ({
      op: 'Pad',
      what: mode,
      inputs: [x, vector(0, 1, 2, 0, 1, 1)],
      constants: [1],
      attributes: { mode },
      opset: 19,
    }),
  ),
  { op: 'Pad', what: 'axes', inputs: [x, vector(1, 2), null, vector(-1)], constants: [1, 3] },
  { op: 'DepthToSpace', inputs: [image], attributes: { blocksize: 2 } },
  { op: 'DepthToSpace', what: 'CRD', inputs: [image], attributes: { blocksize: 2, mode: 'CRD' } },
  { op: 'SpaceToDepth', inputs: [image], attributes: { blocksize: 2 } },
  ...['half_pixel', 'pytorch_half_pixel', 'align_corners', 'asymmetric', 'half_pixel_symmetric'].flatMap((mode) =>
    ['nearest', 'linear', 'cubic'].map(
      (kind): OperatorCase => ({
        op: 'Resize',
        what: `${kind}, ${mode}`,
        inputs: [image, null, null, vector(2, 4, 9, 4)],
        constants: [3],
        attributes: { mode: kind, coordinate_transformation_mode: mode },
        opset: 19,
      }),
    ),
  ),
  {
    op: 'Resize',
    what: 'scales, floor',
    inputs: [image, null, e.hostTensor('float32', [4], [1, 1, 2, 1.5])],
    constants: [2],
    attributes: { nearest_mode: 'floor' },
  },
  {
    op: 'Resize',
    what: 'cubic, outside excluded',
    inputs: [image, null, e.hostTensor('float32', [4], [1, 1, 2, 1.5])],
    constants: [2],
    attributes: { mode: 'cubic', exclude_outside: 1 },
  },
  { op: 'Reshape', inputs: [x, vector(0, -1)], constants: [1] },
  { op: 'Squeeze', inputs: [numbers([1, 3, 1]), vector(0)], constants: [1] },
  { op: 'Squeeze', what: 'all', inputs: [numbers([1, 3, 1])] },
  { op: 'Squeeze', what: 'axes as attribute', inputs: [numbers([1, 3, 1])], attributes: { axes: [-1] }, opset: 11 },
  { op: 'Unsqueeze', inputs: [x, vector(0, -1)], constants: [1] },
  { op: 'Unsqueeze', what: 'axes as attribute', inputs: [x], attributes: { axes: [1] }, opset: 11 },
  { op: 'Flatten', inputs: [x], attributes: { axis: 2 } },
  { op: 'Transpose', inputs: [x], attributes: { perm: [2, 0, 1] } },
  { op: 'Transpose', what: 'reversed', inputs: [x] },
  { op: 'Expand', inputs: [numbers([3, 1]), vector(2, 1, 4)], constants: [1] },
  { op: 'Tile', inputs: [x, vector(1, 2, 3)], constants: [1] },
  { op: 'Concat', inputs: [x, positive], attributes: { axis: 1 } },
  { op: 'Slice', inputs: [x, vector(1, -3), vector(3, 2 ** 31), vector(1, 2)], constants: [1, 2, 3] },
  {
    op: 'Slice',
    what: 'steps',
    inputs: [x, vector(0, 3), vector(3, -5), vector(1, 2), vector(2, -1)],
    constants: [1, 2, 3, 4],
  },
  { op: 'Split', inputs: [x, vector(1, 3)], constants: [1], attributes: { axis: -1 }, outputs: 2 },
  { op: 'Split', what: 'evenly', inputs: [x], attributes: { axis: -1, num_outputs: 2 }, outputs: 2, opset: 18 },
  { op: 'Gather', inputs: [x, ints([2, 2], [0, 2, -1, 1])], attributes: { axis: 1 } },
  { op: 'GatherElements', inputs: [x, ints([2, 3, 2], [0, 1, 2, 3, 1, 0, 3, 2, 1, 0, 0, 1])], attributes: { axis: 2 } },
  { op: 'GatherND', inputs: [x, ints([2, 2], [0, 1, 1, 2])] },
  { op: 'GatherND', what: 'batch', inputs: [x, ints([2, 1], [2, 1])], attributes: { batch_dims: 1 } },
  {
    op: 'OneHot',
    inputs: [vector(0, 2, -1), ints([], [4]), e.hostTensor('float32', [2], [0.25, 2])],
    constants: [1, 2],
  },
  {
    op: 'OneHot',
    what: 'axis 0',
    inputs: [vector(0, 2, -1), ints([], [4]), e.hostTensor('float32', [2], [0.25, 2])],
    constants: [1, 2],
    attributes: { axis: 0 },
  },
  { op: 'Cast', inputs: [x], attributes: { to: 7 } },
  { op: 'CastLike', inputs: [wholes, e.hostTensor('float32', [], [0])], opset: 19 },
  { op: 'Shape', inputs: [x], attributes: { start: 1 } },
  { op: 'Size', inputs: [x] },
  {
    op: 'ConstantOfShape',
    inputs: [vector(2, 3)],
    constants: [0],
    attributes: { value: { tensor: e.hostTensor('float32', [1], [3]) } },
  },
  { op: 'Range', inputs: [ints([], [1]), ints([], [9]), ints([], [2])], constants: [0, 1, 2] },
  {
    op: 'DequantizeLinear',
    inputs: [
      ints([3, 4], [1, -2, 3, 4, 5, 6, -7, 8, 9, 10, 11, 12], 'int8'),
      numbers([3], 0.1, 0.3),
      ints([3], [1, 0, -1], 'int8'),
    ],
    attributes: { axis: 0 },
  },
  {
    op: ms('MatMulNBits'),
    inputs: [numbers([2, 3, 40]), fourBits.packed, fourBits.scales, fourBits.zeroPoints!],
    attributes: { K: 40, N: 5, bits: 4, block_size: 16 },
    tolerance: 1e-3,
  },
  { op: 'ScatterND', inputs: [x, ints([2, 1], [1, 0]), numbers([2, 3, 4], 2, 3)] },
  {
    op: 'ScatterND',
    what: 'add',
    inputs: [x, ints([2, 2], [1, 0, 1, 0]), numbers([2, 4], 2, 3)],
    attributes: { reduction: 'add' },
  },
  {
    op: 'ScatterElements',
    inputs: [x, ints([1, 2, 2], [2, 0, 1, 2]), numbers([1, 2, 2], 2, 3)],
    attributes: { axis: 1, reduction: 'add' },
  },
  { op: 'QuantizeLinear', inputs: [x, e.hostTensor('float32', [], [0.01]), ints([], [100], 'uint8')] },
  {
    op: 'LSTM',
    inputs: [numbers([5, 2, 3]), numbers([2, 16, 3]), numbers([2, 16, 4], -1, 1, 1), numbers([2, 32])],
    attributes: { hidden_size: 4, direction: 'bidirectional' },
    outputs: 3,
  },
  {
    op: 'LSTM',
    what: 'reverse, given state',
    inputs: [
      numbers([5, 2, 3]),
      numbers([1, 16, 3]),
      numbers([1, 16, 4]),
      null,
      null,
      numbers([1, 2, 4]),
      numbers([1, 2, 4], -1, 1, 2),
    ],
    attributes: { hidden_size: 4, direction: 'reverse' },
    outputs: 3,
  },
  {
    op: 'GRU',
    inputs: [numbers([5, 2, 3]), numbers([1, 12, 3]), numbers([1, 12, 4], -1, 1, 1), numbers([1, 24])],
    attributes: { hidden_size: 4 },
    outputs: 2,
  },
  {
    op: 'GRU',
    what: 'linear before reset',
    inputs: [numbers([5, 2, 3]), numbers([1, 12, 3]), numbers([1, 12, 4], -1, 1, 1), numbers([1, 24])],
    attributes: { hidden_size: 4, linear_before_reset: 1 },
    outputs: 2,
  },
  {
    op: 'RNN',
    inputs: [numbers([5, 2, 3]), numbers([1, 4, 3]), numbers([1, 4, 4]), numbers([1, 8])],
    attributes: { hidden_size: 4 },
    outputs: 2,
  },
  { op: 'Attention', inputs: [numbers([2, 2, 5, 4]), numbers([2, 2, 6, 4]), numbers([2, 2, 6, 3])], opset: 23 },
  {
    op: 'Attention',
    what: 'grouped, causal',
    inputs: [numbers([2, 5, 16]), numbers([2, 5, 8]), numbers([2, 5, 8])],
    attributes: { q_num_heads: 4, kv_num_heads: 2, is_causal: 1 },
    opset: 23,
  },
  {
    op: 'Attention',
    what: 'mask',
    inputs: [numbers([2, 2, 5, 4]), numbers([2, 2, 6, 4]), numbers([2, 2, 6, 3]), numbers([5, 6])],
    opset: 23,
  },
  {
    op: 'RotaryEmbedding',
    inputs: [
      numbers([2, 3, 5, 4]),
      numbers([8, 2]),
      numbers([8, 2], -1, 1, 2),
      ints([2, 5], [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]),
    ],
    opset: 23,
  },
  {
    op: ms('RotaryEmbedding'),
    inputs: [heads, ints([2, 5], [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]), numbers([8, 2]), numbers([8, 2], -1, 1, 2)],
    attributes: { num_heads: 2 },
  },
  {
    op: ms('RotaryEmbedding'),
    what: 'interleaved',
    inputs: [heads, ints([2, 5], [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]), numbers([8, 2]), numbers([8, 2], -1, 1, 2)],
    attributes: { num_heads: 2, interleaved: 1 },
  },
  {
    op: ms('FusedMatMul'),
    inputs: [numbers([2, 4, 3]), numbers([2, 5, 4])],
    attributes: { transA: 1, transB: 1, alpha: float(0.5) },
  },
  { op: ms('Gelu'), inputs: [x] },
  { op: ms('BiasGelu'), inputs: [x, shift] },
  { op: ms('FastGelu'), inputs: [x, shift], tolerance: 1e-3 },
  { op: ms('QuickGelu'), inputs: [x] },
  { op: ms('SkipLayerNormalization'), inputs: [x, positive, scale, shift, numbers([4], -1, 1, 5)] },
  { op: ms('SkipSimplifiedLayerNormalization'), inputs: [x, positive, scale] },
  {
    op: ms('EmbedLayerNormalization'),
    inputs: [
      ints([2, 3], [1, 2, 3, 0, 4, 2], 'int32'),
      ints([2, 3], [0, 0, 1, 1, 1, 0], 'int32'),
      numbers([6, 4]),
      numbers([5, 4], -1, 1, 1),
      numbers([2, 4], -1, 1, 2),
      scale,
      shift,
    ],
    outputs: 2,
  },
  { op: ms('Attention'), inputs: [heads, numbers([8, 24]), numbers([24])], attributes: { num_heads: 2 } },
  {
    op: ms('Attention'),
    what: 'masked, causal',
    inputs: [heads, numbers([8, 24]), numbers([24]), ints([2, 5], [1, 1, 1, 1, 1, 1, 1, 1, 0, 0], 'int32')],
    attributes: { num_heads: 2, unidirectional: 1 },
  },
  {
    op: ms('Attention'),
    what: 'lengths',
    inputs: [heads, numbers([8, 24]), numbers([24]), ints([2], [5, 3], 'int32')],
    attributes: { num_heads: 2 },
  },
  {
    op: ms('MultiHeadAttention'),
    inputs: [heads, numbers([2, 6, 8], -1, 1, 1), numbers([2, 6, 8], -1, 1, 2), numbers([24])],
    attributes: { num_heads: 2 },
  },
];

const contrib = 'com.microsoft.';

/** The one-node model of a case. */
export function modelOf({
  op,
  inputs,
  constants = [],
  attributes = {},
  outputs = 1,
  opset = 20,
}: OperatorCase): e.OnnxModelProto {
  const domain = op.startsWith(contrib) ? 'com.microsoft' : '';
  const name = (i: number) => (inputs[i] ? `x${i}` : '');
  const fed = [...inputs.keys()].filter((i) => inputs[i] && !constants.includes(i));
  const names = Array.from({ length: outputs }, (_, i) => `y${i}`);
  return {
    irVersion: opset > 21 ? 10 : 9,
    opsetImport: [{ domain: '', version: opset }, ...(domain ? [{ domain, version: 1 }] : [])],
    graph: {
      name: 'one',
      node: [
        {
          opType: domain ? op.slice(contrib.length) : op,
          domain,
          name: 'one',
          input: inputs.map((_, i) => name(i)),
          output: names,
          attribute: Object.entries(attributes).map(([key, value]) => attributeOf(key, value)),
        },
      ],
      initializer: constants.map((i) => e.toOnnxTensor(name(i), inputs[i]!)),
      input: fed.map((i) => valueInfo(name(i), inputs[i]!)),
      output: names.map((name) => ({ name, type: { tensorType: { elemType: 1 } } })),
    },
  };
}

function attributeOf(name: string, value: AttributeValue): e.OnnxAttribute {
  if (typeof value === 'number') return { name, type: 2, i: value };
  if (typeof value === 'string') return { name, type: 3, s: new TextEncoder().encode(value) };
  if (Array.isArray(value)) return { name, type: 7, ints: [...(value as number[])] };
  if ('tensor' in value) return { name, type: 4, t: e.toOnnxTensor('', value.tensor) };
  return { name, type: 1, f: (value as { float: number }).float };
}

function valueInfo(name: string, { dtype, shape }: e.HostTensor): e.OnnxValueInfo {
  return {
    name,
    type: { tensorType: { elemType: e.onnxType[dtype], shape: { dim: shape.map((dimValue) => ({ dimValue })) } } },
  };
}
