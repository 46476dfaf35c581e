import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import * as e from '../src/index.js';

// A transformer layer under torch.autocast(float16): fixtures/mixed-precision.py.
interface Result {
  readonly loss: number;
  readonly gradients: Readonly<Record<string, readonly number[]>>;
}
const path = fileURLToPath(new URL('fixtures/mixed-precision.json', import.meta.url));
const reference = JSON.parse(readFileSync(path, 'utf8')) as Readonly<Record<'float16' | 'float64', Result>>;

const width = 8;
const shapes = {
  query: [width, width],
  key: [width, width],
  value: [width, width],
  scale: [width],
  bias: [width],
  up: [2 * width, width],
  up_bias: [2 * width],
  down: [4, 2 * width],
};
const wave = (shape: readonly number[], frequency: number, scale: number) =>
  e.hostTensor(
    'float32',
    shape,
    Array.from({ length: e.elementCount(shape) }, (_, i) => scale * Math.sin(1 + i * frequency)),
  );
const params = Object.fromEntries(
  Object.entries(shapes).map(([name, shape], i) => [name, wave(shape, 0.7 + 0.3 * i, 0.4)]),
);
const x = wave([3, 5, width], 1.7, 1);
const y = e.hostTensor('int64', [3], [0, 3, 1]);

const loss = (p: e.Named<e.Tensor>, x: e.Tensor, y: e.Tensor) => {
  const context = e.attention(e.linear(x, p.query!), e.linear(x, p.key!), e.linear(x, p.value!));
  const h = e.layerNorm(e.add(x, context), p.scale!, p.bias!);
  const logits = e.linear(e.gelu(e.linear(h, p.up!, p.up_bias)), p.down!);
  return e.crossEntropy(e.mean(logits, { axes: [1] }), y);
};

/** max |a − b| / max |b| */
const difference = (a: ArrayLike<number>, b: readonly number[]) =>
  Math.max(...b.map((value, i) => Math.abs(a[i]! - value))) / Math.max(...b.map(Math.abs));

test('loss and gradients in float16 are those of torch.autocast, within float16', async () => {
  const half = e.withPrecision(loss, e.float16Compute);
  const scale = 2 ** 15;
  await using program = await e.compile(
    ({ params, x, y }) => {
      const scaled = (p: e.Named<e.Tensor>) => e.mul(half(p, x, y), scale);
      return { loss: half(params, x, y), gradient: e.grad(scaled)(params) };
    },
    { params, x, y: { dtype: 'int64', shape: [3] } } as const,
  );
  const found = await program.run({ params, x, y } as never);
  expect(Math.abs(Number(found.loss.data[0]) / reference.float64.loss - 1)).toBeLessThan(1e-3);
  for (const name of Object.keys(shapes)) {
    const gradient = Array.from(
      (found.gradient as Record<string, e.HostTensor>)[name]!.data as Float32Array,
      (g) => g / scale,
    );
    const exact = reference.float64.gradients[name]!;
    const theirs = difference(reference.float16.gradients[name]!, exact);
    // PyTorch's own distance from float64 is 0.06 to 0.4 %; ours may be twice that.
    expect(difference(gradient, exact), name).toBeLessThan(Math.max(2 * theirs, 2e-3));
    expect(difference(gradient, reference.float16.gradients[name]!), name).toBeLessThan(1e-2);
  }
});
