import {
  add,
  cast,
  type Dim,
  gelu,
  layerNorm,
  linear,
  matMul,
  mul,
  relu,
  reshape,
  softmax,
  sub,
  type Tensor,
  transpose,
} from '@fewtune/engine';
import type { EncoderConfig } from './encoder-config.js';
import { ModelError } from './errors.js';

/**
 * One linear layer of the backbone: y = x Wᵀ + b. Adapters put their own here.
 *
 * @param name the module's name in the checkpoint, e.g. `encoder.layer.0.attention.self.query`
 */
export type LinearFn = (x: Tensor, name: string, weight: Tensor, bias?: Tensor) => Tensor;

/** The plain layer. */
export const plainLinear: LinearFn = (x, _name, weight, bias) => linear(x, weight, bias);

export interface EncoderInputs {
  /** int64 [batch, seq] */
  readonly inputIds: Tensor;
  /** int64 [batch, seq], 1 on real tokens */
  readonly attentionMask: Tensor;
}

/** What every function of a backbone shares. */
export interface Backbone {
  readonly config: EncoderConfig;
  readonly weights: Readonly<Record<string, Tensor>>;
  readonly linear: LinearFn;
  /** Rows and columns of a batch; hidden states are laid out as [batch, seq, hidden] unless they are packed. */
  readonly packing?: Packing;
}

/** How packed hidden states [tokens, hidden] become a padded batch for attention, and back. See `packing.ts`. */
export interface Packing {
  toBatch(x: Tensor): Tensor;
  toTokens(x: Tensor): Tensor;
}

/** The modules of one post-norm transformer layer, by their names in the checkpoint. */
export interface LayerNames {
  readonly query: string;
  readonly key: string;
  readonly value: string;
  readonly attentionOutput: string;
  readonly attentionNorm: string;
  readonly up: string;
  readonly down: string;
  readonly outputNorm: string;
}

/**
 * Post-norm transformer encoder layer: Vaswani et al. 2017, section 3.1, arXiv:1706.03762, with BERT's activation.
 *
 * @param x         [batch, seq, hidden]
 * @param scoreBias added to the scaled scores, broadcasts to [batch, heads, seq, seq]
 */
export function transformerLayer(backbone: Backbone, x: Tensor, scoreBias: Tensor, names: LayerNames): Tensor {
  const attended = selfAttention(backbone, x, scoreBias, names);
  const y = norm(backbone, add(attended, x), names.attentionNorm);
  const up = dense(backbone, y, names.up); // [batch, seq, intermediate]
  const active = backbone.config.activation === 'gelu' ? gelu(up) : relu(up);
  return norm(backbone, add(dense(backbone, active, names.down), y), names.outputNorm);
}

/** softmax(Q Kᵀ / √d + bias) V, heads side by side, then the output projection. */
function selfAttention(backbone: Backbone, x: Tensor, scoreBias: Tensor, names: LayerNames): Tensor {
  const { packing } = backbone;
  const { heads, hidden } = backbone.config;
  const width = hidden / heads;
  const split = (name: string): Tensor => {
    const flat = dense(backbone, x, name);
    const padded = packing ? packing.toBatch(flat) : flat; // [batch, seq, hidden]
    const [batch, seq] = padded.shape as [Dim, Dim, Dim];
    return transpose(reshape(padded, [batch, seq, heads, width]), [0, 2, 1, 3]); // [batch, heads, seq, width]
  };
  const alpha = 1 / Math.sqrt(width);
  const scores = matMul(split(names.query), split(names.key), { transposeB: true, alpha }); // [batch, heads, seq, seq]
  const context = matMul(softmax(add(scores, scoreBias)), split(names.value)); // [batch, heads, seq, width]
  const [batch, , seq] = context.shape as [Dim, Dim, Dim, Dim];
  const merged = reshape(transpose(context, [0, 2, 1, 3]), [batch, seq, hidden]);
  return dense(backbone, packing ? packing.toTokens(merged) : merged, names.attentionOutput);
}

/**
 * All layers, on packed tokens if there is a packing.
 *
 * @param x     [batch, seq, hidden]
 * @param names the modules of a layer, from 0
 */
export function transformerLayers(
  backbone: Backbone,
  x: Tensor,
  scoreBias: Tensor,
  names: (layer: number) => LayerNames,
): Tensor {
  const { packing, config } = backbone;
  let state = packing ? packing.toTokens(x) : x;
  for (let layer = 0; layer < config.layers; layer++) {
    state = transformerLayer(backbone, state, scoreBias, names(layer));
  }
  return packing ? packing.toBatch(state) : state;
}

/** 0 on real tokens, so low on padding that its weight underflows to exactly 0. @returns [batch, 1, 1, seq] */
export function maskBias(attentionMask: Tensor): Tensor {
  const [batch, seq] = attentionMask.shape as [Dim, Dim];
  const padding = sub(1, cast(attentionMask, 'float32'));
  return reshape(mul(padding, -1e9), [batch, 1, 1, seq]);
}

export function dense({ weights, linear }: Backbone, x: Tensor, name: string): Tensor {
  return linear(x, name, weightOf(weights, `${name}.weight`), weights[`${name}.bias`]);
}

export function norm({ weights, config }: Backbone, x: Tensor, name: string): Tensor {
  const scale = weightOf(weights, `${name}.weight`);
  return layerNorm(x, scale, weightOf(weights, `${name}.bias`), config.layerNormEpsilon);
}

/** @throws ModelError ENCODER_INCOMPLETE */
export function weightOf(weights: Readonly<Record<string, Tensor>>, name: string): Tensor {
  const weight = weights[name];
  if (weight) return weight;
  const some = Object.keys(weights).slice(0, 3).join(', ');
  throw new ModelError(
    'ENCODER_INCOMPLETE',
    `the checkpoint has no weight "${name}" (it has ${some}, …); its config.json may belong to another model`,
  );
}
