import { compile } from '@fewtune/engine';
import { expect, test } from 'vitest';
import { stepProducts } from './transformer-products.js';

const miniLm = { batch: 16, tokens: 64, hidden: 384, intermediate: 1536, heads: 12, layers: 6, rank: 8 };
const tokens = 16 * 64;
const trunk = 2 * tokens * (4 * 384 ** 2 + 2 * 384 * 1536); // one direction of one layer's dense products
const attention = 2 * tokens * 64 * 384; // one of the six products of a layer's attention

test('full: forward, inputs and weights of every dense layer, six products of attention', () => {
  const { operations, count } = stepProducts('full', miniLm);
  expect(operations).toBe(6 * (3 * trunk + 6 * attention));
  expect(count).toBe(6 * (3 * 6 + 6));
});

test('lora: no trunk weights, nothing under layer 0, four products with inputs and weights of each adapter', () => {
  const { operations } = stepProducts('lora', miniLm);
  const square = 2 * tokens * 384 ** 2;
  const thin = 2 * tokens * 384 * 8;
  const saved = 3 * square + attention + 2 * thin; // layer 0: inputs of query, key, value; dK; inputs of both A
  expect(operations).toBe(6 * (2 * trunk + 6 * attention + 12 * thin) - saved);
});

test.each(['lora', 'full'] as const)('%s: the program computes every product on its own inputs', async (kind) => {
  const small = { batch: 2, tokens: 3, hidden: 8, intermediate: 12, heads: 2, layers: 2, rank: 2 };
  const products = stepProducts(kind, small);
  const program = await compile((inputs) => products.program(inputs), products.specs);
  const values = products.values();
  const { corners } = await program.run(values);
  await program.dispose();
  expect(corners.shape).toEqual([products.count]);
  expect(new Set(corners.data as Float32Array).size).toBe(products.count); // none stands there twice
  // The first product is x Wᵀ of layer 0's query: its first element is row · row.
  const [x, weight] = [values['layer0.x']!.data, values['layer0.query']!.data] as [Float32Array, Float32Array];
  const expected = weight.slice(0, 8).reduce((total, value, index) => total + value * x[index]!, 0);
  expect(corners.data[0]).toBeCloseTo(expected, 6);
});
