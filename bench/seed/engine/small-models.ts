import {
  add,
  attention,
  type HostTensor,
  hostTensor,
  layerNorm,
  linear,
  logSoftmax,
  mean,
  mul,
  type Named,
  neg,
  relu,
  reshape,
  sum,
  type Tensor,
  type TensorSpec,
  transpose,
} from '@fewtune/engine';
import { normals } from '../../lib/statistics.js';
import type { MatrixProduct } from './matrix-products.js';

/** A model small enough for every runtime, with its start values and one batch. SGD trains it. */
export interface SmallModel {
  readonly name: 'mlp' | 'transformer';
  readonly what: string;
  readonly weights: Named<HostTensor>;
  readonly batch: { readonly x: HostTensor; readonly y: HostTensor };
  loss(params: Named<Tensor>, given: { batch: { x: Tensor; y: Tensor } }): Tensor;
  /** Matrix products of a step: forward, inputs, weights. */
  readonly products: readonly MatrixProduct[];
}

export const smallLr = 0.01;
const classes = 10;

const dense = (x: Tensor, params: Named<Tensor>, name: string) =>
  linear(x, params[`${name}.weight`]!, params[`${name}.bias`]!);

/** Targets are one-hot, float32: every peer has the operators for it. */
const crossEntropy = (logits: Tensor, targets: Tensor) =>
  neg(mean(sum(mul(logSoftmax(logits), targets), { axes: [1] })));

/** Three dense layers with ReLU, 784 → 512 → 512 → 10, batch 128. */
export function mlp(batch = 128): SmallModel {
  const sizes = [
    ['in', 784, 512],
    ['hidden', 512, 512],
    ['out', 512, classes],
  ] as const;
  return {
    name: 'mlp',
    what: `MLP 784-512-512-10 step, batch ${batch}`,
    weights: Object.assign({}, ...sizes.map(([name, from, to], seed) => layer(name, from, to, seed))),
    batch: { x: drawn([batch, 784], 50, 1), y: oneHot(batch) },
    loss: (params, { batch: { x, y } }) => {
      const hidden = relu(dense(relu(dense(x, params, 'in')), params, 'hidden'));
      return crossEntropy(dense(hidden, params, 'out'), y);
    },
    products: sizes.flatMap(([name, from, to]) => denseProducts(batch, from, to, 1, name !== 'in')),
  };
}

interface TransformerShape {
  readonly layers: number;
  readonly hidden: number;
  readonly heads: number;
  readonly inner: number;
  readonly batch: number;
  readonly tokens: number;
}

/** Pre-norm encoder layers with ReLU on given embeddings, mean over tokens, ten classes. */
export function transformer(shape: Partial<TransformerShape> = {}): SmallModel {
  const { layers, hidden, heads, inner, batch, tokens } = {
    ...{ layers: 2, hidden: 256, heads: 4, inner: 1024, batch: 8, tokens: 32 },
    ...shape,
  };
  const weights: Record<string, HostTensor> = {};
  const addLayer = (name: string, from: number, to: number) =>
    Object.assign(weights, layer(name, from, to, Object.keys(weights).length));
  for (let index = 0; index < layers; index++) {
    for (const part of ['query', 'key', 'value', 'output']) addLayer(`${index}.${part}`, hidden, hidden);
    addLayer(`${index}.up`, hidden, inner);
    addLayer(`${index}.down`, inner, hidden);
    for (const part of ['norm1', 'norm2']) {
      weights[`${index}.${part}.weight`] = hostTensor('float32', [hidden], new Float32Array(hidden).fill(1));
      weights[`${index}.${part}.bias`] = hostTensor('float32', [hidden], new Float32Array(hidden));
    }
  }
  addLayer('out', hidden, classes);

  const rows = batch * tokens;
  const head = { batch: batch * heads };
  const width = hidden / heads;
  return {
    name: 'transformer',
    what: `transformer step, ${layers} layers of ${hidden}, ${batch} × ${tokens}`,
    weights,
    batch: { x: drawn([batch, tokens, hidden], 50, 1), y: oneHot(batch) },
    loss: (params, { batch: { x, y } }) => {
      const norm = (z: Tensor, name: string) => layerNorm(z, params[`${name}.weight`]!, params[`${name}.bias`]!);
      const split = (z: Tensor) => transpose(reshape(z, [batch, tokens, heads, width]), [0, 2, 1, 3]);
      let state = x; // [batch, tokens, hidden]
      for (let index = 0; index < layers; index++) {
        const normal = norm(state, `${index}.norm1`);
        const part = (name: string) => split(dense(normal, params, `${index}.${name}`));
        const context = transpose(attention(part('query'), part('key'), part('value')), [0, 2, 1, 3]);
        state = add(state, dense(reshape(context, [batch, tokens, hidden]), params, `${index}.output`));
        const up = relu(dense(norm(state, `${index}.norm2`), params, `${index}.up`));
        state = add(state, dense(up, params, `${index}.down`));
      }
      return crossEntropy(dense(mean(state, { axes: [1] }), params, 'out'), y);
    },
    products: [
      ...denseProducts(rows, hidden, hidden, 4 * layers, true),
      ...denseProducts(rows, hidden, inner, layers, true),
      ...denseProducts(rows, inner, hidden, layers, true),
      { ...head, m: tokens, k: width, n: tokens, count: 2 * layers }, // scores, dP
      { ...head, m: tokens, k: tokens, n: width, count: 4 * layers }, // context, dQ, dK, dV
      ...denseProducts(batch, hidden, classes, 1, true),
    ],
  };
}

/** Specs of a model's batch. */
export const batchSpecs = ({ batch: { x, y } }: SmallModel): { x: TensorSpec; y: TensorSpec } => ({
  x: { dtype: 'float32', shape: x.shape },
  y: { dtype: 'float32', shape: y.shape },
});

function denseProducts(rows: number, from: number, to: number, count: number, toInput: boolean): MatrixProduct[] {
  return [
    { m: rows, k: from, n: to, count },
    { m: to, k: rows, n: from, count },
    ...(toInput ? [{ m: rows, k: to, n: from, count }] : []),
  ];
}

function layer(name: string, from: number, to: number, seed: number): Record<string, HostTensor> {
  return {
    [`${name}.weight`]: drawn([to, from], seed, Math.sqrt(1 / from)),
    [`${name}.bias`]: hostTensor('float32', [to], new Float32Array(to)),
  };
}

function drawn(shape: number[], seed: number, scale: number): HostTensor {
  const count = shape.reduce((product, size) => product * size, 1);
  return hostTensor('float32', shape, normals(count, seed, scale));
}

function oneHot(rows: number): HostTensor {
  const data = new Float32Array(rows * classes);
  for (let row = 0; row < rows; row++) data[row * classes + (row % classes)] = 1;
  return hostTensor('float32', [rows, classes], data);
}
