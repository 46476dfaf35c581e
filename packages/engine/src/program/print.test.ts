import { expect, test } from 'vitest';
import * as e from '../index.js';

const f32 = (...shape: e.Dim[]) => ({ dtype: 'float32', shape }) as const;
/** Lines of code as two letters, so that editing this file changes nothing. */
const steady = (text: string) => text.replaceAll(/packages\/\S+test\.ts:\d+:\d+/g, 'model.ts:1:2');

test('a program prints as it runs: equal operators once, unneeded ones not at all', async () => {
  const table = e.constant(e.zeros('float32', [5, 3]), 'table');
  await using program = await e.compile(
    ({ x }) => {
      e.exp(x); // nothing needs it
      const y = e.matMul(x, table, { transposeB: true });
      return { y: e.mul(e.add(y, 0.5), e.add(y, 0.5)), row: e.constant(e.hostTensor('int64', [2], [7, 8])) };
    },
    { x: f32('batch', 3) },
    { name: 'squares' },
  );
  expect(steady(program.print())).toMatchInlineSnapshot(`
    "squares: 3 operators
    inputs
      in/x: float32[batch, 3]
    constants
      table: float32[5, 3], 60 B
    operators
      v0: float32[batch, 5] = MatMul(in/x, table) {transposeB} # model.ts:1:2
      v1: float32[batch, 5] = Add(v0, 0.5) # model.ts:1:2
      v2: float32[batch, 5] = Mul(v1, v1) # model.ts:1:2
    outputs
      out/y = v2
      out/row = [7, 8]"
  `);
});

test('a training step prints forward, gradient (∂) and optimiser', async () => {
  await using step = await e.trainStep({
    params: { w: e.zeros('float32', [2]) },
    batch: { x: f32('batch', 2) },
    loss: (p, { batch }) => e.sum(e.tanh(e.matMul(batch.x, e.reshape(p.w!, [2, 1])))),
    optimizer: e.sgd(),
    schedule: e.constantRate(0.1),
  });
  const lines = steady(step.print()).split('\n');
  expect(lines[0]).toMatch(/^training step: \d+ operators$/);
  const product = lines.findIndex((line) => /v\d+: float32\[batch, 1\] = MatMul\(.*# model.ts:1:2$/.test(line));
  const gradient = lines.findIndex((line) => /v\d+: float32\[2, 1\] = MatMul\(.* \{.*\} #∂ model.ts:1:2$/.test(line));
  const update = lines.findIndex((line) => /v\d+: float32\[2\] = Sub\(param\/w, v\d+\) # optimizer$/.test(line));
  expect(product).toBeGreaterThan(0);
  expect(gradient).toBeGreaterThan(product);
  expect(update).toBeGreaterThan(gradient);
  expect(lines.slice(-5).join()).toMatch(/outputs, {2}new\/step = v\d+, {2}new\/param\/w = v\d+/);
});
