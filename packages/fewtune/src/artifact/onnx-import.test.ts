import {
  adamW,
  compile,
  constant,
  constantRate,
  crossEntropy,
  exportOnnx,
  gather,
  gelu,
  hostTensor,
  insertLora,
  linear,
  mean,
  mergeLora,
  openOnnx,
  readOnnxModel,
  type Tensor,
  toOnnx,
  trainStep,
} from '@fewtune/engine';
import { expect, test } from 'vitest';
import { quantizeOnnx } from './quantize.js';

const wave = (shape: readonly number[], phase: number) =>
  hostTensor(
    'float32',
    shape,
    Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => Math.sin(i * 1.7 + phase) / 4),
  );

/** A table, a dense layer and a head, large enough to be quantised. */
const bytes = exportOnnx(
  ({ ids }) => {
    const rows = gather(constant(wave([80, 64], 0), 'table'), ids!);
    const hidden = gelu(linear(rows, constant(wave([96, 64], 1), 'up.weight'), constant(wave([96], 2), 'up.bias')));
    return { logits: linear(mean(hidden, { axes: [1] }), constant(wave([3, 96], 3), 'head.weight')) };
  },
  { ids: { dtype: 'int64', shape: ['batch', 'seq'] } },
);
const ids = hostTensor('int64', [2, 4], [1, 5, 9, 13, 2, 4, 8, 16]);

test('a quantised model is a function too: LoRA trains beside its int8 weights, and is written beside them', async () => {
  const model = await readOnnxModel(quantizeOnnx(bytes));
  expect(model.weights['up.weight_int8']).toMatchObject({ dtype: 'int8', role: 'quantized' });
  const session = await openOnnx(quantizeOnnx(bytes));
  const { logits: expected } = await session.run({ ids });
  await session.dispose();
  await using program = await compile(({ ids }) => model.apply({ inputs: { ids } }), {
    ids: { dtype: 'int64', shape: ['batch', 'seq'] } as const,
  });
  const { logits } = (await program.run({ ids })) as { logits: typeof ids };
  for (const [i, value] of [...(expected!.data as Float32Array)].entries()) {
    expect(logits.data[i]).toBeCloseTo(value, 5);
  }

  const tuned = insertLora(model, { targets: 'up.*', rank: 2 });
  const { params, frozen } = tuned.split();
  const step = await trainStep({
    params,
    frozen,
    batch: { ids: { dtype: 'int64', shape: ['batch', 'seq'] }, target: { dtype: 'int64', shape: ['batch'] } },
    optimizer: adamW(),
    schedule: constantRate(0.05),
    loss: (weights, { frozen, batch: { ids, target } }) =>
      crossEntropy(tuned.apply({ weights: { ...frozen, ...weights }, inputs: { ids } }).logits as Tensor, target),
  });
  const batch = { ids, target: hostTensor('int64', [2], [0, 2]) };
  const losses: number[] = [];
  for (let i = 0; i < 5; i++) losses.push((await step.run(batch)).loss);
  expect(losses[4]).toBeLessThan(losses[0]!);
  const trained = await step.params();
  await step.dispose();
  expect(() => mergeLora(tuned, trained)).toThrow('quantised');
  const written = await openOnnx(toOnnx(tuned, trained));
  const { logits: after } = await written.run({ ids });
  await written.dispose();
  expect(after!.data[0]).not.toBeCloseTo(expected!.data[0] as number, 3);
});
