import type { Tensor } from '@fewtune/engine';
import { bert } from './bert.js';
import { distilbert } from './distilbert.js';
import { type ModelType, readEncoderConfig } from './encoder-config.js';
import { mpnet } from './mpnet.js';
import { roberta } from './roberta.js';
import { type Backbone, type EncoderInputs, type LinearFn, type Packing, plainLinear } from './transformer-layer.js';

const backbones: Record<ModelType, (backbone: Backbone, inputs: EncoderInputs) => Tensor> = {
  bert,
  roberta,
  mpnet,
  distilbert,
};

/**
 * The last hidden states of an encoder, as its `config.json` describes it. Both dimensions of the inputs may be
 * symbols.
 *
 * @param config  the Hub's config.json
 * @param weights traced tensors under their Hub names; constants, parameters, or anything computed from them
 * @param options.linear replaces every linear layer, e.g. by one with an adapter
 * @param options.packing lays hidden states out without padding between the embeddings and the result
 * @returns [batch, seq, hidden]
 * @throws ModelError ENCODER_UNSUPPORTED, ENCODER_INCOMPLETE
 */
export function encode(
  config: Readonly<Record<string, unknown>>,
  weights: Readonly<Record<string, Tensor>>,
  inputs: EncoderInputs,
  options: { linear?: LinearFn; packing?: Packing } = {},
): Tensor {
  const read = readEncoderConfig(config);
  return backbones[read.modelType](
    { config: read, weights, linear: options.linear ?? plainLinear, packing: options.packing },
    inputs,
  );
}
