/** Fused operators of transformers: ONNX's own (opset 23) and those of ONNX Runtime's optimiser (com.microsoft). */
import type { Dim } from '../../dims.js';
import { add, expand, mul, sub, sum } from '../../ops/arithmetic.js';
import { attention, rotary } from '../../ops/attention.js';
import { cast, less, where } from '../../ops/compare.js';
import { gelu, geluTanh, sigmoid } from '../../ops/elementwise.js';
import { arange, concat, gather, slice, split } from '../../ops/indexing.js';
import { matMul } from '../../ops/matmul.js';
import { layerNorm, rmsNorm } from '../../ops/normalize.js';
import { reshape, transpose, unsqueeze } from '../../ops/shape.js';
import type { Tensor } from '../../tensor.js';
import { scalar } from '../../tensor.js';
import type { NodeContext, OperatorRule, OperatorTable } from './context.js';
import { fusedMatMul } from './linear.js';
import { rmsRule } from './normalize.js';

/** [batch, seq, heads · d] -> [batch, heads, seq, d] */
function splitHeads(n: NodeContext, x: Tensor, heads: number): Tensor {
  const [batch, seq, width] = x.shape;
  if (x.rank !== 3 || typeof width !== 'number' || heads < 1 || width % heads !== 0) {
    throw n.error('SHAPE_MISMATCH', `[${x.shape}] does not split into ${heads} heads`);
  }
  return transpose(reshape(x, [batch!, seq!, heads, width / heads]), [0, 2, 1, 3]);
}

/** [batch, heads, seq, d] -> [batch, seq, heads · d] */
function joinHeads(x: Tensor): Tensor {
  const [batch, heads, seq, d] = x.shape;
  return reshape(transpose(x, [0, 2, 1, 3]), [batch!, seq!, (heads as number) * (d as number)]);
}

/** The same keys or values for a group of query heads. */
function repeatHeads(x: Tensor, times: number): Tensor {
  if (times === 1) return x;
  const [batch, heads, seq, d] = x.shape;
  const wide = expand(unsqueeze(x, 2), [batch!, heads!, times, seq!, d!]);
  return reshape(wide, [batch!, (heads as number) * times, seq!, d!]);
}

/** 0 where the mask is 1, else very low; lengths [batch], flags [batch, keys] or already [..., queries, keys]. */
function maskBias(n: NodeContext, mask: Tensor, { dtype, shape }: Tensor): Tensor {
  const [batch, , keys] = shape as [Dim, Dim, Dim];
  if (mask.rank === 1 && mask.shape[0] === batch) {
    const within = less(reshape(arange(keys, mask.dtype), [1, keys]), reshape(mask, [batch, 1]));
    return maskBias(n, within, { dtype, shape } as Tensor);
  }
  const low = n.float('mask_filter_value', -10000);
  const bias = mul(sub(1, cast(mask, dtype)), low);
  if (mask.rank === 2) return unsqueeze(bias, 1, 2);
  if (mask.rank === 3) return unsqueeze(bias, 1);
  if (mask.rank === 4) return bias;
  throw n.unsupported(`a mask of shape [${mask.shape}]`);
}

function refuse(n: NodeContext, inputs: Readonly<Record<number, string>>): void {
  for (const [i, what] of Object.entries(inputs)) if (n.has(Number(i))) throw n.unsupported(`its ${what}`);
  if (n.node.output.slice(1).some((name) => name !== '')) throw n.unsupported('an output beside the first');
}

const scaleOf = (n: NodeContext) => (n.hasAttribute('scale') && n.float('scale') !== 0 ? n.float('scale') : undefined);
const sumBias = (a: Tensor | undefined, b: Tensor | undefined) => (a && b ? add(a, b) : (a ?? b));

/** com.microsoft.Attention: one projection to queries, keys and values. */
function packedAttention(n: NodeContext): Tensor {
  refuse(n, { 4: 'past state', 6: 'past length' });
  if (n.int('do_rotary', 0) !== 0) throw n.unsupported('do_rotary');
  const heads = n.int('num_heads');
  const projected = matMul(n.in(0), n.in(1));
  const qkv = n.has(2) ? add(projected, n.in(2)) : projected;
  const width = qkv.shape.at(-1) as number;
  const sizes = n.ints('qkv_hidden_sizes') ?? [width / 3, width / 3, width / 3];
  const [q, k, v] = split(qkv, sizes).map((part) => splitHeads(n, part, heads)) as [Tensor, Tensor, Tensor];
  const mask = n.has(3) ? maskBias(n, n.in(3), k) : undefined;
  const options = { bias: sumBias(mask, n.optional(5)), causal: n.int('unidirectional', 0) !== 0, scale: scaleOf(n) };
  return joinHeads(attention(q, k, v, options));
}

