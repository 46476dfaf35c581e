import {
  add,
  attention,
  cast,
  checkpoint,
  type Dim,
  div,
  exp,
  expand,
  gelu,
  layerNorm,
  matMul,
  max,
  maximum,
  mul,
  relu,
  reshape,
  slice,
  stopGradient,
  sub,
  sum,
  type Tensor,
  transpose,
} from '@fewtune/engine';
import type { EncodeHooks } from './encode-hooks.js';
import type { EncoderConfig } from './encoder-config.js';
import { ModelError } from './errors.js';
import { product } from './quantized-graph.js';

/**
 * One linear layer of the backbone: y = x Wᵀ + b. Adapters put their own here.
 *
 * @param name the module's name in the checkpoint, e.g. `encoder.layer.0.attention.self.query`
 */
export type LinearFn = (x: Tensor, name: string, weight: Tensor, bias?: Tensor) => Tensor;

/** The plain layer, of a weight that may be quantised. */
export const plainLinear: LinearFn = (x, _name, weight, bias) => product(x, weight, bias);

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
  readonly hooks: EncodeHooks;
  /** Rows and columns of a batch; hidden states are laid out as [batch, seq, hidden] unless they are packed. */
  readonly packing?: Packing;
  /** So many layers, the lowest first, compute their inner values a second time in the backward pass. */
  readonly recompute?: number;
}

/** What tells one kind of encoder from another; the layers between are the same. */
export interface Architecture {
  /** @returns [batch, seq, hidden] */
  embeddings(backbone: Backbone, inputs: EncoderInputs): Tensor;
  /** Tokens of `hooks.prompt`, with positions and all. @returns [virtual, hidden] */
  promptEmbeddings(backbone: Backbone, prompt: Tensor): Tensor;
  /** Added to the scaled scores of every layer. */
  scoreBias(backbone: Backbone, attentionMask: Tensor): ScoreBias;
  layerNames(layer: number): LayerNames;
}

/**
 * By what is looking, 0 a sentence's own tokens, 1 those of a prompt, and what is looked at: broadcasts to
 * [batch, heads, queries, keys].
 */
export type ScoreBias = readonly (readonly (Tensor | undefined)[])[];

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

/** Tokens that go through the layers in rows, and how they stand in a batch for attention. */
export interface Stream {
  /** [rows, hidden] */
  readonly rows: Tensor;
  readonly packing: Packing;
}

/** Keys and values of some tokens [batch, heads, keys, width], and what is added to their scores. */
interface Seen {
  readonly key: Tensor;
  readonly value: Tensor;
  readonly bias?: Tensor;
}

/**
 * Post-norm transformer encoder layer: Vaswani et al. 2017, section 3.1, arXiv:1706.03762, with BERT's activation. Every
 * token sees those of all streams, and the prefix besides.
 *
 * @returns the rows of each stream
 */
function transformerLayer(
  backbone: Backbone,
  streams: readonly Stream[],
  scoreBias: ScoreBias,
  prefix: Seen | undefined,
  names: LayerNames,
): Tensor[] {
  const { heads, hidden, activation } = backbone.config;
  const projected = streams.map(({ rows, packing }) => {
    const split = (name: string) => splitHeads(packing.toBatch(dense(backbone, rows, name)), heads);
    return { query: split(names.query), key: split(names.key), value: split(names.value) };
  });
  return streams.map(({ rows, packing }, i) => {
    const own = projected.map(({ key, value }, j): Seen => ({ key, value, bias: scoreBias[i]![j] }));
    const context = attend(projected[i]!.query, prefix ? [prefix, ...own] : own);
    const [batch, , queries] = context.shape as [Dim, Dim, Dim, Dim];
    const merged = reshape(transpose(context, [0, 2, 1, 3]), [batch, queries, hidden]);
    const attended = dense(backbone, packing.toTokens(merged), names.attentionOutput);
    const y = norm(backbone, add(attended, rows), names.attentionNorm);
    const up = dense(backbone, y, names.up); // [rows, intermediate]
    const active = activation === 'gelu' ? gelu(up) : relu(up);
    return norm(backbone, add(dense(backbone, active, names.down), y), names.outputNorm);
  });
}

/** [batch, seq, hidden] to [batch, heads, seq, width]. */
function splitHeads(x: Tensor, heads: number): Tensor {
  const [batch, seq, hidden] = x.shape as [Dim, Dim, number];
  return transpose(reshape(x, [batch, seq, heads, hidden / heads]), [0, 2, 1, 3]);
}

/**
 * softmax(Q Kᵀ / √d + bias) V over the keys of all parts together. Parts are not joined, as the sum of a symbolic size
 * and a number is no size: exponentials below the common maximum are summed over all of them.
 */
