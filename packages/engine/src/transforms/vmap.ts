import type { Dim } from '../dims.js';
import { sameShape, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import { expand } from '../ops/arithmetic.js';
import { transpose, unsqueeze } from '../ops/shape.js';
import { withSource } from '../source.js';
import type { BatchContext, Node, Tensor } from '../tensor.js';
import { applyAll, placeholder } from '../tensor.js';
import type { Tree } from '../tree.js';
import { leaves, mapTree } from '../tree.js';
import { isTensor } from './grad.js';
import { nodesBetween } from './graph.js';

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
    const result = fn(...(examples as Args));
    batch.play(leaves<Tensor>(result, isTensor).map(([, tensor]) => tensor));
    return mapAxes(
      result,
      outAxes,
      'result',
      (tensor, axis) => {
        const value = batch.full(tensor);
        return moveAxis(value, 0, place(axis, value.rank, 'outAxes'));
      },
      (tensor, path) => {
        if (!batch.isBatched(tensor)) return batch.value(tensor);
        throw new EngineError(
          'ARGUMENT_INVALID',
          `vmap: ${path} differs from example to example, so outAxes cannot be null`,
        );
      },
    ) as R;
  };
}

/** One call of vmap: what stands for one example, and what that is over the batch. */
class Batch {
  /** Values that carry the batch as their first axis, by the value of one example. */
  private readonly batched = new Map<Tensor, Tensor>();
  /** Values made anew that are still the same for every example. */
  private readonly shared = new Map<Tensor, Tensor>();
  private found: { size: Dim; path: string; shape: readonly Dim[] } | undefined;

  get size(): Dim {
    if (this.found) return this.found.size;
    throw new EngineError('ARGUMENT_INVALID', 'vmap: no argument is mapped');
  }

  has(tensor: Tensor): boolean {
    return this.batched.has(tensor) || this.shared.has(tensor);
  }

  isBatched(tensor: Tensor): boolean {
    return this.batched.has(tensor);
  }

  value(tensor: Tensor): Tensor {
    return this.batched.get(tensor) ?? this.shared.get(tensor) ?? tensor;
  }

  /** With the batch axis in front, whether it differs from example to example or not. */
  full(tensor: Tensor): Tensor {
    const value = this.value(tensor);
    return this.isBatched(tensor) ? value : expand(unsqueeze(value, 0), [this.size, ...value.shape]);
  }

  /** A tensor without its mapped axis. */
  readonly example = (tensor: Tensor, axis: number, path: string): Tensor => {
    const at = place(axis, tensor.rank, path);
    const size = tensor.shape[at]!;
    this.found ??= { size, path, shape: tensor.shape };
    if (size !== this.size) {
      throw new EngineError(
        'SHAPE_MISMATCH',
        `vmap: the mapped axis of ${path} ${showShape(tensor.shape)} has ${size} examples, that of ${this.found.path} ${showShape(this.found.shape)} has ${this.size}`,
      );
    }
    return this.stand(moveAxis(tensor, at, 0));
  };

  /** What stands for one example of a batch. */
  private stand(batch: Tensor): Tensor {
    const one = placeholder('one example of vmap', { dtype: batch.dtype, shape: batch.shape.slice(1) });
    this.batched.set(one, batch);
    return one;
  }

  /** Finds the batched form of `outputs`, and of whatever they need; what depends on no example is left as it is. */
  play(outputs: readonly Tensor[]): void {
    for (const node of nodesBetween(this, outputs)) withSource(node.source, () => this.playNode(node), node.derived);
  }

  private playNode(node: Node): void {
    const { op, inputs } = node;
    const values = inputs.map((input) => this.value(input));
    const batched = inputs.map((input) => this.isBatched(input));
    if (!batched.includes(true)) {
      for (const [i, value] of applyAll(op, values, node.attributes).entries())
        this.shared.set(node.outputs[i]!, value);
      return;
    }
    if (!op.batch) {
      throw new EngineError(
        'NOT_BATCHABLE',
        `vmap: ${op.name} of ${inputs.map(({ shape }) => showShape(shape)).join(', ')} has no batching rule; compute it outside of vmap, or give its Op record a \`batch\``,
      );
    }
    const full = (i: number) => this.full(inputs[i]!);
    const made = op.batch(values, { node, batched, size: this.size, full, map: this.map });
    const results = Array.isArray(made) ? (made as readonly Tensor[]) : [made as Tensor];
    for (const [i, output] of node.outputs.entries()) {
      const result = results[i];
      if (result && sameShape(result.shape, [this.size, ...output.shape])) this.batched.set(output, result);
      else if (result && sameShape(result.shape, output.shape)) this.shared.set(output, result);
      else {
        throw new EngineError(
          'SHAPE_MISMATCH',
          `vmap: the batching rule of ${op.name} made ${result ? showShape(result.shape) : 'nothing'} instead of ${showShape([this.size, ...output.shape])}`,
        );
      }
    }
  }

  /** Traces a function of one example and plays it for the batch; it may use other examples too. */
  private readonly map: BatchContext['map'] = (fn, inputs, batched) => {
    const results = fn(inputs.map((input, i) => (batched[i] ? this.stand(input) : input)));
    this.play(results.filter((result) => result !== undefined));
    return results.map((result) => result && this.full(result));
  };
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
