import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { Dim, HostTensor, Tensor } from '../src/index.js';
import * as e from '../src/index.js';

/** Gradients of single examples and of single tasks are those of torch.func; see fixtures/per-example-gradients.py. */
type Wanted = { shape: number[]; data: number[] };
const fixture: Record<string, Wanted | Record<string, Wanted>> = JSON.parse(
  readFileSync(new URL('fixtures/per-example-gradients.json', import.meta.url), 'utf8'),
);

const wave = (dtype: 'float32' | 'float64', shape: number[], step: number, scale = 1, offset = 0) =>
  e.hostTensor(
    dtype,
    shape,
    Array.from({ length: e.elementCount(shape) }, (_, i) => offset + scale * Math.sin(1 + step * i)),
  );
const specOf = ({ dtype, shape }: HostTensor, first?: Dim) => ({
  dtype,
  shape: first === undefined ? (shape as readonly Dim[]) : [first, ...shape.slice(1)],
});
const specsOf = <K extends string>(tensors: Record<K, HostTensor>) =>
  Object.fromEntries(Object.entries<HostTensor>(tensors).map(([name, tensor]) => [name, specOf(tensor)])) as Record<
    K,
    ReturnType<typeof specOf>
  >;

/** Each tensor's error relative to its largest element. */
function near(name: string, got: Record<string, HostTensor>, tolerance: number) {
  const wanted = fixture[name] as Record<string, Wanted>;
  expect(Object.keys(got).sort()).toEqual(Object.keys(wanted).sort());
  for (const [key, { shape, data }] of Object.entries(wanted)) {
    expect(got[key]!.shape, key).toEqual(shape);
    const largest = Math.max(1e-3, ...data.map(Math.abs));
    const worst = Math.max(...data.map((value, i) => Math.abs(Number(got[key]!.data[i]) - value)));
    expect(worst / largest, `${name}: ${key}`).toBeLessThan(tolerance);
  }
}

const mlpWeights = {
  w1: wave('float64', [5, 4], 0.7),
  b1: wave('float64', [5], 1.1),
  w2: wave('float64', [3, 5], 1.9),
  b2: wave('float64', [3], 0.4),
};
type Mlp = Record<keyof typeof mlpWeights, Tensor>;

test('of a perceptron with two layers, and its Hessian', async () => {
  const loss = (w: Mlp, x: Tensor, target: Tensor) => {
    const hidden = e.tanh(e.linear(e.unsqueeze(x, 0), w.w1, w.b1));
    return e.crossEntropy(e.linear(hidden, w.w2, w.b2), e.unsqueeze(target, 0));
  };
  const x = wave('float64', [3, 4], 2.3);
  const y = e.hostTensor('int64', [3], [0, 2, 1]);
  await using program = await e.compile(
    ({ w, x, y }) => ({
      mlp: e.vmap(e.grad(loss), { inAxes: [null, 0, 0] })(w, x, y),
      hessian: e.vmap((x: Tensor, y: Tensor) => e.hessian((b1: Tensor) => loss({ ...w, b1 }, x, y))(w.b1))(x, y),
    }),
    { w: specsOf(mlpWeights), x: specOf(x, 'batch'), y: specOf(y, 'batch') },
  );
  const { mlp, hessian } = await program.run({ w: mlpWeights, x, y });
  near('mlp', mlp, 1e-7);
  const wanted = fixture.mlpHessianOfBias as Wanted;
  expect(hessian.shape).toEqual(wanted.shape);
  for (const [i, value] of wanted.data.entries()) expect(Number(hessian.data[i])).toBeCloseTo(value, 7);
});

const [channels, ways, size] = [3, 2, 16];
const convWeights: Record<string, HostTensor> = {
  head: wave('float32', [ways, channels], 1.7),
  bias: wave('float32', [ways], 0.3),
};
for (let i = 0; i < 4; i++) {
  convWeights[`conv${i}`] = wave('float32', [channels, i === 0 ? 1 : channels, 3, 3], 0.9 + 0.2 * i);
  convWeights[`scale${i}`] = wave('float32', [channels], 0.8 + i, 0.2, 1);
  convWeights[`shift${i}`] = wave('float32', [channels], 1.3 + i, 0.2);
}
type Weights = Readonly<Record<string, Tensor>>;

function conv4(w: Weights, images: Tensor, targets: Tensor): Tensor {
  let h = images;
  for (let i = 0; i < 4; i++) {
    h = e.conv(h, w[`conv${i}`]!, undefined, { padding: 1 });
    h = e.batchNorm(h, w[`scale${i}`]!, w[`shift${i}`]!).y;
    h = e.maxPool(e.relu(h), { kernel: 2 });
  }
  return e.crossEntropy(e.linear(e.reshape(h, [h.shape[0]!, channels]), w.head!, w.bias), targets);
}

function adapted(w: Weights, support: Tensor, targets: Tensor, query: Tensor, answers: Tensor): Tensor {
  const gradient = e.grad(conv4)(w, support, targets);
  const fast = Object.fromEntries(Object.entries(w).map(([name, p]) => [name, e.sub(p, e.mul(gradient[name]!, 0.5))]));
  return conv4(fast, query, answers);
}

// A symbolic number of tasks, and a known one: weights of a task's own become matrix products, or groups.
test.each(['tasks', 2] as const)(
  'of convolutional networks, and of one adaptation step, for %s tasks',
  async (tasks) => {
    const support = wave('float32', [2, 4, 1, size, size], 1.37);
    const query = wave('float32', [2, 4, 1, size, size], 0.73);
    const labels = e.hostTensor('int64', [2, 4], [0, 0, 1, 1, 1, 0, 1, 0]);
    const answers = e.hostTensor('int64', [2, 4], [1, 0, 1, 0, 0, 0, 1, 1]);
    const given = { support, labels, query, answers };
    const inAxes = [null, 0, 0, 0, 0];
    await using program = await e.compile(
      ({ w, support, labels, query, answers }) => ({
        conv4: e.vmap(e.grad(conv4), { inAxes: [null, 0, 0] })(w, support, labels),
        maml: e.vmap(e.grad(adapted), { inAxes })(w, support, labels, query, answers),
        mamlOfTheSum: e.grad((w: Weights) => e.sum(e.vmap(adapted, { inAxes })(w, support, labels, query, answers)))(w),
      }),
      {
        w: specsOf(convWeights),
        support: specOf(support, tasks),
        labels: specOf(labels, tasks),
        query: specOf(query, tasks),
        answers: specOf(answers, tasks),
      },
    );
    const results = await program.run({ w: convWeights, ...given });
    near('conv4', results.conv4, 1e-4);
    near('maml', results.maml, 1e-3);
    near('mamlOfTheSum', results.mamlOfTheSum, 1e-3);
  },
);
