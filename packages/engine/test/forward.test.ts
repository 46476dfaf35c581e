import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import type { Dim, HostTensor, Tensor } from '../src/index.js';
import * as e from '../src/index.js';
import type { OperatorCase } from './catalogue.js';
import { as32, catalogue, forwardSeed, forwardSizes, inputsOf, nameOf, shapeOf } from './catalogue.js';
import { record } from './record.js';

/** Values computed by fixtures/operator-references.py. */
interface Reference {
  readonly torch: string;
  readonly shape: readonly number[];
  readonly data: readonly number[];
}

const named = catalogue.map((c) => ({ name: nameOf(c), c }));
const at = (name: string) => new URL(`fixtures/${name}`, import.meta.url);

// The inputs for the Python script: OPERATOR_INPUTS=/tmp/inputs.json npx vitest run packages/engine/test/forward.test.ts
if (process.env.OPERATOR_INPUTS) {
  const cases = named.map(({ name, c }) => ({
    name,
    torch: c.torch,
    inputs: inputsOf(c, forwardSizes, forwardSeed).map(({ dtype, shape, data }) => ({
      dtype,
      shape,
      data: [...data].map(Number),
    })),
  }));
  writeFileSync(process.env.OPERATOR_INPUTS, JSON.stringify({ sizes: forwardSizes, cases }));
}

const references: Record<string, Reference> = JSON.parse(readFileSync(at('operator-references.json'), 'utf8'));

async function evaluate(fn: (xs: readonly Tensor[]) => Tensor, inputs: readonly HostTensor[], shapes?: Dim[][]) {
  const specs = inputs.map(({ dtype, shape }, i) => ({ dtype, shape: (shapes?.[i] ?? shape) as readonly Dim[] }));
  await using program = await e.compile((xs: readonly Tensor[]) => fn(xs), specs);
  return program.run(inputs as never);
}

function expectNear(value: HostTensor, wanted: readonly number[], tolerance: number): void {
  const scale = Math.max(1e-3, ...wanted.filter(Number.isFinite).map(Math.abs));
  expect(value.data).toHaveLength(wanted.length);
  for (const [i, want] of wanted.entries()) {
    const got = Number(value.data[i]);
    const fits = Number.isNaN(want) ? Number.isNaN(got) : got === want || Math.abs(got - want) <= tolerance * scale;
    if (!fits) expect.fail(`element ${i} is ${got}, not ${want}`);
  }
}

const toleranceOf = (c: OperatorCase) => c.tolerance ?? (c.dtype === 'float32' ? 1e-5 : 1e-9);

describe('forward values are those of PyTorch', () => {
  const outcomes: Record<string, string> = {};
  test.each(named)('$name', async ({ name, c }) => {
    const reference = references[name];
    expect(reference?.torch, 'computed from this very expression; else run operator-references.py').toBe(c.torch);
    const value = await evaluate((xs) => c.fn(xs, forwardSizes), inputsOf(c, forwardSizes, forwardSeed));
    expect(value.shape.join()).toBe(reference!.shape.join());
    expectNear(value, reference!.data, toleranceOf(c));
    outcomes[name] = 'yes';
  });
  test('are as recorded', () => record('forward', outcomes));
});

/** Value and gradient as one list of numbers. */
async function everything(c: OperatorCase, sizes: typeof forwardSizes, shapes?: Dim[][], symbols = sizes as never) {
  const inputs = inputsOf(c, sizes, forwardSeed);
  const value = await evaluate((xs) => c.fn(xs, symbols), inputs, shapes);
  if (c.noGradient) return [...value.data].map(Number);
  const specs = inputs.map(({ dtype, shape }, i) => ({ dtype, shape: (shapes?.[i] ?? shape) as readonly Dim[] }));
  // Sums alone: weights have known sizes.
  const loss = (floats: readonly Tensor[], xs: readonly Tensor[]) => {
    const rest = [...floats];
    return e.sum(
      e.sin(
        c.fn(
          xs.map((x) => (x.dtype.startsWith('float') ? rest.shift()! : x)),
          symbols,
        ),
      ),
    );
  };
  await using program = await e.compile(
    (xs: readonly Tensor[]) =>
      e.grad(loss)(
        xs.filter((x) => x.dtype.startsWith('float')),
        xs,
      ),
    specs,
  );
  const gradient = (await program.run(inputs as never)) as unknown as readonly HostTensor[];
  return [value, ...gradient].flatMap(({ data }) => [...data].map(Number));
}

describe('one program serves every size', () => {
  const outcomes: Record<string, string> = {};
  const letters = ['m', 'n', 'k'] as const;
  test.each(named)('$name', async ({ name, c }) => {
    const used = letters.filter((letter) => c.inputs.some((spec) => shapeOf(spec).includes(letter)));
    const wanted = await everything(c, forwardSizes);
    // As many sizes as can be symbolic: all, else the first (the batch), else none.
    for (const symbolic of used.length > 1 ? [used, used.slice(0, 1)] : [used]) {
      if (symbolic.length === 0) break;
      const dims = c.inputs.map((spec) =>
        shapeOf(spec).map((dim) => (typeof dim === 'number' ? dim : symbolic.includes(dim) ? dim : forwardSizes[dim])),
      );
      const symbols = Object.fromEntries(
        letters.map((letter) => [letter, symbolic.includes(letter) ? letter : forwardSizes[letter]]),
      );
      let found: number[];
      try {
        found = await everything(c, forwardSizes, dims, symbols as never);
      } catch (error) {
        // Said while the graph is built; anything later is a mistake.
        if (!(error instanceof e.EngineError) || error.code === 'SESSION_FAILED') throw error;
        continue;
      }
      expectNear({ dtype: 'float64', shape: [], data: Float64Array.from(found) }, wanted, toleranceOf(c));
      outcomes[name] = symbolic.length === used.length ? 'yes' : 'first axis';
      return;
    }
    outcomes[name] = used.length === 0 ? 'known sizes' : 'no';
  });
  test('are as recorded', () => record('symbolic', outcomes));
});

describe('float32 and float64 agree where both have kernels', () => {
  const outcomes: Record<string, string> = {};
  test.each(named)('$name', async ({ name, c }) => {
    const types = inputsOf(c, forwardSizes, forwardSeed).map(({ dtype }) => dtype);
    if (types.every((type) => !type.startsWith('float'))) outcomes[name] = [...new Set(types)].join(', ');
    else if (c.dtype === 'float32') outcomes[name] = 'float32';
    else {
      const [double, single] = [await everything(c, forwardSizes), await everything(as32(c), forwardSizes)];
      expectNear({ dtype: 'float64', shape: [], data: Float64Array.from(single) }, double, 1e-5);
      outcomes[name] = 'float32, float64';
    }
  });
  test('are as recorded', () => record('cpu', outcomes));
});

test('the ONNX operators behind each', () => {
  const outcomes = Object.fromEntries(
    named.map(({ name, c }) => {
      const specs = inputsOf(c, forwardSizes, forwardSeed).map(({ dtype, shape }, i) => [`x${i}`, { dtype, shape }]);
      const model = e.traceToOnnx((xs) => ({ y: c.fn(Object.values(xs), forwardSizes) }), Object.fromEntries(specs), {
        portable: false,
      });
      return [name, [...new Set(model.graph.node!.map(({ opType }) => opType))].sort().join(', ')];
    }),
  );
  record('onnx', outcomes);
});
