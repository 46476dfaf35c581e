import type { Tensor } from '@fewtune/engine';
import { bert } from './bert.js';
import { distilbert } from './distilbert.js';
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
  transformerLayers,
} from './transformer-layer.js';

const architectures: Record<ModelType, Architecture> = { bert, roberta, mpnet, distilbert };

export interface EncodeOptions {
  /** Replaces every linear layer, e.g. by one with an adapter. */
  readonly linear?: LinearFn;
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
  const rows = inRows(backbone, inputs.attentionMask);
  const x = rows.packing.toTokens(architecture.embeddings(backbone, inputs));
  if (layers === 0) return x;
  const bias = architecture.scoreBias(backbone, inputs.attentionMask);
  return transformerLayers(rows, x, bias, architecture.layerNames, [0, layers]);
}

/**
 * The rest of `encode`, from the states of {@link encodeLower} with the same number of layers and the same packing. Reads
 * no weight of the embeddings or of a layer below.
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
  const rows = inRows(backbone, attentionMask);
  const bias = architecture.scoreBias(backbone, attentionMask);
  const range = [layers, backbone.config.layers] as const;
  return rows.packing.toBatch(transformerLayers(rows, states, bias, architecture.layerNames, range));
}

function partOf(config: Config, weights: Weights, layers: number, options: EncodeOptions) {
  const read = readEncoderConfig(config);
  if (!Number.isInteger(layers) || layers < 0 || layers > read.layers) {
    throw new ModelError(
      'ENCODER_LAYER',
      `the encoder has ${read.layers} layers; it cannot be parted after ${layers}.`,
    );
  }
  const { linear = plainLinear, packing, recompute } = options;
  return {
    architecture: architectures[read.modelType],
    backbone: { config: read, weights, linear, packing, recompute },
  };
}
