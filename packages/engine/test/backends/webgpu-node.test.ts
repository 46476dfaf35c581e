import { afterAll, describe, expect, test, vi } from 'vitest';
import * as e from '../../src/index.js';
import { hostOnly } from '../../src/program/fallbacks.js';
import { nameOf } from '../catalogue.js';
import { record } from '../record.js';
import { expectAgreement, expectSameTraining, otherwise } from './agree.js';
import { type Placed, placementOf } from './placement.js';
import { cases, type Result, runCase, train, trainTransformer } from './suite.js';
import { announce, webgpuMissing } from './webgpu.js';

const webgpu = { backend: 'webgpu' } as const;
const int64 = { dtype: 'int64', shape: ['n'] } as const;
const skipped = announce('WebGPU in Node.js', await webgpuMissing());

/** What may run on the processor, and why; everything else in a program must be on the GPU. */
const allowed: readonly { why: string; holds(placed: Placed): boolean }[] = [
  {
    why: 'sizes, counters and seeds are a few int64 numbers, which ONNX Runtime keeps on the host on purpose',
    holds: ({ op, types, elements }) =>
      op === 'Shape' || (types.every((type) => type === 'int64' || type === 'int32') && elements <= 8),
  },
  {
    why: 'class indices and the like come from the host as int64; they are made int32 there, on the way',
    holds: ({ op, types }) => op === 'Cast' && types.join() === 'int64',
  },
  {
    why: 'row numbers come from the host as int64, and ScatterND takes them with one more axis',
    holds: ({ op, types }) => (op === 'Unsqueeze' || op === 'Reshape') && types.every((type) => type === 'int64'),
  },
];

/** Not told by operator and type: a transposition that the runtime moves behind a conversion, and float64. */
const untold = new Set(['Transpose int64', 'Cast float32']);
/** ONNX's words for element types, where they are not ours. */
const dtypes: Readonly<Record<string, string>> = { float: 'float32', double: 'float64' };

function fallbacks(placed: readonly Placed[]): string[] {
  const fallen = placed.filter((one) => one.provider === 'cpu' && !allowed.some(({ holds }) => holds(one)));
  return [...new Set(fallen.map(({ op, types }) => `${op}(${types.join(', ')})`))].sort();
}

describe.skipIf(skipped)('WebGPU in Node.js', () => {
  const outcomes: Record<string, string> = {};
  const fallen = new Set<string>();
  const warn = vi.spyOn(console, 'warn').mockImplementation(() => {});
  afterAll(() => warn.mockRestore());
  // WGSL promises sines and cosines within 2⁻¹¹, and the adapter makes use of it.
  const tolerance = (name: string) => (/^(sin|cos|tan)\b/.test(name) ? 2 ** -11 : 1e-4);

  test.each(cases.map((c) => ({ name: nameOf(c), c })))('$name', async ({ name, c }) => {
    const wanted = await runCase(c, {});
    let found: Result | undefined;
    const placed = await placementOf(async () => {
      found = await runCase(c, webgpu);
    });
    if (name in otherwise) {
      outcomes[name] = otherwise[name]!;
      expect(() => expectAgreement(found, wanted, tolerance(name)), 'it agrees now: take it off the list').toThrow();
      return;
    }
    expectAgreement(found, wanted, tolerance(name));
    const away = fallbacks(placed);
    for (const one of away) fallen.add(one.replace(/\((\w+).*/, (_, type) => ` ${dtypes[type] ?? type}`));
    outcomes[name] = away.length === 0 ? 'yes' : `falls back: ${away.join(', ')}`;
  });
  test('are as recorded', () => record('webgpu', outcomes));

  test('the table of what falls back is what did', () => {
    expect([...fallen].filter((one) => !untold.has(one)).sort()).toEqual([...hostOnly].sort());
  });

  test('one line names what a program leaves to the processor', async () => {
    warn.mockClear();
    const open = () => e.compile(({ a, b }) => e.equal(a, b), { a: int64, b: int64 }, { ...webgpu, name: 'matches' });
    for (const program of [await open(), await open()]) await program.dispose();
    expect(warn.mock.calls).toEqual([[expect.stringMatching(/"matches".*Equal int64.*processor/)]]);
  });

  test.each([1, 2, 3, 5, 6, 9, 12])('convolutions with %d channels a group', async (out) => {
    const filled = (shape: number[], frequency: number) =>
      e.hostTensor(
        'float32',
        shape,
        Array.from({ length: e.elementCount(shape) }, (_, i) => Math.sin(frequency * i)),
      );
    const inputs = {
      x: filled([2, 4, 5, 5], 1.3),
      w: filled([2 * out, 2, 3, 3], 0.7),
      v: filled([4, out, 3, 3], 0.9),
    };
    const run = async (options: e.SessionOptions) => {
      await using program = await e.compile(
        ({ x, w, v }) => ({
          y: e.conv(x, w, undefined, { groups: 2 }),
          z: e.convTranspose(x, v, undefined, { groups: 2 }),
        }),
        inputs,
        options,
      );
      const { y, z } = await program.run(inputs);
      return { y: [...(y.data as Float32Array)], z: [...(z.data as Float32Array)] };
    };
    expectAgreement(await run(webgpu), await run({}), 1e-5);
  });

  test('50 training steps are those of the CPU; params, snapshot and restore work', async () => {
    expectSameTraining(await train(50, webgpu), await train(50, {}));
  });

  test('a transformer’s training step stays on the GPU', async () => {
    let losses: number[] = [];
    const placed = await placementOf(async () => {
      losses = await trainTransformer(2, webgpu);
    });
    expect(fallbacks(placed)).toEqual([]);
    expect(placed.filter(({ provider }) => provider === 'webgpu').length).toBeGreaterThan(100);
    expectAgreement({ losses }, { losses: await trainTransformer(2, {}) }, 1e-4);
  });
});
