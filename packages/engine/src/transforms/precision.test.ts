import { describe, expect, test } from 'vitest';
import * as e from '../index.js';

const f32 = (shape: readonly e.Dim[]) => ({ dtype: 'float32', shape }) as const;
const wave = (shape: readonly number[], frequency: number, scale = 1) =>
  e.hostTensor(
    'float32',
    shape,
    Array.from({ length: e.elementCount(shape) }, (_, i) => scale * Math.sin(1 + i * frequency)),
  );

/** Operators behind a value, each with the dtype of its result, from the first to the last. */
function operators(root: e.Tensor): string[] {
  const seen = new Set([root.node]);
  for (const node of seen) for (const input of node.inputs) seen.add(input.node);
  const sorted = [...seen].sort((a, b) => a.id - b.id);
  return sorted.flatMap(({ op, inputs, outputs }) =>
    inputs.length > 0 && op.name !== 'Identity' ? [`${op.name} ${outputs[0]!.dtype}`] : [],
  );
}

const input = (dtype: e.TensorSpec['dtype'], shape: readonly number[]) =>
  e.cast(e.constant(e.zeros('int32', shape)), dtype);

describe('withPrecision', () => {
  test('products run in float16, sensitive operators in float32, the others in what they are given', () => {
    const [x, w, b] = [input('float32', [4, 8]), input('float32', [6, 8]), input('float32', [6])];
    const fn = (x: e.Tensor) => e.softmax(e.mul(e.relu(e.linear(x, w, b)), 2));
    const result = e.withPrecision(fn, e.float16Compute)(x);
    expect(operators(result).filter((name) => !/^Cast float32/.test(name))).toEqual([
      'Cast float16',
      'Cast float16',
      'Cast float16',
      'Gemm float16',
      'Relu float16',
      'Mul float16',
      'Softmax float32',
    ]);
    expect(result.dtype).toBe('float32');
    expect(e.withPrecision(fn, { ...e.float16Compute, output: 'float16' })(x).dtype).toBe('float16');
  });

  test('constants that float16 cannot hold keep their operation in float32, and masks saturate', async () => {
    const fn = ({ x }: { x: e.Tensor }) => {
      const product = e.matMul(x, x);
      return {
        tiny: e.add(product, 1e-12), // would vanish
        large: e.mul(product, 1e6), // would be infinite
        masked: e.where(e.greater(product, 0), product, -1e9), // -65504 masks as well
      };
    };
    await using program = await e.compile(fn, { x: f32([2, 2]) }, { precision: e.float16Compute });
    const { tiny, large, masked } = await program.run({ x: e.hostTensor('float32', [2, 2], [0, 0, 0, -1]) });
    expect(tiny.data[0]).toBe(Math.fround(1e-12));
    expect(large.data[3]).toBe(1e6);
    expect(masked.data[0]).toBe(-65504);
  });

  test('what is inside inFloat32, and the statistics of normalisations, does not overflow', async () => {
    const x = e.hostTensor('float32', [1, 2], [300, 400]);
    const squares = (x: e.Tensor) => e.sum(e.reshape(e.transpose(e.mul(x, x)), [2]));
    const half = (x: e.Tensor) => e.matMul(x, e.constant(e.hostTensor('float32', [2, 2], [1, 0, 0, 1])));
    // ONNX Runtime's CPU backend computes most float16 operators in float32 and skips roundings in between; what moves
    // elements is really held in float16.
    const fn = ({ x }: { x: e.Tensor }) => ({
      plain: squares(half(x)),
      guarded: e.inFloat32(() => squares(half(x))),
      unit: e.l2Normalize(half(x)),
      rms: e.rmsNorm(half(x), e.constant(e.hostTensor('float32', [2], [1, 1]))),
      layer: e.layerNorm(
        half(x),
        e.constant(e.hostTensor('float32', [2], [1, 1])),
        e.constant(e.zeros('float32', [2])),
      ),
    });
    await using program = await e.compile(fn, { x: f32([1, 2]) }, { precision: e.float16Compute });
    const { plain, guarded, unit, rms, layer } = await program.run({ x });
    expect(plain.data[0]).toBe(Infinity);
    expect(guarded.data[0]).toBe(250000);
    expect(unit.data[0]).toBeCloseTo(0.6, 6);
    expect(rms.data[1]).toBeCloseTo(400 / Math.sqrt(125000), 5);
    expect(layer.data[0]).toBeCloseTo(-1, 5);
  });

  test('gradients of float32 weights are float32, and near the exact ones', async () => {
    const params = { w1: wave([16, 8], 1.3, 0.3), b1: wave([16], 0.7, 0.3), w2: wave([3, 16], 2.1, 0.3) };
    const loss = (p: Record<string, e.Tensor>, x: e.Tensor, y: e.Tensor) =>
      e.crossEntropy(e.linear(e.gelu(e.linear(x, p.w1!, p.b1)), p.w2!), y);
    const specs = { params, x: f32([5, 8]), y: { dtype: 'int64', shape: [5] } } as const;
    const given = { params, x: wave([5, 8], 0.9), y: e.hostTensor('int64', [5], [0, 1, 2, 0, 1]) };
    const run = async (fn: typeof loss) => {
      await using program = await e.compile(({ params, x, y }) => e.valueAndGrad(fn)(params, x, y), specs);
      return program.run(given);
    };
    const exact = await run(loss);
    const half = await run(e.withPrecision(loss, e.float16Compute));
    expect(half.value.data[0]).not.toBe(exact.value.data[0]);
    expect(Number(half.value.data[0])).toBeCloseTo(Number(exact.value.data[0]), 3);
    for (const name of ['w1', 'b1', 'w2'] as const) {
      const [a, b] = [half.gradient[name]!, exact.gradient[name]!];
      expect(a.dtype).toBe('float32');
      const largest = Math.max(...Array.from(b.data as Float32Array, Math.abs));
      for (const [i, value] of (b.data as Float32Array).entries()) {
        expect(Math.abs(Number(a.data[i]) - value) / largest).toBeLessThan(3e-3); // 2^-11 a rounding, few of them
      }
    }
  });

  test("rules of one's own, and what is computed twice, follow the policy", async () => {
    const [q, k, v] = [wave([2, 4, 8], 1.3), wave([2, 4, 8], 0.7), wave([2, 4, 8], 2.1)];
    const specs = { q: f32([2, 4, 8]), k: f32([2, 4, 8]), v: f32([2, 4, 8]), w: f32([8, 8]) };
    const layer = ({ q, k, v, w }: Record<keyof typeof specs, e.Tensor>) =>
      e.linear(e.attention(e.linear(q, w), k, v, { causal: true }), w);
    const loss = (p: Record<keyof typeof specs, e.Tensor>) => e.sum(e.tanh(e.checkpoint(layer)(p)));
    const given = { q, k, v, w: wave([8, 8], 0.5, 0.3) };
    await using exact = await e.compile((p) => e.grad(loss)(p), specs);
    await using half = await e.compile((p) => e.grad(e.withPrecision(loss, e.float16Compute))(p), specs);
    const [wanted, got] = [await exact.run(given), await half.run(given)];
    for (const name of ['q', 'k', 'v', 'w'] as const) {
      const [a, b] = [got[name].data as Float32Array, wanted[name].data as Float32Array];
      const largest = Math.max(...Array.from(b, Math.abs));
      for (const [i, value] of b.entries()) expect(Math.abs(a[i]! - value) / largest).toBeLessThan(3e-3);
      expect(Buffer.compare(Buffer.from(a.buffer), Buffer.from(b.buffer))).not.toBe(0);
    }
    const traced = e.grad(e.withPrecision(loss, e.float16Compute))({
      q: input('float32', [2, 4, 8]),
      k: input('float32', [2, 4, 8]),
      v: input('float32', [2, 4, 8]),
      w: input('float32', [8, 8]),
    });
    const products = operators(traced.q).filter((name) => name.startsWith('MatMul'));
    expect(products.length).toBeGreaterThan(4);
    expect(products.filter((name) => name.endsWith('float32'))).toEqual([]);
  });

  test('float16 arguments appear as float32 and are cast where they are used', async () => {
    const w = wave([6, 8], 1.1);
    const fn = ({ x, w }: { x: e.Tensor; w: e.Tensor }) => {
      expect(w.dtype).toBe('float32');
      return e.valueAndGrad((x: e.Tensor) => e.sum(e.tanh(e.linear(x, w))))(x);
    };
    const x = wave([3, 8], 0.4);
    await using exact = await e.compile(fn, { x: f32([3, 8]), w: f32([6, 8]) });
    await using stored = await e.compile(
      fn,
      { x: f32([3, 8]), w: { dtype: 'float16', shape: [6, 8] } },
      { precision: e.float16Storage },
    );
    const half = e.convertFloat(w, 'float16');
    const rounded = e.convertFloat(half, 'float32');
    const [wanted, got] = [await exact.run({ x, w: rounded }), await stored.run({ x, w: half })];
    expect(got.value.data[0]).toBe(wanted.value.data[0]);
    expect(got.gradient.data).toEqual(wanted.gradient.data);
  });

  test('refuses dtypes it does not know', async () => {
    const precision = { ...e.float16Compute, compute: 'bfloat16' as 'float16' };
    await expect(e.compile(({ x }) => x, { x: f32([1]) }, { precision })).rejects.toThrow(
      'compute is float16 or float32',
    );
  });
});
