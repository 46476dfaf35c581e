/**
 * A few steps of a twelve-layer transformer, with or without `checkpoint` around its layers, in a process of its own whose
 * peak memory is then known. Prints `{ loss, weights, residentBefore, stepMs }`, resident memory before the first step.
 *
 *     node bench/dist/seed/engine/checkpoint-step.js plain|checkpoint
 */
import {
  add,
  attention,
  checkpoint,
  constantRate,
  gelu,
  hostTensor,
  layerNorm,
  linear,
  mean,
  mul,
  type Named,
  reshape,
  sgd,
  type Tensor,
  trainStep,
  transpose,
} from '@fewtune/engine';
import { threads } from '../../lib/machine.js';
import { normals } from '../../lib/statistics.js';

const [layers, hidden, heads, batch, seq] = [12, 256, 4, 8, 128];
const linears = { q: [hidden, hidden], k: [hidden, hidden], v: [hidden, hidden], o: [hidden, hidden] };
const shapes: Record<string, number[]> = { ...linears, up: [4 * hidden, hidden], down: [hidden, 4 * hidden] };

const params: Record<string, ReturnType<typeof hostTensor>> = {};
for (let i = 0; i < layers; i++) {
  for (const [name, [out, inner]] of Object.entries(shapes) as [string, [number, number]][]) {
    params[`${i}.${name}.weight`] = hostTensor('float32', [out, inner], normals(out * inner, i + 1, 0.03));
    params[`${i}.${name}.bias`] = hostTensor('float32', [out], new Float32Array(out));
  }
  for (const name of ['before', 'after']) {
    params[`${i}.${name}.weight`] = hostTensor('float32', [hidden], new Float32Array(hidden).fill(1));
    params[`${i}.${name}.bias`] = hostTensor('float32', [hidden], new Float32Array(hidden));
  }
}

const apart = (x: Tensor) => transpose(reshape(x, [batch, seq, heads, hidden / heads]), [0, 2, 1, 3]);

function layer(h: Tensor, w: Named<Tensor>): Tensor {
  const dense = (x: Tensor, name: string) => linear(x, w[`${name}.weight`]!, w[`${name}.bias`]);
  const norm = (x: Tensor, name: string) => layerNorm(x, w[`${name}.weight`]!, w[`${name}.bias`]!);
  const seen = attention(apart(dense(h, 'q')), apart(dense(h, 'k')), apart(dense(h, 'v')));
  const middle = norm(add(h, dense(reshape(transpose(seen, [0, 2, 1, 3]), [batch, seq, hidden]), 'o')), 'before');
  return norm(add(middle, dense(gelu(dense(middle, 'up')), 'down')), 'after');
}

const run = process.argv[2] === 'checkpoint' ? checkpoint(layer) : layer;
const step = await trainStep({
  params,
  batch: { x: { dtype: 'float32', shape: [batch, seq, hidden] } } as const,
  loss: (all, { batch: { x } }) => {
    let h = x;
    for (let i = 0; i < layers; i++) {
      const own = Object.entries(all).filter(([name]) => name.startsWith(`${i}.`));
      h = run(h, Object.fromEntries(own.map(([name, w]) => [name.slice(`${i}.`.length), w])));
    }
    return mean(mul(h, reshape(x, h.shape)));
  },
  optimizer: sgd(),
  schedule: constantRate(0.01),
  threads,
});
const given = { x: hostTensor('float32', [batch, seq, hidden], normals(batch * seq * hidden, 99)) };
const residentBefore = process.memoryUsage.rss();
const { loss } = await step.run(given);
let stepMs = Infinity;
for (let i = 0; i < 3; i++) {
  const start = performance.now();
  await step.run(given);
  stepMs = Math.min(stepMs, performance.now() - start);
}
let weights = 0;
for (const { data } of Object.values(await step.params())) for (const value of data) weights += Math.abs(Number(value));
console.log(JSON.stringify({ loss, weights, residentBefore, stepMs }));
await step.dispose();
