import type { Dim } from '../dims.js';
import { sameShape, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import { expand } from '../ops/arithmetic.js';
import { transpose, unsqueeze } from '../ops/shape.js';
import { withSource } from '../source.js';
import type { Node } from '../tensor.js';
import { placeholder, type Tensor } from '../tensor.js';
import type { Tree } from '../tree.js';
import { mapTree } from '../tree.js';
import { isTensor } from './grad.js';

/** An axis for every tensor below: a number, null for "the same for every example", or a tree of such. */
export type Axes = number | null | readonly Axes[] | { readonly [key: string]: Axes };

export interface VmapOptions {
  /**
   * Which axis of the arguments is mapped: one value for all of them, or a list with one an argument, each an axis,
   * null (not mapped; the argument may be anything), or a tree of those as far down as they differ. 0 when left out.
   */
  readonly inAxes?: number | null | readonly Axes[];
  /** Where the results' batch axis goes, counted in the result: one value, or a tree. 0 when left out. */
  readonly outAxes?: Axes;
}

/**
 * Turns a function of one example into a function of a batch. The function is traced once, on tensors without the mapped
 * axis, and its graph is played again by the operators' batching rules; what does not depend on a mapped argument is
 * computed once. The batch may be symbolic. It composes with `grad`, `jvp`, `customVjp`, `checkpoint` and itself in any
 * order: `vmap(grad(loss))` gives one gradient an example.
 *
 * Random numbers are the same for every example, unless their seed is mapped.
 *
 * @throws EngineError NOT_BATCHABLE when an operator has no rule, SHAPE_MISMATCH when mapped axes differ in size,
 *   ARGUMENT_INVALID when nothing is mapped or an axis does not exist
 * @example
 * // One gradient for each of the examples xs [batch, n], all with the same weights.
 * const perExample = vmap(grad(loss), { inAxes: [null, 0] })(weights, xs);
 */
export function vmap<Args extends unknown[], R extends Tree<Tensor>>(
  fn: (...args: Args) => R,
  { inAxes = 0, outAxes = 0 }: VmapOptions = {},
): (...args: Args) => R {
  return (...args) => {
    const axesOf = (i: number): Axes => {
      if (inAxes === null || typeof inAxes === 'number') return inAxes;
      if (inAxes.length === args.length) return inAxes[i]!;
      throw new EngineError(
        'ARGUMENT_INVALID',
        `vmap: inAxes has ${inAxes.length} entries for ${args.length} arguments`,
      );
    };
    const batch = new Batch();
    const examples = args.map((arg, i) => mapAxes(arg as Tree<Tensor>, axesOf(i), `argument ${i}`, batch.example));
    const size = batch.size;
    if (size === undefined) throw new EngineError('ARGUMENT_INVALID', 'vmap: no argument is mapped');
    const result = fn(...(examples as Args));
    const outputs: Tensor[] = [];
    mapTree<Tensor, void>(result, isTensor, (tensor) => void outputs.push(tensor));
    replay(outputs, batch.values, size);
    return mapAxes(
      result,
      outAxes,
      'result',
      (tensor, axis) => {
        const value = batch.values.get(tensor) ?? repeat(tensor, size);
        return moveAxis(value, 0, place(axis, value.rank, 'outAxes'));
      },
      (tensor, path) => {
        if (!batch.values.has(tensor)) return tensor;
        throw new EngineError(
          'ARGUMENT_INVALID',
          `vmap: ${path} differs from example to example, so outAxes cannot be null`,
        );
      },
    ) as R;
  };
}

/** The mapped tensors of one call: what stands for one example, and the batch behind it. */
class Batch {
  readonly values = new Map<Tensor, Tensor>();
  size: Dim | undefined;
  private source = '';

  /** A tensor without its mapped axis. */
  readonly example = (tensor: Tensor, axis: number, path: string): Tensor => {
    const at = place(axis, tensor.rank, path);
    const size = tensor.shape[at]!;
    if (this.size === undefined) [this.size, this.source] = [size, path];
    if (size !== this.size) {
      throw new EngineError(
        'SHAPE_MISMATCH',
        `vmap: the mapped axis of ${path} ${showShape(tensor.shape)} has ${size} examples, that of ${this.source} ${this.size}`,
      );
    }
    const one = exampleOf(
      tensor.dtype,
      tensor.shape.filter((_, i) => i !== at),
    );
    this.values.set(one, moveAxis(tensor, at, 0));
    return one;
  };
}

function exampleOf(dtype: Tensor['dtype'], shape: readonly Dim[]): Tensor {
  return placeholder('one example of vmap', { dtype, shape });
}

/** Axis `axis` of a tensor of `rank`, from the front. */
function place(axis: number, rank: number, what: string): number {
  const at = axis < 0 ? axis + rank : axis;
  if (Number.isInteger(axis) && at >= 0 && at < rank) return at;
  throw new EngineError('ARGUMENT_INVALID', `vmap: ${what} of rank ${rank} has no axis ${axis}`);
}

function moveAxis(x: Tensor, from: number, to: number): Tensor {
  if (from === to) return x;
  const order = [...x.shape.keys()].filter((axis) => axis !== from);
  order.splice(to, 0, from);
  return transpose(x, order);
}

function repeat(x: Tensor, size: Dim): Tensor {
  return expand(unsqueeze(x, 0), [size, ...x.shape]);
}

/** Walks a tree beside the axes that are given for it; `unmapped` sees leaves below a null, if given. */
function mapAxes(
  tree: Tree<Tensor>,
  axes: Axes,
  path: string,
  mapped: (leaf: Tensor, axis: number, path: string) => Tensor,
  unmapped?: (leaf: Tensor, path: string) => Tensor,
): Tree<Tensor> {
  if (axes === null) {
    return unmapped ? mapTree<Tensor, Tensor>(tree, isTensor, (leaf) => unmapped(leaf, path)) : tree;
  }
  if (typeof axes === 'number' && isTensor(tree)) return mapped(tree, axes, path);
  if (tree === null || typeof tree !== 'object' || isTensor(tree)) {
    const found = isTensor(tree)
      ? 'one tensor, but its axes are a tree'
      : `${typeof tree}, which has no axis: give it null`;
    throw new EngineError('ARGUMENT_INVALID', `vmap: ${path} is ${found}`);
  }
  const below = (key: string): Axes => {
    if (typeof axes === 'number') return axes;
    const own = (axes as Readonly<Record<string, Axes>>)[key];
    if (own === undefined) throw new EngineError('ARGUMENT_INVALID', `vmap: no axis is given for ${path}/${key}`);
    return own;
  };
  const child = (value: Tree<Tensor>, key: string) => mapAxes(value, below(key), `${path}/${key}`, mapped, unmapped);
  if (Array.isArray(tree)) return tree.map((value, i) => child(value as Tree<Tensor>, String(i)));
  return Object.fromEntries(
    Object.entries(tree as Record<string, Tree<Tensor>>).map(([key, value]) => [key, child(value, key)]),
  );
}

/** Adds the batched form of `outputs`, and of whatever they need, to `values`; what depends on no example is left out. */
function replay(outputs: readonly Tensor[], values: Map<Tensor, Tensor>, size: Dim): void {
  for (const node of dependents(outputs, values))
    withSource(node.source, () => batchNode(node, values, size), node.derived);
}

function batchNode(node: Node, values: Map<Tensor, Tensor>, size: Dim): void {
  const { op, inputs } = node;
  if (!op.batch) {
    throw new EngineError(
      'NOT_BATCHABLE',
      `vmap: ${op.name} of ${inputs.map(({ shape }) => showShape(shape)).join(', ')} has no batching rule; compute it outside of vmap, or give its Op record a \`batch\``,
    );
  }
  const batched = inputs.map((input) => values.has(input));
  const given = inputs.map((input) => values.get(input) ?? input);
  const made = op.batch(given, {
    node,
    batched,
    size,
    full: (i) => (batched[i] ? given[i]! : repeat(given[i]!, size)),
    map: (fn, over, which) => mapInside(fn, over, which, values, size),
  });
  const results = Array.isArray(made) ? (made as readonly Tensor[]) : [made as Tensor];
  for (const [i, output] of node.outputs.entries()) {
    const result = results[i];
    if (!result || !sameShape(result.shape, [size, ...output.shape])) {
      throw new EngineError(
        'SHAPE_MISMATCH',
        `vmap: the batching rule of ${op.name} made ${result ? showShape(result.shape) : 'nothing'} instead of ${showShape([size, ...output.shape])}`,
      );
    }
    values.set(output, result);
  }
}

/** The nodes between the examples and `outputs` that are not known yet, first first. */
function dependents(outputs: readonly Tensor[], values: ReadonlyMap<Tensor, Tensor>): Node[] {
  const depends = new Map<Node, boolean>();
  const found: Node[] = [];
  const known = (input: Tensor) => values.has(input) || depends.has(input.node);
  // An explicit stack: graphs are deeper than the call stack is tall.
  const stack = outputs.filter((output) => !known(output)).map(({ node }) => node);
  while (stack.length > 0) {
    const node = stack.at(-1)!;
    const open = depends.has(node) ? [] : node.inputs.filter((input) => !known(input));
    if (open.length > 0) {
      for (const input of open) stack.push(input.node);
      continue;
    }
    stack.pop();
    if (depends.has(node)) continue;
    const needed = node.inputs.some((input) => values.has(input) || depends.get(input.node));
    depends.set(node, needed);
    if (needed) found.push(node);
  }
  return found.sort((a, b) => a.id - b.id);
}

/** Traces a function of one example of the enclosing `vmap` and plays it for the batch; it may use other examples too. */
function mapInside(
  fn: (inputs: readonly Tensor[]) => readonly (Tensor | undefined)[],
  inputs: readonly Tensor[],
  batched: readonly boolean[],
  values: Map<Tensor, Tensor>,
  size: Dim,
): readonly (Tensor | undefined)[] {
  const examples = inputs.map((input, i) => {
    if (!batched[i]) return input;
    const one = exampleOf(input.dtype, input.shape.slice(1));
    values.set(one, input);
    return one;
  });
  const results = fn(examples);
  const present = results.filter((result) => result !== undefined);
  replay(present, values, size);
  return results.map((result) => result && (values.get(result) ?? repeat(result, size)));
}