function attend(query: Tensor, parts: readonly Seen[]): Tensor {
  const [{ key, value, bias }] = parts as [Seen];
  if (parts.length === 1) return attention(query, key, value, { bias });
  const alpha = 1 / Math.sqrt(query.shape.at(-1) as number);
  const scores = parts.map((part) => {
    const products = matMul(query, part.key, { transposeB: true, alpha });
    return part.bias ? add(products, part.bias) : products;
  });
  const highest = stopGradient(scores.map((x) => max(x, { axes: [-1], keepDims: true })).reduce(maximum));
  const shares = scores.map((x) => exp(sub(x, highest)));
  const total = shares.map((x) => sum(x, { axes: [-1], keepDims: true })).reduce((a, b) => add(a, b));
  const seen = shares.map((x, i) => matMul(x, parts[i]!.value)).reduce((a, b) => add(a, b));
  return div(seen, total);
}

/**
 * Some layers in their order. Tokens stand in rows between them.
 *
 * @param streams   the sentences' own tokens, and those of a prompt if there is one
 * @param layers    the first of them, and the first that is not of them
 * @returns the rows of the sentences' own tokens
 */
export function transformerLayers(
  backbone: Backbone,
  streams: readonly Stream[],
  scoreBias: ScoreBias,
  attentionMask: Tensor,
  names: Architecture['layerNames'],
  [from, to]: readonly [number, number],
): Tensor {
  const { hooks, config, recompute = 0 } = backbone;
  const { toTokens } = streams[0]!.packing;
  let states = streams.map(({ rows }) => rows);
  for (let layer = from; layer < to; layer++) {
    const prefix = hooks.prefix && prefixOf(hooks.prefix.keyValue(layer), config.heads);
    const run = (...rows: Tensor[]) => {
      const now = streams.map(({ packing }, i) => ({ rows: rows[i]!, packing }));
      const [own, ...rest] = transformerLayer(backbone, now, scoreBias, prefix, names(layer)) as [Tensor, ...Tensor[]];
      return [hooks.afterLayer?.(layer, own, { attentionMask, toTokens }) ?? own, ...rest];
    };
    states = (layer - from < recompute ? checkpoint(run) : run)(...states);
  }
  return states[0]!;
}

function prefixOf({ key, value }: { key: Tensor; value: Tensor }, heads: number): Seen {
  const split = (x: Tensor) => splitHeads(reshape(x, [1, ...x.shape]), heads); // [1, heads, virtual, width]
  return { key: split(key), value: split(value) };
}

/** The tokens of a prompt, the same ones for each sentence. */
export function promptStream(prompt: Tensor, batch: Dim): Stream {
  const [virtual, hidden] = prompt.shape as [Dim, Dim];
  const packing: Packing = {
    toBatch: (rows) => reshape(rows, [batch, virtual, rows.shape.at(-1)!]),
    toTokens: (padded) => reshape(padded, [-1, hidden]),
  };
  return { rows: packing.toTokens(expand(prompt, [batch, virtual, hidden])), packing };
}

/** Words of a prompt and their positions. @returns [virtual, hidden] */
export function promptWords({ weights }: Backbone, prompt: Tensor, firstPosition: number): Tensor {
  const places = weightOf(weights, 'embeddings.position_embeddings.weight');
  return add(prompt, slice(places, 0, firstPosition, firstPosition + (prompt.shape[0] as number)));
}

/** Masks: padding is hidden from all, the prompt from none. */
export function maskBiases({ hooks }: Backbone, attentionMask: Tensor): ScoreBias {
  const own = [maskBias(attentionMask), undefined];
  return hooks.prompt ? [own, [maskBias(attentionMask, hooks.prompt.shape[0]!), undefined]] : [own];
}

/** How states in rows become a batch, and back: packed if there is a packing, else one row after the other. */
export function inRows({ packing }: Backbone, attentionMask: Tensor): Packing {
  const [batch, seq] = attentionMask.shape as [Dim, Dim];
  return (
    packing ?? {
      toBatch: (rows) => reshape(rows, [batch, seq, rows.shape.at(-1)!]),
      toTokens: (padded) => reshape(padded, [-1, padded.shape.at(-1)!]),
    }
  );
}

/**
 * 0 on real tokens, so low on padding that its weight underflows to exactly 0. Repeated for every query once, because
 * every layer would repeat it in short runs otherwise.
 *
 * @returns [batch, 1, queries, seq]
 */
function maskBias(attentionMask: Tensor, queries?: Dim): Tensor {
  const [batch, seq] = attentionMask.shape as [Dim, Dim];
  const padding = sub(1, cast(attentionMask, 'float32'));
  return expand(reshape(mul(padding, -1e9), [batch, 1, 1, seq]), [batch, 1, queries ?? seq, seq]);
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