/** com.microsoft.MultiHeadAttention: queries, keys and values apart. */
function multiHeadAttention(n: NodeContext): Tensor {
  refuse(n, { 6: 'past key', 7: 'past value' });
  if (n.value(0).shape.length !== 3 || !n.has(1) || !n.has(2)) throw n.unsupported('packed queries, keys and values');
  const heads = n.int('num_heads');
  const biases = n.has(3)
    ? split(
        n.in(3),
        [n.in(0), n.in(1), n.in(2)].map((x) => x.shape.at(-1) as number),
      )
    : [];
  const [q, k, v] = [0, 1, 2].map((i) => {
    const x = n.in(i);
    if (x.rank === 4) return x;
    return splitHeads(n, biases[i] ? add(x, biases[i]) : x, heads);
  }) as [Tensor, Tensor, Tensor];
  const mask = n.has(4) ? maskBias(n, n.in(4), k) : undefined;
  const options = { bias: sumBias(mask, n.optional(5)), causal: n.int('unidirectional', 0) !== 0, scale: scaleOf(n) };
  return joinHeads(attention(q, k, v, options));
}

/** Attention of opset 23. */
function standardAttention(n: NodeContext): Tensor {
  refuse(n, { 4: 'past key', 5: 'past value', 6: 'lengths of keys' });
  if (n.float('softcap', 0) !== 0) throw n.unsupported('softcap');
  const flat = n.value(0).shape.length === 3;
  const [q, k, v] = [0, 1, 2].map((i) =>
    flat ? splitHeads(n, n.in(i), n.int(i === 0 ? 'q_num_heads' : 'kv_num_heads')) : n.in(i),
  ) as [Tensor, Tensor, Tensor];
  const [queries, keys] = [q.shape[1] as number, k.shape[1] as number];
  if (queries % keys !== 0) throw n.error('SHAPE_MISMATCH', `${queries} query heads for ${keys} key heads`);
  const mask = n.optional(3);
  const bias = mask?.dtype === 'bool' ? where(mask, scalar(0, q.dtype), scalar(-1e9, q.dtype)) : mask;
  const options = { bias, causal: n.int('is_causal', 0) !== 0, scale: scaleOf(n) };
  const y = attention(q, repeatHeads(k, queries / keys), repeatHeads(v, queries / keys), options);
  return flat ? joinHeads(y) : y;
}

/** Rotary embedding; tables [max, d / 2] are looked up by position. */
function rotated(n: NodeContext, at: { positions: number; cos: number; sin: number }): Tensor {
  const x = n.in(0);
  const heads = x.rank === 3 ? n.int('num_heads') : 0;
  const apart = x.rank === 3 ? splitHeads(n, x, heads) : x; // [batch, heads, seq, d]
  const seq = apart.shape[2]!;
  const table = (i: number): Tensor => {
    const whole = n.in(i);
    if (!n.has(at.positions)) return whole.rank === 3 ? unsqueeze(whole, 1) : whole;
    const positions = n.in(at.positions);
    if (positions.rank === 2) return unsqueeze(gather(whole, positions), 1); // [batch, 1, seq, d / 2]
    if (n.number(at.positions, 'first position') !== 0) throw n.unsupported('a first position other than 0');
    return typeof seq === 'number' ? slice(whole, 0, 0, seq) : gather(whole, arange(seq));
  };
  const [cos, sin] = [table(at.cos), table(at.sin)];
  const width = apart.shape.at(-1) as number;
  const turned = n.int('rotary_embedding_dim', 0) || width;
  const [first, rest] = turned < width ? split(apart, [turned, width - turned]) : [apart];
  const y = n.int('interleaved', 0) !== 0 ? interleaved(first!, cos, sin) : rotary(first!, cos, sin);
  const whole = rest ? concat([y, rest], y.rank - 1) : y;
  return heads > 0 ? joinHeads(whole) : whole;
}

