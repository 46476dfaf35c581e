import type { Tensor } from '@fewtune/engine';
import { bert } from './bert.js';
import { distilbert } from './distilbert.js';
import type { EncodeHooks } from './encode-hooks.js';
import type { Encoder } from './encoder.js';
import { type ModelType, readEncoderConfig } from './encoder-config.js';
import { ModelError } from './errors.js';
import { mpnet } from './mpnet.js';
import { roberta } from './roberta.js';
import {
  type Architecture,
  type EncoderInputs,
  inRows,
  type LinearFn,
  type Packing,
  plainLinear,
  promptStream,
  type Stream,
  transformerLayers,
} from './transformer-layer.js';

const architectures: Record<ModelType, Architecture> = { bert, roberta, mpnet, distilbert };

export interface EncodeOptions {
  /** Replaces every linear layer, e.g. by one with an adapter. */
  readonly linear?: LinearFn;
  /** What is put between layers, and before each sentence. */
  readonly hooks?: EncodeHooks;
  /** Lays hidden states out without padding between the embeddings and the result. */
  readonly packing?: Packing;
  /** So many layers, the lowest of those that are run first, keep nothing for the backward pass but what they are given. */
  readonly recompute?: number;
}

type Config = Readonly<Record<string, unknown>>;
type Weights = Readonly<Record<string, Tensor>>;

/**
 * The last hidden states of an encoder, as its `config.json` describes it. Both dimensions of the inputs may be
 * symbols.
 *
 * @param config  the Hub's config.json
 * @param weights traced tensors under their Hub names; constants, parameters, or anything computed from them
 * @returns [batch, seq, hidden]
 * @throws ModelError ENCODER_UNSUPPORTED, ENCODER_INCOMPLETE
 */
export function encode(config: Config, weights: Weights, inputs: EncoderInputs, options: EncodeOptions = {}): Tensor {
  const states = encodeLower(config, weights, inputs, 0, options);
  return encodeUpper(config, weights, { states, attentionMask: inputs.attentionMask }, 0, options);
}

/**
 * The lower part of `encode`: embeddings and the first layers. Where these are not trained, their states can be kept and
 * {@link encodeUpper} can start from them.
 *
 * @param layers how many; 0 is the embeddings alone
 * @returns [tokens, hidden]: the real tokens if there is a packing, else [batch · seq, hidden]
 * @throws ModelError ENCODER_UNSUPPORTED, ENCODER_INCOMPLETE; ENCODER_LAYER when there are not so many
 */
export function encodeLower(
  config: Config,
  weights: Weights,
  inputs: EncoderInputs,
  layers: number,
  options: EncodeOptions = {},
): Tensor {
  const { architecture, backbone } = partOf(config, weights, layers, options);
  const packing = inRows(backbone, inputs.attentionMask);
  const x = packing.toTokens(architecture.embeddings(backbone, inputs));
  if (layers === 0) return x;
  const { attentionMask } = inputs;
  const bias = architecture.scoreBias(backbone, attentionMask);
  return transformerLayers(backbone, [{ rows: x, packing }], bias, attentionMask, architecture.layerNames, [0, layers]);
}

/**
 * The rest of `encode`, from the states of {@link encodeLower} with the same number of layers and the same packing. Reads
 * no weight of the embeddings (but those of a prompt's positions) or of a layer below.
 *
 * @param inputs.states [tokens, hidden]
 * @returns [batch, seq, hidden]
 * @throws ModelError ENCODER_UNSUPPORTED, ENCODER_INCOMPLETE; ENCODER_LAYER when there are not so many
 */
export function encodeUpper(
  config: Config,
  weights: Weights,
  { states, attentionMask }: { readonly states: Tensor; readonly attentionMask: Tensor },
  layers: number,
  options: EncodeOptions = {},
): Tensor {
  const { architecture, backbone } = partOf(config, weights, layers, options);
  const packing = inRows(backbone, attentionMask);
  const streams: Stream[] = [{ rows: states, packing }];
  const { prompt } = backbone.hooks;
  if (prompt) streams.push(promptStream(architecture.promptEmbeddings(backbone, prompt), attentionMask.shape[0]!));
  const bias = architecture.scoreBias(backbone, attentionMask);
  const range = [layers, backbone.config.layers] as const;
  return packing.toBatch(transformerLayers(backbone, streams, bias, attentionMask, architecture.layerNames, range));
}

/**
 * `encode` of a whole encoder, with the addition that it may have.
 *
 * @param weights those of `encoder`, traced; its addition's among them
 * @throws ModelError ENCODER_UNSUPPORTED when it has an addition and `options` ask for another, or as `encode`
 */
export function encodeWith(
  { config, addition }: Pick<Encoder, 'config' | 'addition'>,
  weights: Weights,
  inputs: EncoderInputs,
  options: EncodeOptions = {},
): Tensor {
  if (!addition) return encode(config, weights, inputs, options);
  if (options.linear || options.hooks) {
    throw new ModelError(
      'ENCODER_UNSUPPORTED',
      `the encoder has an adapter already (${addition.id}), which cannot be merged into it; adapt the encoder it was made of`,
    );
  }
  const { linear, hooks } = addition;
  return encode(config, weights, inputs, { ...options, linear: linear?.(weights), hooks: hooks?.(weights) });
}

function partOf(config: Config, weights: Weights, layers: number, options: EncodeOptions) {
  const read = readEncoderConfig(config);
  if (!Number.isInteger(layers) || layers < 0 || layers > read.layers) {
    throw new ModelError(
      'ENCODER_LAYER',
      `the encoder has ${read.layers} layers; it cannot be parted after ${layers}.`,
    );
  }
  const { linear = plainLinear, hooks = {}, packing, recompute } = options;
  if (hooks.prompt && layers > 0) {
    throw new ModelError(
      'ENCODER_LAYER',
      'tokens before each sentence go through all layers; part the encoder after 0.',
    );
  }
  return {
    architecture: architectures[read.modelType],
    backbone: { config: read, weights, linear, hooks, packing, recompute },
  };
}
