import {
  adamW,
  add,
  arange,
  attention,
  constantRate,
  crossEntropy,
  gather,
  geluTanh,
  type HostTensor,
  hostTensor,
  layerNorm,
  linear,
  mul,
  type Named,
  reshape,
  slice,
  split,
  type Tensor,
  trainStep,
  transpose,
} from '@fewtune/engine';
import { type Contender, timeEach } from '../../lib/contender.js';
import { contest } from '../../lib/contest.js';
import { threads } from '../../lib/machine.js';
import { pythonRival } from '../../lib/peers.js';
import { generator, normals } from '../../lib/statistics.js';
import { type MatrixProduct, productsContender } from './matrix-products.js';
import type { Part } from './part.js';

interface Shape {
  readonly layers: number;
  readonly hidden: number;
  readonly heads: number;
  readonly vocabulary: number;
  readonly batch: number;
  readonly tokens: number;
}

const small: Shape = { layers: 12, hidden: 768, heads: 12, vocabulary: 50257, batch: 4, tokens: 256 };
const rank = 8;

/**
 * A LoRA step of GPT-2 small in its shape, random weights: r = 8 on the joint projection of queries, keys and values
 * (what PEFT adapts in GPT-2), next-token loss with the head tied to the word table, clipping, AdamW.
 */
export const gpt2: Part = {
  name: 'gpt2',
  async run({ quick, python, torch }) {
    const shape = quick ? { ...small, layers: 2, vocabulary: 5000, tokens: 64 } : small;
    const { batch, tokens, layers, vocabulary } = shape;
    const args = { batch, tokens, layers, vocabulary, rank };
    const peer = { name: `${torch} eager`, kind: 'step', target: '<= 1x peer', args };
    return contest({
      what: `GPT-2 small LoRA r=${rank} step, ${batch} × ${tokens}`,
      ours: await ourStep(shape),
      products: { contender: await productsContender(products(shape), { threads }), target: null },
      rivals: [pythonRival(python, 'torch_gpt2.py', peer)],
      rounds: quick ? 2 : 5,
      runs: quick ? 2 : 1,
      warmUp: 1,
      note: "the peer is transformers' GPT2LMHeadModel with scaled dot-product attention and PEFT",
    });
  },
};

/** Pre-norm decoder; Radford et al. 2019. Names as in the checkpoint; weights are [out, in]. */
function gpt2Loss(params: Named<Tensor>, weights: Named<Tensor>, ids: Tensor, { layers, hidden, heads }: Shape) {
  const [batch, tokens] = ids.shape as [number, number];
  const words = weights['wte.weight']!;
  const dense = (x: Tensor, name: string) => linear(x, weights[`${name}.weight`]!, weights[`${name}.bias`]!);
  const norm = (x: Tensor, name: string) => layerNorm(x, weights[`${name}.weight`]!, weights[`${name}.bias`]!);
  const adapted = (x: Tensor, name: string) => {
    const down = linear(x, params[`${name}.lora_A`]!); // alpha = 2 r
    return add(dense(x, name), linear(down, mul(params[`${name}.lora_B`]!, 2)));
  };
  const perHead = (x: Tensor) => transpose(reshape(x, [batch, tokens, heads, hidden / heads]), [0, 2, 1, 3]);

  let x = add(gather(words, ids), gather(weights['wpe.weight']!, arange(tokens)));
  for (let layer = 0; layer < layers; layer++) {
    const at = `h.${layer}`;
    const joint = adapted(norm(x, `${at}.ln_1`), `${at}.attn.c_attn`);
    const [q, k, v] = split(joint, [hidden, hidden, hidden]).map(perHead) as [Tensor, Tensor, Tensor];
    const context = transpose(attention(q, k, v, { causal: true }), [0, 2, 1, 3]);
    x = add(x, dense(reshape(context, [batch, tokens, hidden]), `${at}.attn.c_proj`));
    const inner = geluTanh(dense(norm(x, `${at}.ln_2`), `${at}.mlp.c_fc`));
    x = add(x, dense(inner, `${at}.mlp.c_proj`));
  }
  // Every token but the last predicts the one after it.
  const before = reshape(slice(norm(x, 'ln_f'), 1, 0, tokens - 1), [-1, hidden]);
  const after = reshape(slice(ids, 1, 1, tokens), [-1]);
  return crossEntropy(linear(before, words), after);
}

