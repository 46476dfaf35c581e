export { folderReader, readOnnxModel, saveOnnx } from '#files';
export type { Backend, SessionOptions } from './backends/types.js';
export type { Dim } from './dims.js';
export { EngineError, type EngineErrorCode } from './errors.js';
export {
  convertFloat,
  type DType,
  elementCount,
  type HostTensor,
  hostTensor,
  onnxType,
  type TypedArray,
  zeros,
} from './host-tensor.js';
export { type InsertLoraOptions, insertLora, mergeLora } from './onnx/import/lora.js';
export type { NamePattern } from './onnx/import/names.js';
export { type ApplyOptions, OnnxFunction, type OnnxFunctionOptions } from './onnx/import/onnx-function.js';
export type { ExternalReader, WeightInfo, WeightRole } from './onnx/import/weights.js';
export { toOnnx } from './onnx/import/write.js';
export {
  fromOnnxTensor,
  type OnnxAttribute,
  type OnnxFunctionProto,
  type OnnxGraph,
  type OnnxModelProto,
  type OnnxNode,
  type OnnxTensor,
  type OnnxValueInfo,
  readOnnx,
  toOnnxTensor,
  writeOnnx,
} from './onnx/model.js';
export {
  celu,
  clip,
  elu,
  hardSigmoid,
  hardSwish,
  hardTanh,
  leakyRelu,
  logSigmoid,
  mish,
  prelu,
  relu6,
  selu,
  silu,
  softplus,
  softsign,
  thresholdedRelu,
} from './ops/activations.js';
export { add, div, expand, mul, neg, type Operand, type ReduceOptions, sizeOf, sub, sum } from './ops/arithmetic.js';
export { type AttentionOptions, attention, rotary } from './ops/attention.js';
export { type BatchStatistics, batchNorm } from './ops/batch-norm.js';
export {
  bitwiseXor,
  cast,
  equal,
  greater,
  greaterOrEqual,
  less,
  lessOrEqual,
  logicalAnd,
  logicalNot,
  logicalOr,
  logicalXor,
  maximum,
  minimum,
  where,
} from './ops/compare.js';
export { stopGradient } from './ops/control.js';
export { type ConvolutionOptions, conv, convTranspose } from './ops/convolution.js';
export { einsum } from './ops/einsum.js';
export { gatherElements, scatterElements, topK } from './ops/elements.js';
export {
  abs,
  ceil,
  cos,
  erf,
  exp,
  floor,
  gelu,
  geluTanh,
  isNan,
  log,
  pow,
  reciprocal,
  relu,
  round,
  sigmoid,
  sign,
  sin,
  sqrt,
  tanh,
  trunc,
} from './ops/elementwise.js';
export {
  arange,
  concat,
  cumSum,
  embedding,
  flip,
  gather,
  moveRows,
  oneHot,
  pad,
  scatterAdd,
  slice,
  split,
  tile,
} from './ops/indexing.js';
export { crossEntropy } from './ops/losses.js';
export { linear, type MatMulOptions, matMul } from './ops/matmul.js';
export {
  constantNBits,
  dequantizeNBits,
  linearNBits,
  linearWritten,
  type NBitsWeight,
  quantizeNBits,
  unpackNBits,
} from './ops/matmul-nbits.js';
export { mod } from './ops/modulo.js';
export { gatherNd, scatterNd } from './ops/nd.js';
export {
  groupNorm,
  instanceNorm,
  l2Normalize,
  layerNorm,
  logSoftmax,
  rmsNorm,
  softmax,
} from './ops/normalize.js';
export type { Padding } from './ops/padding.js';
export { averagePool, globalAveragePool, maxPool, type PoolingOptions } from './ops/pooling.js';
export { dequantize, fakeQuantize } from './ops/quantize.js';
export { dropout, randomUniform } from './ops/random.js';
export { argMax, argMin, l1Norm, l2Norm, logSumExp, max, mean, min, prod, sumSquares } from './ops/reduce.js';
export { type ResizeOptions, resize } from './ops/resize.js';
export { reshape, transpose, unsqueeze } from './ops/shape.js';
export { tril, triu } from './ops/triangle.js';
export { acos, acosh, asin, asinh, atan, atanh, cosh, sinh, tan } from './ops/trigonometry.js';
export { type AdamWOptions, adamW } from './optim/adamw.js';
export { clipByGlobalNorm, globalNorm } from './optim/clip.js';
export type { LossScaleOptions } from './optim/loss-scale.js';
export type { Named, Optimizer, StepContext } from './optim/optimizer.js';
export { constantRate, cosineDecay, linearDecay, type Schedule } from './optim/schedule.js';
export { type SgdOptions, sgd } from './optim/sgd.js';
export { type CachedStep, type CachedStepOptions, cachedStep } from './program/cached-step.js';
export { NanFound, type ValueRange } from './program/debug-nans.js';
export { exportOnnx, traceToOnnx } from './program/export.js';
export type { MemoryPlan, MemoryRow } from './program/memory.js';
export { type OnnxSession, openOnnx } from './program/onnx-session.js';
export type { LineRow, Profile, ProfileOptions, ProfileRow } from './program/profile.js';
export {
  type CompileOptions,
  type Computed,
  compile,
  type HostTree,
  type Program,
  type TracedTree,
} from './program/program.js';
export type { ShadowOptions, ShadowReport } from './program/shadow.js';
export { planStep, type StepFlops, type StepMemory, type StepPlan } from './program/step-plan.js';
export type { AccumulateOptions, TrainStepOptions } from './program/train-options.js';
export { type TrainStep, trainStep } from './program/train-step.js';
export type { HostBatch, StepMetrics, TracedBatch, UpdateOptions } from './program/update.js';
export { normals, uniforms } from './random.js';
export { constant, inFloat32, scalar, Tensor, type TensorSpec } from './tensor.js';
export { checkpoint } from './transforms/checkpoint.js';
export { customVjp } from './transforms/custom-vjp.js';
export { grad, valueAndGrad } from './transforms/grad.js';
export { hessian, jacobian } from './transforms/jacobian.js';
export { jvp, vjp } from './transforms/jvp.js';
export { float16Compute, float16Storage, type Precision, withPrecision } from './transforms/precision.js';
export { type Axes, type VmapOptions, vmap } from './transforms/vmap.js';
export type { Tree } from './tree.js';
