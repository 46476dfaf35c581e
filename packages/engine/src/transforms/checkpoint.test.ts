import { readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { describe, expect, test } from 'vitest';
import * as e from '../index.js';

const f32 = (shape: readonly e.Dim[]) => ({ dtype: 'float32', shape }) as const;
const wave = (shape: readonly number[], step: number) =>
  e.hostTensor(
    'float32',
    shape,
    Array.from({ length: e.elementCount(shape) }, (_, i) => Math.sin(1 + i * step)),
  );
const x = wave([3, 4], 0.7);
const weights = { a: wave([4, 4], 1.3), b: wave([4, 4], 0.9), c: wave([4], 2.1) };
type Weights = Record<keyof typeof weights, e.Tensor>;
const specs = { x: f32(['batch', 4]), w: { a: f32([4, 4]), b: f32([4, 4]), c: f32([4]) } };

const layer = (h: e.Tensor, w: e.Tensor) => e.tanh(e.matMul(h, w));
type Wrap = <A extends unknown[], R extends e.Tree<e.Tensor>>(fn: (...args: A) => R) => (...args: A) => R;
const plainly: Wrap = (fn) => fn;

/** Three layers, of which the last uses a weight from outside, and gives two results. */
function loss(wrap: Wrap, w: Weights, x: e.Tensor): e.Tensor {
  const h = wrap(layer)(wrap(layer)(x, w.a), w.b);
  const last = (h: { h: e.Tensor }) => ({ y: e.mul(e.sin(h.h), w.c), z: e.exp(e.mul(h.h, w.c)) });
  const { y, z } = wrap(last)({ h });
  return e.sum(e.mul(y, z));
}

async function same(compute: (wrap: Wrap, w: Weights, x: e.Tensor) => Record<string, e.Tensor>) {
  await using program = await e.compile(
    ({ x, w }) => ({ plain: compute(plainly, w, x), again: compute(e.checkpoint, w, x) }),
    specs,
  );
  const { plain, again } = await program.run({ x, w: weights });
  for (const [key, tensor] of Object.entries(plain)) {
    expect(again[key]!.shape).toEqual(tensor.shape);
    const largest = Math.max(...[...tensor.data].map((value) => Math.abs(Number(value))));
    expect(largest).toBeGreaterThan(0);
    for (const [i, value] of tensor.data.entries()) {
      expect(Math.abs(Number(again[key]!.data[i]) - Number(value)) / largest, `${key}, element ${i}`).toBeLessThan(
        1e-6,
      );
    }
  }
}
const named = (w: Weights) => ({ ...w }) as Record<string, e.Tensor>;

describe('checkpoint', () => {
  test('changes neither value nor gradients', async () => {
    await same((wrap, w, x) => ({ value: loss(wrap, w, x), ...named(e.grad((w: Weights) => loss(wrap, w, x))(w)) }));
    await same((wrap, w, x) => ({ x: e.grad((x: e.Tensor) => loss(wrap, w, x))(x) }));
  });

  test('has gradients of gradients, and forward derivatives', async () => {
    const twice = (wrap: Wrap, w: Weights, x: e.Tensor) =>
      e.grad((w: Weights) => {
        const { a, b, c } = e.grad((w: Weights) => loss(wrap, w, x))(w);
        return e.add(e.sum(e.sin(a)), e.add(e.sum(e.mul(b, b)), e.sum(c)));
      })(w);
    await same((wrap, w, x) => named(twice(wrap, w, x)));
    await same((wrap, w, x) => ({ jvp: e.jvp((x: e.Tensor) => loss(wrap, w, x), x, e.sin(x)).tangent }));
    // The checkpoint of a function that takes a gradient: an inner step of MAML.
    const adapted = (w: Weights, x: e.Tensor) => {
      const inner = e.grad((a: e.Tensor) => loss(plainly, { ...w, a }, x))(w.a);
      return e.sub(w.a, e.mul(inner, 0.1));
    };
    await same((wrap, w, x) => named(e.grad((w: Weights) => loss(plainly, { ...w, a: wrap(adapted)(w, x) }, x))(w)));
  });

  test('composes with vmap in both orders', async () => {
    const row = (wrap: Wrap, w: Weights, x: e.Tensor) => loss(wrap, w, e.reshape(x, [1, 4]));
    await same((wrap, w, x) => ({
      a: e.vmap((x: e.Tensor) => e.grad((w: Weights) => row(wrap, w, x))(w).a)(x),
      x: e.vmap(e.grad((x: e.Tensor) => row(wrap, w, x)))(x),
    }));
    await same((wrap, w, x) => named(e.grad((w: Weights) => e.sum(e.vmap((x: e.Tensor) => row(wrap, w, x))(x)))(w)));
    await same((wrap, w, x) =>
      named(e.grad((w: Weights) => e.sum(wrap((x: e.Tensor) => e.vmap((x: e.Tensor) => row(plainly, w, x))(x))(x)))(w)),
    );
  });

  /** Names of operators left after ONNX Runtime's optimisation, each with whether it waits for a cotangent. */
  async function optimised(wrap: Wrap) {
    const model = e.traceToOnnx(
      ({ x, a, b, c }) => {
        const gradient = e.grad((w: Weights) => loss(wrap, w, x!))({ a: a!, b: b!, c: c! });
        return { da: gradient.a, db: gradient.b, dc: gradient.c };
      },
      { x: specs.x, ...specs.w },
    );
    const file = join(tmpdir(), `fewtune-checkpoint-${process.pid}.onnx`);
    const session = await ort.InferenceSession.create(e.writeOnnx(model), {
      graphOptimizationLevel: 'all',
      optimizedModelFilePath: file,
      logSeverityLevel: 3,
    });
    await session.release();
    const nodes = e.readOnnx(readFileSync(file)).graph.node ?? [];
    rmSync(file);
    const waiting = new Set<string>();
    for (const node of nodes) {
      if (node.opType === 'Less' || node.input?.some((name) => waiting.has(name))) {
        for (const name of node.output ?? []) waiting.add(name);
      }
    }
    return nodes.map(({ opType, output }) => ({ opType, waits: waiting.has(output![0]!) }));
  }

  test('what is computed a second time survives the optimiser, and waits for the backward pass', async () => {
    const count = (nodes: Awaited<ReturnType<typeof optimised>>, type: string, waits: boolean) =>
      nodes.filter((node) => node.opType === type && node.waits === waits).length;
    const [plain, again] = [await optimised(plainly), await optimised(e.checkpoint)];
    expect([count(plain, 'Tanh', false), count(plain, 'Tanh', true)]).toEqual([2, 0]);
    expect([count(again, 'Tanh', false), count(again, 'Tanh', true)]).toEqual([2, 2]);
    expect([count(again, 'Exp', false), count(again, 'Exp', true)]).toEqual([1, 1]);
  });

  test('gives back arguments that pass through, and does nothing where there is nothing to keep', () => {
    const x = e.constant(e.zeros('float32', [2]));
    const both = e.checkpoint((x: e.Tensor) => [x, e.exp(x)] as const)(x);
    expect(both[0]).toBe(x);
    expect(e.checkpoint(() => x)()).toBe(x);
  });
});