function frozenWeights({ layers, hidden, vocabulary }: Shape): Record<string, HostTensor> {
  const weights: Record<string, HostTensor> = {};
  const drawn = (name: string, ...shape: number[]) => {
    const count = shape.reduce((product, size) => product * size, 1);
    weights[name] = hostTensor('float32', shape, normals(count, Object.keys(weights).length, 0.02));
  };
  const filled = (name: string, size: number, value: number) => {
    weights[name] = hostTensor('float32', [size], new Float32Array(size).fill(value));
  };
  const dense = (name: string, from: number, to: number) => {
    drawn(`${name}.weight`, to, from);
    filled(`${name}.bias`, to, 0);
  };
  const norm = (name: string) => {
    filled(`${name}.weight`, hidden, 1);
    filled(`${name}.bias`, hidden, 0);
  };
  drawn('wte.weight', vocabulary, hidden);
  drawn('wpe.weight', 1024, hidden);
  for (let layer = 0; layer < layers; layer++) {
    const at = `h.${layer}`;
    norm(`${at}.ln_1`);
    dense(`${at}.attn.c_attn`, hidden, 3 * hidden);
    dense(`${at}.attn.c_proj`, hidden, hidden);
    norm(`${at}.ln_2`);
    dense(`${at}.mlp.c_fc`, hidden, 4 * hidden);
    dense(`${at}.mlp.c_proj`, 4 * hidden, hidden);
  }
  norm('ln_f');
  return weights;
}

function adapters({ layers, hidden }: Shape): Record<string, HostTensor> {
  const pairs = Array.from({ length: layers }, (_, layer): [string, HostTensor][] => [
    [`h.${layer}.attn.c_attn.lora_A`, hostTensor('float32', [rank, hidden], normals(rank * hidden, layer, 0.02))],
    [
      `h.${layer}.attn.c_attn.lora_B`,
      hostTensor('float32', [3 * hidden, rank], normals(3 * hidden * rank, layer + 100, 0.02)),
    ],
  ]);
  return Object.fromEntries(pairs.flat());
}

async function ourStep(shape: Shape): Promise<Contender> {
  const { batch, tokens, vocabulary } = shape;
  const step = await trainStep({
    params: adapters(shape),
    frozen: frozenWeights(shape),
    batch: { ids: { dtype: 'int64', shape: [batch, tokens] } },
    loss: (params, { frozen, batch: { ids } }) => gpt2Loss(params, frozen, ids, shape),
    optimizer: adamW(),
    schedule: constantRate(1e-4),
    clipNorm: 1,
    threads,
  });
  const random = generator(1);
  const ids = Array.from({ length: batch * tokens }, () => Math.floor(random() * vocabulary));
  const given = { ids: hostTensor('int64', [batch, tokens], ids) };
  return { name: 'Fewtune', time: (count) => timeEach(count, () => step.run(given)), close: () => step.dispose() };
}

/** Forward and inputs of every dense layer down to the lowest adapter, attention, the adapters, and the tied head. */
function products({ layers, hidden, heads, vocabulary, batch, tokens }: Shape): MatrixProduct[] {
  const rows = batch * tokens;
  const width = hidden / heads;
  const dense = (from: number, to: number, toInput: number) => [
    { m: rows, k: from, n: to, count: layers },
    { m: rows, k: to, n: from, count: toInput },
  ];
  const adapter = (from: number, to: number, toInput: number) => [
    ...dense(from, to, toInput),
    { m: to, k: rows, n: from, count: layers },
  ];
  const many = { batch: batch * heads };
  return [
    ...dense(hidden, 3 * hidden, layers - 1), // nothing under layer 0 is trained
    ...adapter(hidden, rank, layers - 1),
    ...adapter(rank, 3 * hidden, layers),
    ...dense(hidden, hidden, layers),
    ...dense(hidden, 4 * hidden, layers),
    ...dense(4 * hidden, hidden, layers),
    { ...many, m: tokens, k: width, n: tokens, count: 2 * layers }, // scores, dP
    { ...many, m: tokens, k: tokens, n: width, count: 4 * layers }, // context, dQ, dK, dV
    { m: batch * (tokens - 1), k: hidden, n: vocabulary, count: 1 },
    { m: batch * (tokens - 1), k: vocabulary, n: hidden, count: 1 },
  ];
}
