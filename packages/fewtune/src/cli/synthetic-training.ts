import {
  adamW,
  compile,
  constantRate,
  crossEntropy,
  type HostTensor,
  hostTensor,
  linear,
  relu,
  type Tensor,
  trainStep,
} from '@fewtune/engine';
import { createRandom } from '../data/random.js';
import { throwIfAborted } from '../errors.js';

const width = 64;
const inputs = 32;
const classes = 4;
const batchRows = 128;
const seconds = 8;

/**
 * Trains a small network on Gaussian clouds for some seconds, as the methods train theirs: loss, gradients and AdamW in
 * one ONNX graph. Cloud centres lie 2.5 deviations from the origin in random directions, so a guess is right in a
 * quarter of the cases and a working installation in nearly all.
 */
export async function syntheticTraining(
  signal: AbortSignal,
): Promise<{ steps: number; msPerStep: number; accuracy: number }> {
  const random = createRandom(7);
  const normal = (count: number, scale: number) =>
    Float32Array.from({ length: count }, () => scale * random.gaussian());
  const centres = normal(classes * inputs, (2.5 / Math.sqrt(inputs)) * 2);
  const batch = (): { x: HostTensor; y: HostTensor } => {
    const labels = Array.from({ length: batchRows }, () => random.int(classes));
    const x = Float32Array.from({ length: batchRows * inputs }, (_, i) => {
      const label = labels[Math.floor(i / inputs)]!;
      return centres[label * inputs + (i % inputs)]! + random.gaussian();
    });
    return { x: hostTensor('float32', [batchRows, inputs], x), y: hostTensor('int64', [batchRows], labels) };
  };
  const step = await trainStep({
    params: {
      'hidden.weight': hostTensor('float32', [width, inputs], normal(width * inputs, Math.sqrt(2 / inputs))),
      'hidden.bias': hostTensor('float32', [width], new Float32Array(width)),
      'head.weight': hostTensor('float32', [classes, width], normal(classes * width, Math.sqrt(1 / width))),
      'head.bias': hostTensor('float32', [classes], new Float32Array(classes)),
    },
    batch: { x: { dtype: 'float32', shape: ['batch', inputs] }, y: { dtype: 'int64', shape: ['batch'] } },
    loss: (weights, { batch }) => crossEntropy(network(weights, batch.x), batch.y),
    optimizer: adamW(),
    schedule: constantRate(1e-3),
  });
  const started = performance.now();
  let steps = 0;
  while (performance.now() - started < 1000 * seconds) {
    throwIfAborted(signal);
    await step.run(batch());
    steps++;
  }
  const msPerStep = (performance.now() - started) / steps;
  const weights = await step.params();
  await step.dispose();
  const accuracy = await accuracyOf(weights, batch());
  return { steps, msPerStep, accuracy };
}

/** One hidden layer. x [batch, inputs] → logits [batch, classes] */
function network(weights: Readonly<Record<string, Tensor>>, x: Tensor): Tensor {
  const hidden = relu(linear(x, weights['hidden.weight']!, weights['hidden.bias']!)); // [batch, width]
  return linear(hidden, weights['head.weight']!, weights['head.bias']!);
}

async function accuracyOf(
  weights: Record<string, HostTensor>,
  { x, y }: { x: HostTensor; y: HostTensor },
): Promise<number> {
  const program = await compile(({ weights, x }) => network(weights, x), {
    weights: weights as Record<string, HostTensor>,
    x: { dtype: 'float32', shape: ['batch', inputs] },
  });
  const { data } = (await program.run({ weights, x })) as HostTensor;
  await program.dispose();
  const logits = data as Float32Array;
  const right = [...(y.data as BigInt64Array)].filter((label, row) => {
    const own = logits.subarray(row * classes, (row + 1) * classes);
    return own.indexOf(Math.max(...own)) === Number(label);
  });
  return right.length / batchRows;
}
