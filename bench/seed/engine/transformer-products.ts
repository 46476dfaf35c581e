import { concat, type HostTensor, linear, matMul, reshape, slice, type Tensor, type TensorSpec } from '@fewtune/engine';
import { normals } from '../../lib/statistics.js';

export interface StepShape {
  readonly batch: number;
  readonly tokens: number;
  readonly hidden: number;
  readonly intermediate: number;
  readonly heads: number;
  readonly layers: number;
  readonly rank: number;
}

type Inputs = Readonly<Record<string, Tensor>>;
type Product = (inputs: Inputs) => Tensor;

/** The matrix products of one training step, and nothing else. */
export interface Products {
  readonly specs: Record<string, TensorSpec>;
  readonly count: number;
  /** Floating-point operations of one run. */
  readonly operations: number;
  /** One element of every product, so that none can be left out. */
  program(inputs: Inputs): { corners: Tensor };
  values(): Record<string, HostTensor>;
}

/**
 * Lists the products that a BERT-family training step cannot do without, independent of each other.
 *
 * `lora`: forward; gradients with respect to inputs down to the lowest adapter (layer 0's query and value), so that
 * layer 0 needs none for its input nor for its keys; gradients of the adapters. `full`: forward, inputs and weights.
 * Products of one layer share the activations that they share in the model; no product stands there twice.
 */
export function stepProducts(kind: 'lora' | 'full', shape: StepShape): Products {
  const list = new ProductList();
  for (let layer = 0; layer < shape.layers; layer++) addLayer(list, kind === 'full', layer, shape);
  return {
    specs: list.specs,
    count: list.products.length,
    operations: list.operations,
    program: (inputs) => ({
      corners: concat(
        list.products.map((product) => corner(product(inputs))),
        0,
      ),
    }),
    values: () => list.values(),
  };
}

class ProductList {
  readonly specs: Record<string, { dtype: 'float32'; shape: readonly number[] }> = {};
  readonly products: Product[] = [];
  operations = 0;

  input(name: string, ...shape: number[]): string {
    this.specs[name] ??= { dtype: 'float32', shape };
    return name;
  }

  /** a b, with `columns` columns in the result: 2 · elements of a · columns operations. */
  product(a: string, b: string, columns: number, options?: { transposeA?: boolean; transposeB?: boolean }): void {
    this.add(a, columns, (t) => matMul(t[a]!, t[b]!, options));
  }

  /** y = x Wᵀ, dx = dy W where `toInput`, dW = dyᵀ x where `toWeight`. */
  dense(x: string, weight: string, dy: string, { toInput, toWeight }: { toInput: boolean; toWeight: boolean }): void {
    const out = this.specs[weight]!.shape[0]!;
    const rows = (t: Tensor) => reshape(t, [-1, t.shape.at(-1)!]);
    this.add(x, out, (t) => linear(t[x]!, t[weight]!));
    if (toInput) this.add(x, out, (t) => matMul(t[dy]!, t[weight]!));
    if (toWeight) this.add(x, out, (t) => matMul(rows(t[dy]!), rows(t[x]!), { transposeA: true }));
  }

  values(): Record<string, HostTensor> {
    const value = (
      [name, { dtype, shape }]: [string, { dtype: 'float32'; shape: readonly number[] }],
      seed: number,
    ) => {
      const length = shape.reduce((product, dim) => product * dim, 1);
      return [name, { dtype, shape, data: normals(length, seed, 0.05) }] as const;
    };
    return Object.fromEntries(Object.entries(this.specs).map(value));
  }

  private add(a: string, columns: number, product: Product): void {
    this.products.push(product);
    this.operations += 2 * columns * this.specs[a]!.shape.reduce((elements, dim) => elements * dim, 1);
  }
}

function addLayer(list: ProductList, full: boolean, layer: number, shape: StepShape): void {
  const { batch, tokens, hidden, intermediate, heads, rank } = shape;
  const below = full || layer > 0; // something under this layer is trained
  const width = hidden / heads;
  const input = (what: string, ...dims: number[]) => list.input(`layer${layer}.${what}`, ...dims);
  const wide = (what: string) => input(what, batch, tokens, hidden);
  const split = (what: string) => input(what, batch, heads, tokens, width);
  const square = (what: string) => input(what, batch, heads, tokens, tokens);

  const x = wide('x');
  for (const part of ['query', 'key', 'value']) {
    const dy = wide(`d.${part}`);
    list.dense(x, input(part, hidden, hidden), dy, { toInput: below, toWeight: full });
    if (!full && part !== 'key') {
      const dDown = input(`d.${part}.down`, batch, tokens, rank);
      list.dense(x, input(`${part}.a`, rank, hidden), dDown, { toInput: below, toWeight: true });
      const down = input(`${part}.down`, batch, tokens, rank);
      list.dense(down, input(`${part}.b`, hidden, rank), dy, { toInput: true, toWeight: true });
    }
  }
  const [q, k, v, dContext] = [split('q'), split('k'), split('v'), split('d.context')];
  const [p, dScores] = [square('p'), square('d.scores')];
  list.product(q, k, tokens, { transposeB: true }); // scores
  list.product(p, v, width); // context
  list.product(dContext, v, tokens, { transposeB: true }); // dP
  list.product(p, dContext, width, { transposeA: true }); // dV
  list.product(dScores, k, width); // dQ
  if (below) list.product(dScores, q, width, { transposeA: true }); // dK
  const both = { toInput: true, toWeight: full };
  list.dense(wide('context'), input('output', hidden, hidden), wide('d.output'), both);
  list.dense(wide('attended'), input('up', intermediate, hidden), input('d.up', batch, tokens, intermediate), both);
  list.dense(input('inner', batch, tokens, intermediate), input('down', hidden, intermediate), wide('d.down'), both);
}

/** The first element, as [1]. Each axis is cut in turn: the first cut leaves little for the next to copy. */
function corner(x: Tensor): Tensor {
  let cut = x;
  for (let axis = 0; axis < x.shape.length; axis++) cut = slice(cut, axis, 0, 1);
  return reshape(cut, [1]);
}
