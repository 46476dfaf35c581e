import { describe, expect, test } from 'vitest';
import type { Dim, HostTensor, Tensor } from '../src/index.js';
import * as e from '../src/index.js';
import { placeholder } from '../src/tensor.js';
import type { OperatorCase } from './catalogue.js';
import { catalogue, inputsOf, lossOf, nameOf, shapeOf } from './catalogue.js';
import { record, recorded } from './record.js';

/**
 * Every operator over a batch of each choice of its inputs equals the stack of separate runs: its value, its gradient,
 * the gradient's gradient, and the gradient of the sum over the batch.
 */
const sizes = { m: 3, n: 4, k: 2 } as const;
const examples = 2;

/** Which inputs are mapped: every choice of up to three inputs; of more, all of them and each alone. */
function choices(count: number): boolean[][] {
  const all = Array.from({ length: 2 ** count - 1 }, (_, bits) =>
    Array.from({ length: count }, (_, i) => (((bits + 1) >> i) & 1) === 1),
  );
  const size = (choice: boolean[]) => choice.filter(Boolean).length;
  return count <= 3 ? all : all.filter((choice) => size(choice) === 1 || size(choice) === count);
}

const stack = (tensors: readonly HostTensor[]): HostTensor => {
  const { dtype, shape, data } = tensors[0]!;
  const joined = data.slice(0, 0).constructor as new (length: number) => Float32Array;
  const all = new joined(data.length * tensors.length);
  for (const [i, tensor] of tensors.entries()) all.set(tensor.data as Float32Array, i * data.length);
  return e.hostTensor(dtype, [tensors.length, ...shape], all);
};

const ordersOf = (c: OperatorCase): readonly (1 | 2)[] => (c.noGradient ? [] : c.noSecondOrder ? [1] : [1, 2]);

/** The value alone, or with the gradient, its gradient, and everything they are made of. */
function results(c: OperatorCase, xs: readonly Tensor[]): Record<string, Tensor> {
  const all: Record<string, Tensor> = { value: c.fn(xs, sizes) };
  for (const order of ordersOf(c)) {
    const { value, gradient } = lossOf(c, sizes, 5, order)(xs);
    all[`loss ${order}`] = value;
    for (const [i, one] of gradient.entries()) all[`gradient ${order} of ${i}`] = one;
  }
  return all;
}

const close = (what: string, got: HostTensor, wanted: HostTensor) => {
  expect(got.dtype, what).toBe(wanted.dtype);
  expect(got.shape, what).toEqual(wanted.shape);
  const tolerance = got.dtype === 'float64' ? 1e-9 : 2e-5;
  const largest = Math.max(1e-2, ...[...wanted.data].map((value) => Math.abs(Number(value))));
  for (const [i, value] of wanted.data.entries()) {
    const error = Math.abs(Number(got.data[i]) - Number(value)) / largest;
    if (!(error <= tolerance)) {
      expect.fail(`${what}: element ${i} of [${wanted.shape}] is ${got.data[i]}, separately ${value}`);
    }
  }
};

async function check(c: OperatorCase, batch: Dim) {
  const data = Array.from({ length: examples }, (_, i) => inputsOf(c, sizes, 11 + i));
  const specs = data[0]!.map(({ dtype, shape }) => ({ dtype, shape: shape as readonly Dim[] }));
  const one = await e.compile((xs: readonly Tensor[]) => results(c, xs), specs);
  for (const choice of choices(c.inputs.length)) {
    const mapped = await e.compile(
      (xs: readonly Tensor[]) => {
        const inAxes = [choice.map((is) => (is ? 0 : null))];
        const all: Record<string, Tensor> = e.vmap((xs: readonly Tensor[]) => results(c, xs), { inAxes })(xs);
        // The other order: the gradient of what was mapped.
        const floats = xs.filter(({ dtype }) => dtype.startsWith('float'));
        for (const order of ordersOf(c)) {
          const loss = (xs: readonly Tensor[]) => lossOf(c, sizes, 5, order)(xs).value;
          const outer = e.grad((given: readonly Tensor[]) => {
            const rest = [...given];
            const all = xs.map((x) => (x.dtype.startsWith('float') ? rest.shift()! : x));
            return e.sum(e.vmap(loss, { inAxes })(all));
          })(floats);
          for (const [i, one] of outer.entries()) all[`outer gradient ${order} of ${i}`] = one;
        }
        return all;
      },
      specs.map((spec, i) => (choice[i] ? { ...spec, shape: [batch, ...spec.shape] } : spec)),
    );
    const separate: Record<string, HostTensor>[] = [];
    for (const example of data) {
      const inputs = example.map((input, i) => (choice[i] ? input : data[0]![i]!));
      separate.push(await one.run(inputs as never));
    }
    const got: Record<string, HostTensor> = await mapped.run(
      data[0]!.map((_, i) => (choice[i] ? stack(data.map((example) => example[i]!)) : data[0]![i]!)) as never,
    );
    const where = `inputs ${choice.flatMap((is, i) => (is ? [i] : []))} mapped`;
    for (const key of Object.keys(separate[0]!)) {
      close(`${where}: ${key}`, got[key]!, stack(separate.map((result) => result[key]!)));
    }
    const floatInputs = choice.filter((_, i) => specs[i]!.dtype.startsWith('float'));
    for (const order of ordersOf(c)) {
      for (const [i, is] of floatInputs.entries()) {
        const each = stack(separate.map((result) => result[`gradient ${order} of ${i}`]!));
        const found = got[`outer gradient ${order} of ${i}`]!;
        close(`${where}: gradient of the sum, order ${order}, of ${i}`, found, is ? each : total(each));
      }
    }
    await mapped.dispose();
  }
  await one.dispose();
}