/** Pairs of neighbours instead of halves: the same after the elements are put in that order. */
function interleaved(x: Tensor, cos: Tensor, sin: Tensor): Tensor {
  const shape: readonly Dim[] = x.shape;
  const half = (shape.at(-1) as number) / 2;
  const lead = shape.slice(0, -1);
  const axes = lead.map((_, i) => i);
  const swapped = [...axes, lead.length + 1, lead.length];
  const halves = reshape(transpose(reshape(x, [...lead, half, 2]), swapped), shape);
  return reshape(transpose(reshape(rotary(halves, cos, sin), [...lead, 2, half]), swapped), shape);
}

/** x + skip (+ bias), normalised; the sum is the fourth output. */
function skipNorm(normalize: (x: Tensor, n: NodeContext) => Tensor, bias: number): OperatorRule {
  return {
    trace: (n) => {
      const both = add(n.in(0), n.in(1));
      const whole = n.has(bias) ? add(both, n.in(bias)) : both;
      return [normalize(whole, n), whole, whole, whole].slice(0, Math.max(1, n.outputCount));
    },
    note: 'outputs 2 and 3 (statistics) are not',
  };
}

function embedNorm(n: NodeContext): Tensor[] {
  const ids = cast(n.in(0), 'int64');
  const seq = ids.shape[1]!;
  const words = gather(n.in(2), ids);
  const positions = n.has(8)
    ? gather(n.in(3), cast(n.in(8), 'int64'))
    : typeof seq === 'number'
      ? slice(n.in(3), 0, 0, seq)
      : gather(n.in(3), arange(seq));
  const both = add(words, positions);
  const whole = n.has(1) && n.has(4) ? add(both, gather(n.in(4), cast(n.in(1), 'int64'))) : both;
  const y = layerNorm(whole, n.in(5), n.in(6), n.float('epsilon', 1e-12));
  // Its second output is how many tokens of each row are real.
  const lengths = n.has(7) ? sum(n.in(7), { axes: [1] }) : expand(cast(scalar(0), 'int32'), [ids.shape[0]!]);
  return [y, lengths, whole].slice(0, Math.max(1, n.outputCount));
}

const withBias = (activation: (x: Tensor) => Tensor): OperatorRule => ({
  trace: (n) => activation(n.has(1) ? add(n.in(0), n.in(1)) : n.in(0)),
});

export const attentionOperators: OperatorTable = {
  Attention: { trace: standardAttention, note: 'without past state, soft cap or score output' },
  RotaryEmbedding: { trace: (n) => rotated(n, { cos: 1, sin: 2, positions: 3 }) },
  'com.microsoft.Attention': { trace: packedAttention, note: 'without past state' },
  'com.microsoft.MultiHeadAttention': { trace: multiHeadAttention, note: 'unpacked, without past state' },
  'com.microsoft.RotaryEmbedding': { trace: (n) => rotated(n, { positions: 1, cos: 2, sin: 3 }) },
  'com.microsoft.FusedMatMul': fusedMatMul,
  'com.microsoft.Gelu': { trace: (n) => gelu(n.in(0)) },
  'com.microsoft.BiasGelu': withBias(gelu),
  'com.microsoft.FastGelu': withBias(geluTanh),
  'com.microsoft.QuickGelu': {
    trace: (n) => mul(n.in(0), sigmoid(mul(n.in(0), n.float('alpha', 1.702)))),
  },
  'com.microsoft.SkipLayerNormalization': skipNorm((x, n) => {
    const scale = n.in(2);
    return layerNorm(x, scale, n.optional(3) ?? mul(scale, 0), n.float('epsilon', 1e-12));
  }, 4),
  'com.microsoft.SkipSimplifiedLayerNormalization': skipNorm(
    (x, n) => rmsNorm(x, n.in(2), n.float('epsilon', 1e-12)),
    3,
  ),
  'com.microsoft.EmbedLayerNormalization': { trace: embedNorm },
  'com.microsoft.SimplifiedLayerNormalization': rmsRule,
  // ONNX Runtime writes this one into the standard domain.
  SimplifiedLayerNormalization: rmsRule,
};
