import { describe, expect, test } from 'vitest';
import { closeSession, openSession, runSession, toDevice, toHost } from '#backend';
import { bytesOf } from '../host-tensor.js';
import * as e from '../index.js';
import { writeOnnx } from '../onnx/model.js';
import { traceToOnnx } from './export.js';
import { idleOptimizers } from './optimizers.js';

const f32 = (...shape: e.Dim[]) => ({ dtype: 'float32', shape }) as const;

/** A training step of `layers` small transformer layers, about 300 nodes each. */
function deepStep(layers: number) {
  const width = 8;
  const names = ['query', 'key', 'value', 'output', 'up', 'down'];
  const weights = Array.from({ length: layers }, (_, layer) => names.map((name) => `${layer}.${name}`)).flat();
  const seed = (n: number) => Array.from({ length: width * width }, (_, i) => Math.sin(i * 0.7 + n) / 3);
  return e.trainStep({
    params: Object.fromEntries(
      weights.flatMap((name, n) => [
        [name, e.hostTensor('float32', [width, width], seed(n))],
        [`${name}.bias`, e.zeros('float32', [width])],
      ]),
    ),
    batch: { x: f32('batch', 'tokens', width), y: { dtype: 'int64', shape: ['batch'] } } as const,
    loss: (p, { batch }) => {
      let h: e.Tensor = batch.x;
      const ones = e.constant(e.hostTensor('float32', [width], Array(width).fill(1)));
      const zero = e.constant(e.zeros('float32', [width]));
      for (let layer = 0; layer < layers; layer++) {
        const dense = (x: e.Tensor, name: string) => e.linear(x, p[`${layer}.${name}`]!, p[`${layer}.${name}.bias`]!);
        const context = e.attention(dense(h, 'query'), dense(h, 'key'), dense(h, 'value'));
        h = e.layerNorm(e.add(h, dense(context, 'output')), ones, zero);
        h = e.layerNorm(e.add(h, dense(e.gelu(dense(h, 'up')), 'down')), ones, zero);
      }
      return e.crossEntropy(e.mean(h, { axes: [1] }), batch.y);
    },
    optimizer: e.adamW(),
    schedule: e.constantRate(1e-2),
  });
}

describe('passes of the graph optimiser that have nothing to do are left out', () => {
  const matrices = traceToOnnx(({ a, b }) => ({ y: e.gelu(e.matMul(a!, b!)) }), { a: f32(2, 3), b: f32(3, 2) });
  const image = traceToOnnx(({ x, w }) => ({ y: e.relu(e.conv(x!, w!)) }), { x: f32(1, 3, 5, 5), w: f32(4, 3, 3, 3) });

  test('by the operators of the graph', () => {
    expect(idleOptimizers(matrices)).toEqual(expect.arrayContaining(['ConvActivationFusion', 'NchwcTransformer']));
    expect(idleOptimizers(matrices)).not.toContain('MatmulTransposeFusion');
    expect(idleOptimizers(image)).not.toContain('ConvActivationFusion');
    expect(idleOptimizers(image)).toContain('MatmulTransposeFusion');
  });

  test('blocks of channels only where a weight is a constant', () => {
    const weight = e.constant(e.hostTensor('float32', [16, 16, 3, 3], Array(2304).fill(1)));
    const frozen = traceToOnnx(({ x }) => ({ y: e.conv(x!, weight) }), { x: f32(1, 16, 5, 5) });
    expect(idleOptimizers(frozen)).not.toContain('NchwcTransformer');
    expect(idleOptimizers(image)).toContain('NchwcTransformer');
  });

  test('none where a graph holds others', () => {
    const inner = { name: 'then_branch', type: 5 };
    const node = [{ opType: 'If', input: ['c'], output: ['y'], attribute: [inner] }];
    expect(idleOptimizers({ ...matrices, graph: { ...matrices.graph, node } })).toEqual([]);
  });

  test('and the result is the same to the bit', async () => {
    const x = toDevice(
      e.hostTensor(
        'float32',
        [1, 3, 5, 5],
        Array.from({ length: 75 }, (_, i) => Math.sin(i)),
      ),
    );
    const w = toDevice(
      e.hostTensor(
        'float32',
        [4, 3, 3, 3],
        Array.from({ length: 108 }, (_, i) => Math.cos(i)),
      ),
    );
    const results = [];
    for (const skippedOptimizers of [[], idleOptimizers(image)]) {
      const session = await openSession(writeOnnx(image), { skippedOptimizers });
      const { y } = await runSession(session, { x, w }, { y: null });
      results.push(Buffer.from(bytesOf(toHost(y!))));
      await closeSession(session);
    }
    expect(results[0]!.equals(results[1]!)).toBe(true);
  });
});

test('a step of some thousand operators opens and learns', async () => {
  await using step = await deepStep(17);
  const batch = {
    x: e.hostTensor(
      'float32',
      [2, 3, 8],
      Array.from({ length: 48 }, (_, i) => Math.sin(i * 1.3)),
    ),
    y: e.hostTensor('int64', [2], [1, 4]),
  };
  const first = await step.run(batch);
  for (let i = 0; i < 5; i++) await step.run(batch);
  expect((await step.run(batch)).loss).toBeLessThan(first.loss);
});
