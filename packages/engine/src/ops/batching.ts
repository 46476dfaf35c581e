/** Batching rules that many operators share; each operator's record names its own (see `BatchRule` in tensor.ts). */
import type { Dim } from '../dims.js';
import type { Attributes, BatchRule, Tensor } from '../tensor.js';
import { applyAll } from '../tensor.js';
import { reshape } from './shape.js';

/** Batched `x` with axes of size 1 between the batch and one example's own axes, up to `rank` of the latter. */
export function alignExample(x: Tensor, rank: number): Tensor {
  const [batch, ...own] = x.shape as [Dim, ...Dim[]];
  return own.length >= rank ? x : reshape(x, [batch, ...Array<number>(rank - own.length).fill(1), ...own]);
}

/** Operators that work element by element, and broadcast: the batch is one more axis in front. */
export const elementwise: BatchRule = (inputs, { node, batched }) => {
  const rank = Math.max(...node.inputs.map((input) => input.rank));
  const aligned = inputs.map((x, i) => (batched[i] ? alignExample(x, rank) : x));
  return applyAll(node.op, aligned, node.attributes);
};

/**
 * Operators of one input whose attributes name axes: every axis is one further back.
 *
 * @param names attributes that hold an axis, or a list of axes, counted from the front
 */
export function shiftAxes(...names: string[]): BatchRule {
  return (inputs, { node }) => applyAll(node.op, inputs, shifted(node.attributes, names));
}

/** The same for operators whose inputs must all have the batch axis. */
export function shiftAxesOfAll(...names: string[]): BatchRule {
  return (inputs, { node, full }) =>
    applyAll(
      node.op,
      inputs.map((_, i) => full(i)),
      shifted(node.attributes, names),
    );
}

function shifted(attributes: Attributes, names: readonly string[]): Attributes {
  const moved = names.map((name) => {
    const axes = attributes[name] as number | readonly number[];
    return [name, typeof axes === 'number' ? axes + 1 : axes.map((axis) => axis + 1)];
  });
  return { ...attributes, ...Object.fromEntries(moved) };
}
