import { fileURLToPath } from 'node:url';
import {
  adamW,
  compile,
  constantRate,
  crossEntropy,
  type HostTensor,
  hostTensor,
  linear,
  type Optimizer,
  sgd,
  type Tensor,
  type TensorSpec,
  trainStep,
  valueAndGrad,
} from '@fewtune/engine';
import { beforeAll, describe, expect, test } from 'vitest';
import { encode, pool, readSafetensors } from './index.js';

// Loss, gradients and optimiser steps of a 2-layer BERT, computed by PyTorch in float64: test/fixtures/bert-reference.py.
const fixture = (name: string) => fileURLToPath(new URL(`../test/fixtures/${name}.safetensors`, import.meta.url));

type Weights = Record<string, HostTensor>;
type TracedWeights = Record<string, Tensor>;

/** Entries whose name starts with `prefix`, without it. */
function under(tensors: Readonly<Weights>, prefix: string): Weights {
  const own = Object.entries(tensors).filter(([name]) => name.startsWith(prefix));
  return Object.fromEntries(own.map(([name, tensor]) => [name.slice(prefix.length), tensor]));
}

const floats = (tensor: HostTensor) => tensor.data as Float32Array;
const largest = (values: Iterable<number>) => Math.max(...Array.from(values, Math.abs));
const specOf = ({ dtype, shape }: HostTensor): TensorSpec => ({ dtype, shape });
const mapValues = <T, U>(record: Readonly<Record<string, T>>, change: (value: T) => U): Record<string, U> =>
  Object.fromEntries(Object.entries(record).map(([name, value]) => [name, change(value)]));

/** max |actual - expected| / max |expected|, with a word on where the worst element is. */
function relativeError(actual: HostTensor, expected: HostTensor): { error: number; worst: string } {
  expect(actual.shape).toEqual(expected.shape);
  const differences = floats(expected).map((value, index) => Math.abs(value - floats(actual)[index]!));
  const at = differences.indexOf(largest(differences));
  const worst = `element ${at}: ${floats(actual)[at]} against ${floats(expected)[at]}`;
  return { error: differences[at]! / largest(floats(expected)), worst };
}

interface Reference {
  readonly config: Record<string, unknown>;
  readonly weights: Weights;
  readonly gradients: Weights;
  readonly loss: number;
  readonly logits: HostTensor;
  readonly batch: { readonly inputIds: HostTensor; readonly attentionMask: HostTensor; readonly labels: HostTensor };
}

async function readReference(): Promise<Reference> {
  const { tensors, metadata } = await readSafetensors(fixture('bert-reference'));
  const { input_ids, attention_mask, labels, loss, logits, hidden: _, ...rest } = tensors as Weights;
  return {
    config: JSON.parse(metadata.config!),
    weights: Object.fromEntries(Object.entries(rest).filter(([name]) => !name.startsWith('grad.'))),
    gradients: under(rest, 'grad.'),
    loss: floats(loss!)[0]!,
    logits: logits!,
    batch: { inputIds: input_ids!, attentionMask: attention_mask!, labels: labels! },
  };
}

let reference: Reference;
beforeAll(async () => {
  reference = await readReference();
});

type TracedBatch = Readonly<Record<'inputIds' | 'attentionMask' | 'labels', Tensor>>;

const batchSpecs = (batch: string | number, seq: string | number) =>
  ({
    inputIds: { dtype: 'int64', shape: [batch, seq] },
    attentionMask: { dtype: 'int64', shape: [batch, seq] },
    labels: { dtype: 'int64', shape: [batch] },
  }) as const;

function logitsOf(weights: TracedWeights, { inputIds, attentionMask }: TracedBatch): Tensor {
  const hidden = encode(reference.config, weights, { inputIds, attentionMask });
  const pooled = pool(hidden, attentionMask, 'mean');
  return linear(pooled, weights['classifier.weight']!, weights['classifier.bias']!);
}

const lossOf = (weights: TracedWeights, batch: TracedBatch) => crossEntropy(logitsOf(weights, batch), batch.labels);