function total({ dtype, shape, data }: HostTensor): HostTensor {
  const inner = e.elementCount(shape.slice(1));
  const sums = Array.from({ length: inner }, (_, i) => {
    let sum = 0;
    for (let at = i; at < data.length; at += inner) sum += Number(data[at]);
    return sum;
  });
  return e.hostTensor(dtype, shape.slice(1), sums);
}

const cases = catalogue.filter(({ inputs }) => inputs.length > 0).map((c) => ({ name: nameOf(c), c }));
const outcomes: Record<string, string> = {};
for (const c of catalogue) if (c.inputs.length === 0) outcomes[nameOf(c)] = 'no input';

test('every operator, and those that gradients are made of, has a batching rule', () => {
  const without = new Set<string>();
  for (const { c } of cases) {
    const specs = inputsOf(c, sizes, 11);
    const nodes = new Set(
      Object.values(
        results(
          c,
          specs.map((spec, i) => placeholder(`x${i}`, spec)),
        ),
      ).map((y) => y.node),
    );
    for (const { op, inputs } of nodes) {
      if (inputs.length > 0 && !op.batch) without.add(op.name);
      for (const input of inputs) nodes.add(input.node);
    }
  }
  expect([...without]).toEqual([]);
});

describe('vmap equals separate runs', () => {
  test.each(cases)('$name', async ({ name, c }) => {
    await check(c, 'batch');
    outcomes[name] = 'yes';
  });
  test('are as recorded', () => record('vmap', outcomes));
});

// Weights of each example's own become groups when the batch is a number, and products of patches when it is a symbol.
describe('vmap of a known number of examples', () => {
  test.each(cases.filter(({ c }) => /conv|Pool/i.test(c.operator)))('$name', async ({ c }) => {
    await check(c, examples);
  });
});

/** Value and gradient of Σ sin(y), for sizes that may be symbols. */
function plainResults(c: OperatorCase, xs: readonly Tensor[], at: Readonly<Record<'m' | 'n' | 'k', Dim>>) {
  const value = c.fn(xs, at);
  if (c.noGradient) return { value };
  const loss = (floats: readonly Tensor[]) => {
    const rest = [...floats];
    return e.sum(
      e.sin(
        c.fn(
          xs.map((x) => (x.dtype.startsWith('float') ? rest.shift()! : x)),
          at,
        ),
      ),
    );
  };
  const gradient = e.grad(loss)(xs.filter((x) => x.dtype.startsWith('float')));
  return { value, ...Object.fromEntries(gradient.map((one, i) => [`gradient of ${i}`, one])) };
}

describe('vmap of symbolic sizes, the batch among them', () => {
  const symbolic = recorded('symbolic');
  test.each(cases.filter(({ name }) => symbolic[name] === 'yes' || symbolic[name] === 'first axis'))(
    '$name',
    async ({ name, c }) => {
      const used = (['m', 'n', 'k'] as const).filter((letter) =>
        c.inputs.some((spec) => shapeOf(spec).includes(letter)),
      );
      const free: readonly string[] = symbolic[name] === 'yes' ? used : used.slice(0, 1);
      const dimOf = (dim: number | 'm' | 'n' | 'k'): Dim =>
        typeof dim === 'number' ? dim : free.includes(dim) ? dim : sizes[dim];
      const at = { m: dimOf('m'), n: dimOf('n'), k: dimOf('k') };
      const data = Array.from({ length: examples }, (_, i) => inputsOf(c, sizes, 11 + i));
      const given = c.inputs.map((spec, i) => ({ dtype: data[0]![i]!.dtype, shape: shapeOf(spec).map(dimOf) }));
      const one = await e.compile(
        (xs: readonly Tensor[]) => plainResults(c, xs, sizes),
        data[0]!.map(({ dtype, shape }) => ({ dtype, shape: shape as readonly Dim[] })),
      );
      const separate: Record<string, HostTensor>[] = [];
      for (const example of data) separate.push(await one.run(example as never));
      // All inputs, and the first alone.
      for (const choice of [c.inputs.map(() => true), c.inputs.map((_, i) => i === 0)]) {
        if (choice.includes(false)) separate[1] = await one.run([data[1]![0]!, ...data[0]!.slice(1)] as never);
        const mapped = await e.compile(
          (xs: readonly Tensor[]) =>
            e.vmap((xs: readonly Tensor[]) => plainResults(c, xs, at) as Record<string, Tensor>, {
              inAxes: [choice.map((is) => (is ? 0 : null))],
            })(xs),
          given.map((spec, i) => (choice[i] ? { ...spec, shape: ['batch', ...spec.shape] } : spec)),
        );
        const inputs = data[0]!.map((first, i) => (choice[i] ? stack(data.map((example) => example[i]!)) : first));
        const got: Record<string, HostTensor> = await mapped.run(inputs as never);
        for (const key of Object.keys(separate[0]!)) close(key, got[key]!, stack(separate.map((each) => each[key]!)));
        await mapped.dispose();
      }
      await one.dispose();
    },
  );
});
