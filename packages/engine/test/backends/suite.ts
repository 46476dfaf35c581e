/**
 * What every backend must compute as the CPU does: it knows no test runner and no Node.js, so that the tests here and a
 * page in Chromium run the very same.
 */
import type { Dim, HostTensor, SessionOptions, Tensor } from '../../src/index.js';
import * as e from '../../src/index.js';
import {
  as32,
  catalogue,
  forwardSeed,
  forwardSizes,
  inputsOf,
  nameOf,
  type OperatorCase,
  uniform,
} from '../catalogue.js';

export const cases: readonly OperatorCase[] = catalogue.map(as32);

/**
 * Value and first gradient of a case, as one traced function. The loss is Σ w ∘ (y + y²/2), without a sine: WGSL promises
 * sines no better than 5e-4.
 */
export function traceCase(c: OperatorCase): (xs: readonly Tensor[]) => Record<string, Tensor> {
  const loss = (floats: readonly Tensor[], xs: readonly Tensor[]) => {
    const rest = [...floats];
    const y = c.fn(
      xs.map((x) => (isFloat(x) ? rest.shift()! : x)),
      forwardSizes,
    );
    const next = uniform(forwardSeed);
    const shape = y.shape as number[];
    const weights = e.hostTensor(
      'float32',
      shape,
      Array.from({ length: e.elementCount(shape) }, () => 0.5 + next()),
    );
    return e.sum(e.mul(e.add(y, e.mul(e.mul(y, y), 0.5)), e.constant(weights)));
  };
  return (xs) => {
    const y = c.fn(xs, forwardSizes);
    if (c.noGradient) return { y };
    const gradient = e.grad(loss)(xs.filter(isFloat), xs);
    return { y, ...Object.fromEntries(gradient.map((g, i) => [`gradient${i}`, g])) };
  };
}

const isFloat = (x: Tensor) => x.dtype.startsWith('float');

export const caseInputs = (c: OperatorCase): HostTensor[] => inputsOf(c, forwardSizes, forwardSeed);

/** Numbers by output, or the error's message. */
export type Result = Readonly<Record<string, readonly number[]>> | string;

const numbers = ({ data }: HostTensor) => Array.from(data as Float32Array, Number);

export async function runCase(c: OperatorCase, options: SessionOptions): Promise<Result> {
  try {
    const inputs = caseInputs(c);
    const specs = inputs.map(({ dtype, shape }) => ({ dtype, shape: shape as readonly Dim[] }));
    await using program = await e.compile(traceCase(c), specs, options);
    const outputs = (await program.run(inputs as never)) as Record<string, HostTensor>;
    return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, numbers(tensor)]));
  } catch (error) {
    return String(error);
  }
}

/** All cases, by name. */
export async function runCases(options: SessionOptions): Promise<Record<string, Result>> {
  const results: Record<string, Result> = {};
  for (const c of cases) results[nameOf(c)] = await runCase(c, options);
  return results;
}

const wave = (shape: readonly number[], frequency: number, height = 1) =>
  e.hostTensor(
    'float32',
    shape,
    Array.from({ length: e.elementCount(shape) }, (_, i) => height * Math.sin(frequency * (i + 1))),
  );

export interface Training {
  readonly losses: readonly number[];
  /** The weights at the end, one after another. */
  readonly weights: readonly number[];
  /** Losses of three steps, and of the three after a snapshot of the start of them was restored. */
  readonly repeated: readonly [readonly number[], readonly number[]];
}

/** A small network with a frozen layer, dropout, AdamW and clipping. */
export async function train(steps: number, options: SessionOptions): Promise<Training> {
  const batch = {
    x: wave([6, 5], 1.3),
    y: e.hostTensor('int64', [6], [0, 1, 2, 0, 1, 2]),
  };
  await using step = await e.trainStep({
    params: { w1: wave([8, 5], 1.7, 0.5), b1: e.zeros('float32', [8]), w2: wave([3, 8], 2.3, 0.5) },
    frozen: { mix: wave([8, 8], 0.7, 0.4), scale: e.hostTensor('float32', [8], Array(8).fill(1)) },
    batch: { x: { dtype: 'float32', shape: ['rows', 5] }, y: { dtype: 'int64', shape: ['rows'] } },
    loss: (p, { frozen, batch, step: seed }) => {
      const hidden = e.gelu(e.linear(batch.x, p.w1!, p.b1));
      const mixed = e.layerNorm(e.matMul(hidden, frozen.mix!), frozen.scale!, p.b1!);
      return e.crossEntropy(e.linear(e.dropout(mixed, 0.1, seed), p.w2!), batch.y);
    },
    optimizer: e.adamW({ weightDecay: 0.01 }),
    schedule: e.linearDecay({ lr: 0.01, steps: 2 * steps, warmup: 5 }),
    clipNorm: 1,
    ...options,
  });
  const losses: number[] = [];
  for (let i = 0; i < steps; i++) losses.push((await step.run(batch)).loss);
  const weights = Object.values(await step.params()).flatMap(numbers);
  const snapshot = await step.snapshot();
  const three = async () => {
    const found: number[] = [];
    for (let i = 0; i < 3; i++) found.push((await step.run(batch)).loss);
    return found;
  };
  const before = await three();
  await step.restore(snapshot);
  return { losses, weights, repeated: [before, await three()] };
}

