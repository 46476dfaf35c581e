import {
  adamW,
  compile,
  constantRate,
  crossEntropy,
  hostTensor,
  linear,
  matMul,
  tanh,
  trainStep,
} from '@fewtune/engine';

const query = new URLSearchParams(location.search);
const backend = query.get('backend') ?? 'wasm';
const threads = Number(query.get('threads') ?? 2);
const log = (line) => {
  document.querySelector('#log').textContent += `${line}\n`;
};
document.querySelector('#where').textContent = `${backend}, ${crossOriginIsolated ? threads : 1} thread(s)`;

/** Two spirals of points, [rows, 2], and the spiral of each. */
function spirals(rows) {
  const x = new Float32Array(rows * 2);
  const y = new BigInt64Array(rows);
  for (let i = 0; i < rows; i++) {
    const turn = (i / rows) * 2 * Math.PI;
    const angle = turn + (i % 2) * Math.PI;
    x[2 * i] = (turn / 6) * Math.cos(angle);
    x[2 * i + 1] = (turn / 6) * Math.sin(angle);
    y[i] = BigInt(i % 2);
  }
  return { x: hostTensor('float32', [rows, 2], x), y: hostTensor('int64', [rows], y) };
}

let state = 1;
const random = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32 - 0.5;
};
const weight = (rows, columns) =>
  hostTensor(
    'float32',
    [rows, columns],
    Float32Array.from({ length: rows * columns }, () => (3 * random()) / Math.sqrt(columns)),
  );
const bias = (size) => hostTensor('float32', [size], new Float32Array(size));

const [rows, width] = [256, 128];
const step = await trainStep({
  params: { w1: weight(width, 2), b1: bias(width), w2: weight(width, width), b2: bias(width), w3: weight(2, width) },
  batch: { x: { dtype: 'float32', shape: ['rows', 2] }, y: { dtype: 'int64', shape: ['rows'] } },
  loss: (p, { batch }) => {
    const hidden = tanh(linear(batch.x, p.w1, p.b1));
    return crossEntropy(linear(tanh(linear(hidden, p.w2, p.b2)), p.w3), batch.y);
  },
  optimizer: adamW(),
  schedule: constantRate(0.01),
  backend,
  threads,
});

const batch = spirals(rows);
const times = [];
let loss = 0;
for (let i = 0; i <= 200; i++) {
  const began = performance.now();
  ({ loss } = await step.run(batch));
  times.push(performance.now() - began);
  if (i % 50 === 0) log(`step ${i}: loss ${loss.toFixed(3)}`);
}

// The same step's largest products, alone: forward, and the gradients of input and weight.
const spec = (shape) => ({ dtype: 'float32', shape });
const products = await compile(
  ({ a, w }) => ({
    forward: matMul(a, w, { transposeB: true }),
    input: matMul(a, w),
    weight: matMul(a, a, { transposeA: true }),
  }),
  { a: spec([rows, width]), w: spec([width, width]) },
  { backend, threads },
);
const operands = { a: weight(rows, width), w: weight(width, width) };
const alone = [];
for (let i = 0; i < 50; i++) {
  const began = performance.now();
  await products.run(operands);
  alone.push(performance.now() - began);
}
const lowest = (list) => Math.min(...list).toFixed(2);
log(`a step takes ${lowest(times)} ms, its largest matrix products alone ${lowest(alone)} ms`);
log(loss < 0.1 ? 'learned' : 'not learned');
