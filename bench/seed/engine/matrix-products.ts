import { compile, hostTensor, matMul, type Program, reshape, slice, type Tensor } from '@fewtune/engine';
import type { Contender } from '../../lib/contender.js';
import { normals } from '../../lib/statistics.js';

/** [m, k] times [k, n], so many times; with `batch`, that many of them at once. */
export interface MatrixProduct {
  readonly batch?: number;
  readonly m: number;
  readonly k: number;
  readonly n: number;
  readonly count: number;
}

/** Runs one product after the other, each as often as it is needed, and times the sum. */
export async function productsContender(
  list: readonly MatrixProduct[],
  session: { threads: number; backend?: 'wasm' },
): Promise<Contender> {
  const merged = mergeEqual(list);
  const runs: { program: Program<unknown, unknown>; given: unknown; count: number }[] = [];
  for (const { batch, m, k, n, count } of merged) {
    const leading = batch === undefined ? [] : [batch];
    const specs = {
      a: { dtype: 'float32', shape: [...leading, m, k] },
      b: { dtype: 'float32', shape: [...leading, k, n] },
    } as const;
    const program = await compile(({ a, b }: { a: Tensor; b: Tensor }) => corner(matMul(a, b)), specs, session);
    const given = {
      a: hostTensor('float32', specs.a.shape, normals((batch ?? 1) * m * k, 1, 0.05)),
      b: hostTensor('float32', specs.b.shape, normals((batch ?? 1) * k * n, 2, 0.05)),
    };
    runs.push({ program: program as Program<unknown, unknown>, given, count });
  }
  const operations = merged.reduce((sum, { batch = 1, m, k, n, count }) => sum + 2 * batch * m * k * n * count, 0);
  const total = merged.reduce((sum, { count }) => sum + count, 0);
  return {
    name: `${total} products, ${(operations / 1e9).toFixed(1)} GFLOP`,
    time: async (count) => {
      const milliseconds: number[] = [];
      for (let i = 0; i < count; i++) {
        const began = performance.now();
        for (const { program, given, count } of runs) for (let j = 0; j < count; j++) await program.run(given);
        milliseconds.push(performance.now() - began);
      }
      return milliseconds;
    },
    close: async () => {
      for (const { program } of runs) await program.dispose();
    },
  };
}

function mergeEqual(list: readonly MatrixProduct[]): MatrixProduct[] {
  const found = new Map<string, MatrixProduct>();
  for (const product of list) {
    const key = `${product.batch},${product.m},${product.k},${product.n}`;
    found.set(key, { ...product, count: product.count + (found.get(key)?.count ?? 0) });
  }
  return [...found.values()];
}

/** The first element: the product is computed, and almost nothing copied out. */
function corner(x: Tensor): Tensor {
  return reshape(
    x.shape.reduce((cut, _, axis) => slice(cut, axis, 0, 1), x),
    [1],
  );
}

/** A convolution as the products it is: patches of the input times the kernel, for every place of the output. */
export interface Convolution {
  readonly batch: number;
  readonly from: number;
  readonly to: number;
  /** Elements of the kernel, 9 for 3 × 3. */
  readonly window: number;
  /** Places of the output. */
  readonly places: number;
}

/** y = W x, so many times. */
export const forwardProduct = ({ batch, from, to, window, places }: Convolution, count = 1): MatrixProduct => ({
  m: to,
  k: from * window,
  n: batch * places,
  count,
});

/** The gradient of the input, with as many operations as the forward product. */
export const inputProduct = ({ batch, from, to, window, places }: Convolution, count = 1): MatrixProduct => ({
  m: from,
  k: to * window,
  n: batch * places,
  count,
});

/** dW = dy xᵀ over all places. */
export const weightProduct = ({ batch, from, to, window, places }: Convolution, count = 1): MatrixProduct => ({
  m: to,
  k: batch * places,
  n: from * window,
  count,
});