/** For a page: `main({ backend: 'wasm', threads: 2 }, 50)`. */
export async function main({ options, steps }: { options: SessionOptions; steps: number }) {
  return {
    cases: await runCases(options),
    training: await train(steps, options),
    transformer: await trainTransformer(10, options),
  };
}

/**
 * A training step like MiniLM's, small: embeddings of words and places, masked attention with heads, GELU, layer
 * normalisation, mean pooling, dropout, AdamW. Batch and length are symbols.
 */
export async function trainTransformer(steps: number, options: SessionOptions): Promise<number[]> {
  const [hidden, heads, inner, words] = [8, 2, 16, 20];
  const shapes = {
    word: [words, hidden],
    place: [16, hidden],
    ...Object.fromEntries(['query', 'key', 'value', 'output'].map((name) => [name, [hidden, hidden]])),
    up: [inner, hidden],
    down: [hidden, inner],
    classifier: [3, hidden],
  } satisfies Record<string, number[]>;
  const params: Record<string, HostTensor> = {};
  for (const [i, [name, shape]] of Object.entries(shapes).entries()) params[name] = wave(shape, 1.1 + i, 0.3);
  const ones = e.hostTensor('float32', [hidden], Array(hidden).fill(1));
  for (const name of ['scale1', 'scale2']) params[name] = ones;
  for (const name of ['bias1', 'bias2', 'queryBias']) params[name] = e.zeros('float32', [hidden]);
  await using step = await e.trainStep({
    params,
    batch: {
      ids: { dtype: 'int64', shape: ['batch', 'seq'] },
      mask: { dtype: 'int64', shape: ['batch', 'seq'] },
      labels: { dtype: 'int64', shape: ['batch'] },
    },
    loss: (p, { batch, step: seed }) => {
      const [rows, seq] = batch.ids.shape as [Dim, Dim];
      const mask = e.cast(batch.mask, 'float32');
      const bias = e.reshape(e.mul(e.sub(1, mask), -1e4), [rows, 1, 1, seq]);
      const places = e.gather(p.place!, e.arange(seq));
      const embedded = e.layerNorm(e.add(e.gather(p.word!, batch.ids), places), p.scale1!, p.bias1!);
      const x = e.dropout(embedded, 0.1, seed);
      const split = (y: Tensor) => e.transpose(e.reshape(y, [rows, seq, heads, hidden / heads]), [0, 2, 1, 3]);
      const [q, k, v] = [e.linear(x, p.query!, p.queryBias!), e.linear(x, p.key!), e.linear(x, p.value!)].map(split);
      const looked = e.reshape(e.transpose(e.attention(q!, k!, v!, { bias }), [0, 2, 1, 3]), [rows, seq, hidden]);
      const attended = e.add(x, e.linear(looked, p.output!));
      const grown = e.linear(e.gelu(e.linear(attended, p.up!)), p.down!);
      const states = e.layerNorm(e.add(attended, grown), p.scale2!, p.bias2!);
      const shown = e.reshape(mask, [rows, seq, 1]);
      const pooled = e.div(e.sum(e.mul(states, shown), { axes: [1] }), e.sum(shown, { axes: [1] }));
      return e.crossEntropy(e.linear(pooled, p.classifier!), batch.labels);
    },
    optimizer: e.adamW({ weightDecay: 0.01 }),
    schedule: e.cosineDecay({ lr: 0.01, steps: 100, warmup: 3 }),
    clipNorm: 1,
    ...options,
  });
  const losses: number[] = [];
  for (let i = 0; i < steps; i++) {
    const [rows, seq] = [3, 5 + (i % 2)];
    const ids = Array.from({ length: rows * seq }, (_, at) => (at * 7 + 3) % words);
    const mask = ids.map((_, at) => (at % seq === seq - 1 && at < seq ? 0 : 1));
    const batch = {
      ids: e.hostTensor('int64', [rows, seq], ids),
      mask: e.hostTensor('int64', [rows, seq], mask),
      labels: e.hostTensor('int64', [rows], [0, 1, 2]),
    };
    losses.push((await step.run(batch)).loss);
  }
  return losses;
}
