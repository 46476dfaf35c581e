import { isSymbolic } from '../dims.js';
import { identity, startAfter } from '../ops/control.js';
import { concat, slice } from '../ops/indexing.js';
import { reshape } from '../ops/shape.js';
import type { Op } from '../tensor.js';
import { applyAll, constantValue, isPlaceholder, scalar, type Tensor } from '../tensor.js';
import type { Tree } from '../tree.js';
import { leaves, mapTree } from '../tree.js';
import { isTensor, reached } from './grad.js';
import { replace } from './graph.js';

/**
 * The same function, whose values are computed a second time in the backward pass instead of being kept for it. Chen et
 * al. 2016, arXiv:1604.06174. Wrap each layer of a deep model: between forward and backward only the layers' arguments
 * stay in memory, for one more forward pass of work.
 *
 * The second computation starts when the result's cotangent is there. It repeats what depends on activations, or on inputs
 * of symbolic size, whether they are arguments or used from outside; what is made of weights alone is kept, unless weights
 * are all there is.
 *
 * @example
 * for (const layer of layers) h = checkpoint(encoderLayer)(h, layer);
 */
export function checkpoint<Args extends unknown[], R extends Tree<Tensor>>(
  fn: (...args: Args) => R,
): (...args: Args) => R {
  return (...args) => {
    const start = scalar(0).node.id; // whatever is younger belongs to the segment
    const result = fn(...args);
    const values = [...new Set(leaves<Tensor>(result, isTensor).map(([, tensor]) => tensor))];
    const outputs = values.filter(({ node }) => node.id > start);
    const outside = inputsOf(outputs, start).filter((input) => !constantValue(input));
    if (outside.length === 0) return result;
    const op = checkpointOp(outputs.length, restartedAt(outside), (inputs) =>
      replace(outputs, new Map(outside.map((input, i) => [input, inputs[i]!]))),
    );
    const kept = applyAll(op, [...outputs, ...outside]);
    const of = new Map(outputs.map((output, i) => [output, kept[i]!]));
    return mapTree<Tensor, Tensor>(result, isTensor, (tensor) => of.get(tensor) ?? tensor) as R;
  };
}

/** What the nodes behind `outputs` that are younger than `start` take from older ones. */
function inputsOf(outputs: readonly Tensor[], start: number): Tensor[] {
  const found = new Set<Tensor>();
  const seen = new Set(outputs.map(({ node }) => node));
  for (const node of seen) {
    for (const input of node.inputs) {
      if (input.node.id < start) found.add(input);
      else seen.add(input.node);
    }
  }
  return [...found];
}

/** Which inputs the second computation waits for: each costs a copy, and one before every large product is enough. */
function restartedAt(outside: readonly Tensor[]): boolean[] {
  const possible = outside.map((input) => input.rank > 0);
  const chosen = outside.map((input, i) => possible[i]! && (input.shape.some(isSymbolic) || !isGiven(input)));
  return chosen.some(Boolean) ? chosen : possible;
}

/**
 * Gradients of which those that lead on to earlier segments wait for the others. A runtime may else go down all segments
 * first and multiply weight gradients in the end: until then, what every segment computed again would have to stay.
 */
function oneAfterTheOther(
  gradients: readonly (Tensor | undefined)[],
  leadsOn: readonly boolean[],
): readonly (Tensor | undefined)[] {
  const others = gradients.flatMap((gradient, i) => (gradient && !leadsOn[i] && gradient.rank > 0 ? [gradient] : []));
  const ends = others.filter(({ dtype }) => dtype === others[0]!.dtype);
  if (ends.length === 0) return gradients;
  const first = concat(
    ends.map((gradient) => slice(reshape(gradient, [-1]), 0, 0, 1)),
    0,
  );
  return gradients.map((gradient, i) => (gradient && leadsOn[i] ? startAfter(gradient, first) : gradient));
}

/** A weight or another input of the program, perhaps under a name of its own. */
function isGiven({ node }: Tensor): boolean {
  let at = node;
  while (at.op.name === 'Identity') at = at.inputs[0]!.node;
  return isPlaceholder(at) || constantValue(at.outputs[0]!) !== undefined;
}

/** [...outputs, ...inputs] -> outputs; its gradient computes them again from the inputs. */
function checkpointOp(
  count: number,
  repeated: readonly boolean[],
  compute: (inputs: readonly Tensor[]) => readonly Tensor[],
): Op {
  return {
    name: 'Checkpoint',
    shape: (inputs) => inputs.slice(0, count),
    emit: (_context, _node, inputs) => inputs.slice(0, count),
    vjp: (inputs, _, { cotangents }) => {
      const after = cotangents.find((cotangent) => cotangent !== undefined)!;
      const fresh = inputs.slice(count).map((input, i) => (repeated[i] ? startAfter(input, after) : identity(input)));
      const outputs = compute(fresh);
      const arrived = cotangents.flatMap((cotangent, i) => (cotangent ? [[outputs[i]!, cotangent] as const] : []));
      const found = reached(
        arrived.map(([output]) => output),
        arrived.map(([, cotangent]) => cotangent),
        fresh,
      );
      return [...outputs.map(() => undefined), ...oneAfterTheOther(found, repeated)];
    },
    lower: (wrap) => checkpointOp(count, repeated, wrap(compute) as typeof compute),
    batch: (inputs, { batched, full, map }) => {
      const which = batched.slice(count);
      const mapped = checkpointOp(count, repeated, (given) => map(compute, given, which) as Tensor[]);
      return applyAll(
        mapped,
        inputs.map((input, i) => (i < count ? full(i) : input)),
      );
    },
  };
}
