/**
 * TensorFlow.js: the steps of bench/seed/engine/small-models.ts, in Node and in browsers.
 *
 * Its product of a transposed matrix runs at a twentieth of the speed of a plain one, and its gradients are made of such
 * products. With `tuned` every transpose is written out, which is as fast as it gets.
 */
import * as tf from '@tensorflow/tfjs';

const lr = 0.01;
const heads = 4;

/** a b, with a gradient whose transposes are written out. */
const tunedMatMul = tf.customGrad((a, b, save) => {
  const swap = (x) => tf.transpose(x, [...Array(x.rank - 2).keys(), x.rank - 1, x.rank - 2]);
  save([a, b]);
  return {
    value: tf.matMul(a, b),
    gradFunc: (dy, [a, b]) => [tf.matMul(dy, swap(b)), tf.matMul(swap(a), dy)],
  };
});
let matMul = tf.matMul;

/** Weights are [in, out] here, as TensorFlow has them. */
const dense = (x, w, name) => tf.add(matMul(x, w[`${name}.weight`]), w[`${name}.bias`]);

function crossEntropy(logits, targets) {
  return tf.neg(tf.mean(tf.sum(tf.mul(tf.logSoftmax(logits), targets), 1)));
}

function mlp(w, { x, y }) {
  const hidden = tf.relu(dense(tf.relu(dense(x, w, 'in')), w, 'hidden'));
  return crossEntropy(dense(hidden, w, 'out'), y);
}

function norm(x, w, name) {
  const centred = tf.sub(x, tf.mean(x, -1, true));
  const variance = tf.mean(tf.square(centred), -1, true);
  const normal = tf.mul(centred, tf.rsqrt(tf.add(variance, 1e-5)));
  return tf.add(tf.mul(normal, w[`${name}.weight`]), w[`${name}.bias`]);
}

function transformer(w, { x, y }) {
  const [batch, tokens, hidden] = x.shape;
  const layers = Object.keys(w).filter((name) => name.endsWith('up.weight')).length;
  const flat = (z) => tf.reshape(z, [batch * tokens, -1]);
  const split = (z) => tf.transpose(tf.reshape(z, [batch, tokens, heads, hidden / heads]), [0, 2, 1, 3]);
  let state = flat(x); // [batch · tokens, hidden]
  for (let layer = 0; layer < layers; layer++) {
    const at = (name) => `${layer}.${name}`;
    const normal = norm(state, w, at('norm1'));
    const [q, k, v] = ['query', 'key', 'value'].map((name) => split(dense(normal, w, at(name))));
    const scores = tf.mul(matMul(q, tf.transpose(k, [0, 1, 3, 2])), 1 / Math.sqrt(hidden / heads));
    const context = tf.transpose(matMul(tf.softmax(scores), v), [0, 2, 1, 3]);
    state = tf.add(state, dense(flat(context), w, at('output')));
    const inner = tf.relu(dense(norm(state, w, at('norm2')), w, at('up')));
    state = tf.add(state, dense(inner, w, at('down')));
  }
  const pooled = tf.mean(tf.reshape(state, [batch, tokens, hidden]), 1);
  return crossEntropy(dense(pooled, w, 'out'), y);
}

/** A step of SGD that gives its loss; the values are { shape, data } by name. */
export function tfjsStep(kind, values, tuned) {
  if (tuned) matMul = tunedMatMul;
  const tensor = ({ shape, data }) => tf.tensor(data, shape);
  const weights = Object.fromEntries(
    Object.entries(values.weights).map(([name, value]) => {
      const start = value.shape.length === 2 ? tf.transpose(tensor(value)) : tensor(value);
      return [name, tf.variable(start)];
    }),
  );
  const batch = Object.fromEntries(Object.entries(values.batch).map(([name, value]) => [name, tensor(value)]));
  const names = Object.fromEntries(Object.entries(weights).map(([name, variable]) => [variable.name, name]));
  const loss = { mlp, transformer }[kind];
  return () =>
    tf.tidy(() => {
      const { value, grads } = tf.variableGrads(() => loss(weights, batch), Object.values(weights));
      for (const [variable, g] of Object.entries(grads)) {
        const weight = weights[names[variable]];
        weight.assign(tf.sub(weight, tf.mul(g, lr)));
      }
      return value.dataSync()[0];
    });
}
