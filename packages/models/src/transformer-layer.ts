import {
  add,
  attention,
  cast,
  checkpoint,
  type Dim,
  expand,
  gelu,
  layerNorm,
  linear,
  mul,
  relu,
  reshape,
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
  /** int64 [batch, seq], 1 on the second text of a pair; left out, all 0. Read by models with such a table (BERT). */
  readonly tokenTypeIds?: Tensor;
}

/** What every function of a backbone shares. */
export interface Backbone {
  readonly config: EncoderConfig;
  readonly weights: Readonly<Record<string, Tensor>>;
  readonly linear: LinearFn;
  /** Rows and columns of a batch; hidden states are laid out as [batch, seq, hidden] unless they are packed. */
  readonly packing?: Packing;
  /** So many layers, the lowest first, compute their inner values a second time in the backward pass. */
  readonly recompute?: number;
}

/** What tells one kind of encoder from another; the layers between are the same. */
export interface Architecture {
  /** @returns [batch, seq, hidden] */
  embeddings(backbone: Backbone, inputs: EncoderInputs): Tensor;
  /** Added to the scaled scores of every layer. @returns broadcasts to [batch, heads, seq, seq] */
  scoreBias(backbone: Backbone, attentionMask: Tensor): Tensor;
  layerNames(layer: number): LayerNames;
}

/** A backbone whose tokens stand in rows between the layers. */
type InRows = Backbone & { readonly packing: Packing };

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
 * @param x         [tokens, hidden]
 * @param scoreBias added to the scaled scores, broadcasts to [batch, heads, seq, seq]
 */
function transformerLayer(backbone: InRows, x: Tensor, scoreBias: Tensor, names: LayerNames): Tensor {
  const attended = selfAttention(backbone, x, scoreBias, names);
  const y = norm(backbone, add(attended, x), names.attentionNorm);
  const up = dense(backbone, y, names.up); // [tokens, intermediate]
  const active = backbone.config.activation === 'gelu' ? gelu(up) : relu(up);
  return norm(backbone, add(dense(backbone, active, names.down), y), names.outputNorm);
}

/** softmax(Q Kᵀ / √d + bias) V, heads side by side, then the output projection. */
function selfAttention(backbone: InRows, x: Tensor, scoreBias: Tensor, names: LayerNames): Tensor {
  const { heads, hidden } = backbone.config;
  const { toBatch, toTokens } = backbone.packing;
  const width = hidden / heads;
  const split = (name: string): Tensor => {
    const padded = toBatch(dense(backbone, x, name)); // [batch, seq, hidden]
    const [batch, seq] = padded.shape as [Dim, Dim, Dim];
    return transpose(reshape(padded, [batch, seq, heads, width]), [0, 2, 1, 3]); // [batch, heads, seq, width]
  };
  const context = attention(split(names.query), split(names.key), split(names.value), { bias: scoreBias });
  const [batch, , seq] = context.shape as [Dim, Dim, Dim, Dim];
  const merged = reshape(transpose(context, [0, 2, 1, 3]), [batch, seq, hidden]);
  return dense(backbone, toTokens(merged), names.attentionOutput);
}

/**
 * Some layers in their order. Tokens stand in rows between them.
 *
 * @param x         [tokens, hidden]
 * @param scoreBias broadcasts to [batch, heads, seq, seq]
 * @param layers    the first of them, and the first that is not of them
 */
export function transformerLayers(
  backbone: InRows,
  x: Tensor,
  scoreBias: Tensor,
  names: Architecture['layerNames'],
  [from, to]: readonly [number, number],
): Tensor {
  let state = x;
  for (let layer = from; layer < to; layer++) {
    const run = (rows: Tensor) => transformerLayer(backbone, rows, scoreBias, names(layer));
    state = (layer - from < (backbone.recompute ?? 0) ? checkpoint(run) : run)(state);
  }
  return state;
}

/** How states in rows become a batch, and back: packed if there is a packing, else one row after the other. */
export function inRows(backbone: Backbone, attentionMask: Tensor): InRows {
  const [batch, seq] = attentionMask.shape as [Dim, Dim];
  const { hidden } = backbone.config;
  const plain: Packing = {
    toBatch: (rows) => reshape(rows, [batch, seq, rows.shape.at(-1)!]),
    toTokens: (padded) => reshape(padded, [-1, hidden]),
  };
  return { ...backbone, packing: backbone.packing ?? plain };
}

/**
 * 0 on real tokens, so low on padding that its weight underflows to exactly 0. Repeated for every query once, because
 * every layer would repeat it in short runs otherwise.
 *
 * @returns [batch, 1, seq, seq]
 */
export function maskBias(attentionMask: Tensor): Tensor {
  const [batch, seq] = attentionMask.shape as [Dim, Dim];
  const padding = sub(1, cast(attentionMask, 'float32'));
  return expand(reshape(mul(padding, -1e9), [batch, 1, 1, seq]), [batch, 1, seq, seq]);
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