describe('a 2-layer BERT against PyTorch', () => {
  test.each([
    ['fixed', 3, 7],
    ['symbolic', 'batch', 'seq'],
  ])('loss, logits and every gradient, %s batch and sequence', async (_, rows, seq) => {
    const { weights, batch, gradients } = reference;
    const program = await compile(
      ({ weights, batch }) => {
        const { value, gradient } = valueAndGrad(lossOf)(weights, batch);
        return { loss: value, logits: logitsOf(weights, batch), gradient };
      },
      { weights: mapValues(weights, specOf), batch: batchSpecs(rows, seq) },
    );
    const { loss, logits, gradient } = await program.run({ weights, batch });
    await program.dispose();

    expect(Math.abs(floats(loss)[0]! / reference.loss - 1)).toBeLessThan(1e-5);
    expect(relativeError(logits, reference.logits).error).toBeLessThan(1e-5);
    expect(Object.keys(gradient).sort()).toEqual(Object.keys(gradients).sort());
    const scale = largest(Object.values(gradients).map((expected) => largest(floats(expected))));
    for (const [name, expected] of Object.entries(gradients)) {
      if (name.endsWith('attention.self.key.bias')) {
        // Softmax ignores what is added to a whole row of scores, so this gradient is zero but for rounding.
        expect(largest(floats(gradient[name]!)), name).toBeLessThan(1e-6 * scale);
        continue;
      }
      const { error, worst } = relativeError(gradient[name]!, expected);
      expect(error, `${name}, ${worst}`).toBeLessThan(1e-4);
    }
  });

  // Options as in the script. Tolerances: float32 against float64 over 5 steps (measured: 1e-7 and 1e-6). AdamW's is
  // wider: it divides by the root of squared gradients, so that rounding of a small gradient moves a whole step.
  const optimizers: [name: string, optimizer: Optimizer, tolerance: number][] = [
    ['adamw', adamW({ weightDecay: 0.1 }), 1e-4],
    ['sgd', sgd({ momentum: 0.9, weightDecay: 0.01 }), 1e-5],
  ];
  test.each(
    optimizers.flatMap(([name, ...rest]) => [
      [name, 'whole batches', false, ...rest] as const,
      [name, 'micro-batches of 1 and 2 rows', true, ...rest] as const,
    ]),
  )('five steps of %s on %s, clipped to norm 1', async (name, _, accumulate, optimizer, tolerance) => {
    const { weights, batch } = reference;
    const { tensors } = await readSafetensors(fixture('bert-reference-optimizers'));
    const step = await trainStep({
      params: weights,
      batch: batchSpecs('batch', 7),
      loss: (params, { batch }) => lossOf(params, batch),
      optimizer,
      schedule: constantRate(1e-2),
      clipNorm: 1,
      accumulate,
    });
    const rows = (from: number, to: number) =>
      mapValues(batch, ({ dtype, shape, data }) => {
        const width = data.length / shape[0]!;
        return hostTensor(dtype, [to - from, ...shape.slice(1)], data.slice(from * width, to * width));
      }) as typeof batch;
    const [losses, norms] = [floats(tensors[`${name}.losses`]!), floats(tensors[`${name}.norms`]!)];
    for (const [at, expected] of losses.entries()) {
      const { loss, gradientNorm } = await step.run(accumulate ? [rows(0, 1), rows(1, 3)] : batch);
      expect(Math.abs(loss / expected - 1), `loss of step ${at}`).toBeLessThan(tolerance);
      expect(Math.abs(gradientNorm! / norms[at]! - 1), `gradient norm of step ${at}`).toBeLessThan(tolerance);
    }
    const trained = await step.params();
    await step.dispose();
    for (const [weight, expected] of Object.entries(under(tensors, `${name}.after.`))) {
      const { error, worst } = relativeError(trained[weight]!, expected);
      expect(error, `${weight}, ${worst}`).toBeLessThan(tolerance);
    }
  });
});
