/**
 * What ONNX Runtime's graph optimiser may leave out. Each of its passes walks the whole graph, several times over, and
 * that is most of the time a large graph takes to open; but a pass that fuses convolutions has nothing to do where there
 * are none. Which operators a pass looks for is read off its source (onnxruntime/core/optimizer, 1.30); a graph with
 * none of them comes out the same with and without it. An empty list: it is never wanted.
 */
import type { OnnxModelProto } from '../onnx/model.js';

const quantized = ['QuantizeLinear', 'DequantizeLinear'];
const normalizing = ['LayerNormalization', 'SimplifiedLayerNormalization', 'RMSNormalization', 'ReduceMean'];

const looksFor: Readonly<Record<string, readonly string[]>> = {
  // The emitter writes equal operators once.
  CommonSubexpressionElimination: [],
  // A dense layer is written as one Gemm already. What is left are residuals, which the pass makes the third operand of
  // a Gemm: that copies them on one thread, 0.2 ms slower on two cores than an Add at [1024, 384].
  MatMulAddFusion: [],
  AttentionFusion: ['Softmax'],
  BiasDropoutFusion: ['Dropout'],
  BiasGeluFusion: ['Gelu', 'FastGelu', 'Erf', 'Tanh'],
  BiasSkipLayerNormFusion: normalizing,
  BiasSoftmaxFusion: ['Softmax'],
  ConvActivationFusion: ['Conv'],
  ConvAddActivationFusion: ['Conv'],
  DoubleQDQPairsRemover: quantized,
  DynamicQuantizeMatMulFusion: ['MatMulInteger', 'DynamicQuantizeLinear'],
  EmbedLayerNormFusion: normalizing,
  EnsureUniqueDQForNodeUnit: quantized,
  FastGeluFusion: ['Tanh'],
  GatherSliceToSplitFusion: ['Gather', 'Slice'],
  GatherToSliceFusion: ['Gather'],
  GeluFusionL1: ['Erf'],
  GeluFusionL2: ['Erf'],
  GemmActivationFusion: ['Gemm'],
  GroupQueryAttentionFusion: ['GroupQueryAttention'],
  GroupQueryAttentionPreNormFusion: ['GroupQueryAttention'],
  LayerNormFusionL1: ['ReduceMean'],
  LayerNormFusionL2: ['ReduceMean'],
  MatMulActivationFusion: ['MatMul'],
  MatMulIntegerToFloatFusion: ['MatMulInteger'],
  MatMulNBitsFusion: ['MatMulNBits'],
  MatMulScaleFusion: ['MatMul', 'FusedMatMul'],
  MatmulTransposeFusion: ['MatMul', 'FusedMatMul'],
  NchwcTransformer: ['Conv', 'MaxPool', 'AveragePool', 'GlobalAveragePool', 'GlobalMaxPool'],
  NhwcTransformer: ['Conv', 'MaxPool', 'AveragePool', 'GlobalAveragePool', 'QLinearConv'],
  QDQFinalCleanupTransformer: quantized,
  QDQPropagationTransformer: quantized,
  QDQS8ToU8Transformer: quantized,
  QDQSelectorActionTransformer: quantized,
  QuickGeluFusion: ['Sigmoid'],
  ReshapeFusion: ['Concat'],
  SimplifiedLayerNormFusion: ['ReduceMean'],
  SkipLayerNormFusion: normalizing,
  SliceConcatToSpaceToDepthFusion: ['Concat'],
  TransposeOptimizer: ['Transpose'],
  WeightBiasQuantization: quantized,
  WhereDummyDq: quantized,
};

/** Constants with fewer elements are no weights worth laying out anew. */
const smallWeight = 1024;

/**
 * The layout by blocks of channels is for convolutions whose weights are constants. Where they are inputs, as in
 * training, it catches only pooling, and copies every image to its layout and back (4 % of a MAML step).
 */
function blockedLayoutPays({ node, initializer = [] }: OnnxModelProto['graph']): boolean {
  const sizes = new Map(initializer.map(({ name, dims = [] }) => [name, dims.reduce((a, b) => a * Number(b), 1)]));
  return node.some(({ opType, input = [] }) => opType === 'Conv' && (sizes.get(input[1]!) ?? 0) >= smallWeight);
}

/** The optimiser passes that cannot change this model, or not for the better. */
export function idleOptimizers({ graph, functions }: OnnxModelProto & { functions?: unknown[] }): string[] {
  const nested = graph.node.some(({ attribute = [] }) => attribute.some(({ type }) => type === 5 || type === 10));
  if (nested || functions?.length) return []; // operators may stand where we do not look
  const types = new Set(graph.node.map(({ opType }) => opType));
  const idle = Object.keys(looksFor).filter((pass) => !looksFor[pass]!.some((type) => types.has(type)));
  return idle.includes('NchwcTransformer') || blockedLayoutPays(graph) ? idle : [...idle, 'NchwcTransformer'];
}
