/** jax-js, the whole step under `jit`: the steps of bench/seed/engine/small-models.ts, in Node and in browsers. */
import * as jax from '@jax-js/jax';

const { numpy: np, nn } = jax;

const lr = 0.01;
const heads = 4;

// Arrays are counted references: a value is used up where it is passed, `ref` keeps it.
const dense = (x, w, name) => np.matmul(x, np.transpose(w[`${name}.weight`].ref)).add(w[`${name}.bias`].ref);

const crossEntropy = (logits, targets) => nn.logSoftmax(logits).mul(targets).sum(1).mean().neg();

function mlp(w, { x, y }) {
  const hidden = nn.relu(dense(nn.relu(dense(x, w, 'in')), w, 'hidden'));
  return crossEntropy(dense(hidden, w, 'out'), y);
}

const norm = (x, w, name) => nn.standardize(x, -1).mul(w[`${name}.weight`].ref).add(w[`${name}.bias`].ref);

function transformer(w, { x, y }) {
  const [batch, tokens, hidden] = x.shape;
  const layers = Object.keys(w).filter((name) => name.endsWith('up.weight')).length;
  const split = (z) => np.transpose(z.reshape([batch, tokens, heads, hidden / heads]), [0, 2, 1, 3]);
  let state = x.reshape([batch * tokens, hidden]);
  for (let layer = 0; layer < layers; layer++) {
    const at = (name) => `${layer}.${name}`;
    const normal = norm(state.ref, w, at('norm1'));
    const [q, k, v] = ['query', 'key', 'value'].map((name) => split(dense(normal.ref, w, at(name))));
    normal.dispose();
    const scores = np.matmul(q, np.transpose(k, [0, 1, 3, 2])).mul(1 / Math.sqrt(hidden / heads));
    const context = np.transpose(np.matmul(nn.softmax(scores, -1), v), [0, 2, 1, 3]);
    state = state.add(dense(context.reshape([batch * tokens, hidden]), w, at('output')));
    const inner = nn.relu(dense(norm(state.ref, w, at('norm2')), w, at('up')));
    state = state.add(dense(inner, w, at('down')));
  }
  const pooled = state.reshape([batch, tokens, hidden]).mean(1);
  return crossEntropy(dense(pooled, w, 'out'), y);
}

/** A step of SGD that gives its loss; the values are { shape, data } by name. */
export async function jaxStep(kind, values) {
  await jax.init('wasm');
  jax.defaultDevice('wasm');
  const arrays = (of) =>
    Object.fromEntries(Object.entries(of).map(([name, { shape, data }]) => [name, np.array(data).reshape(shape)]));
  let weights = arrays(values.weights);
  const batch = arrays(values.batch);
  const loss = { mlp, transformer }[kind];
  const step = jax.jit((weights, batch) => {
    const [value, gradient] = jax.valueAndGrad(loss)(jax.tree.ref(weights), batch);
    return [value, jax.tree.map((p, g) => p.sub(g.mul(lr)), weights, gradient)];
  });
  return async () => {
    const [value, updated] = step(weights, jax.tree.ref(batch));
    weights = updated;
    await jax.blockUntilReady(weights);
    return (await value.data())[0];
  };
}
