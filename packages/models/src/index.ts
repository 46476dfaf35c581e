export { lengthBatches, padBatch, padTypes } from './batching.js';
export { readPooling, readTokenizer } from './checkpoint-folder.js';
export { type Conv4, type Conv4Options, type Conv4Variant, conv4, type Normalise } from './conv4.js';
export { type EmbedOptions, SentenceEmbedder } from './embedder.js';
export { type EncodeOptions, encode, encodeLower, encodeUpper, encodeWith } from './encode.js';
export type { EncodeHooks, TokenLayout } from './encode-hooks.js';
export { type Addition, type Encoder, fingerprint } from './encoder.js';
export { type EncoderConfig, type ModelType, readEncoderConfig } from './encoder-config.js';
export { ModelError, type ModelErrorCode, modelErrorCodes } from './errors.js';
export type { DownloadProgress, HubOptions } from './hub.js';
export { embeddedEncoderId, loadEncoder } from './load-encoder.js';
export { type PackedInputs, packBatch, packedPairSpecs, packedSpecs, packingOf, packPairs } from './packing.js';
export { type Pooling, pool } from './pooling.js';
export { quantizeEncoder } from './quantized-encoder.js';
export { constantWeights, product, rows, tracedWeights } from './quantized-graph.js';
export { dequantizeRows, quantizeRows } from './quantized-rows.js';
export {
  heldBytes,
  heldQuantized,
  heldTensors,
  isQuantized,
  type Quantization,
  type QuantizedMatrix,
  type QuantizedTensor,
  quantizationOf,
  quantizeTensor,
  quantizeWeights,
} from './quantized-weights.js';
export { type ResNet12, type ResNet12Options, resnet12 } from './resnet12.js';
export {
  parseSafetensors,
  readSafetensors,
  type Safetensors,
  serializeSafetensors,
  writeSafetensors,
} from './safetensors.js';
export {
  createTokenizer,
  type EncodedPair,
  type EncodedText,
  type Tokenizer,
  type TokenizerFile,
} from './tokenizer.js';
export { type EncoderInputs, type LinearFn, type Packing, plainLinear } from './transformer-layer.js';
