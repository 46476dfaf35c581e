import { withSource } from '../source.js';
import type { Node, Tensor } from '../tensor.js';
import { applyAll, inFloat32 } from '../tensor.js';

/**
 * The nodes on a path from known tensors to `outputs`, first first; what depends on none of them is left out.
 *
 * @param opens whether a path may lead through a node; every node when left out
 */
export function nodesBetween(
  known: { has(tensor: Tensor): boolean },
  outputs: readonly Tensor[],
  opens: (node: Node) => boolean = () => true,
): Node[] {
  const depends = new Map<Node, boolean>();
  const found: Node[] = [];
  const visited = (input: Tensor) => known.has(input) || depends.has(input.node);
  // An explicit stack: graphs are deeper than the call stack is tall.
  const stack = outputs.filter((output) => !visited(output)).map(({ node }) => node);
  while (stack.length > 0) {
    const node = stack.at(-1)!;
    const open = depends.has(node) ? [] : node.inputs.filter((input) => !visited(input));
    if (open.length > 0) {
      for (const input of open) stack.push(input.node);
      continue;
    }
    stack.pop();
    if (depends.has(node)) continue;
    const needed = opens(node) && node.inputs.some((input) => known.has(input) || depends.get(input.node));
    depends.set(node, needed);
    if (needed) found.push(node);
  }
  return found.sort((a, b) => a.id - b.id);
}

/** `outputs` computed once more with other tensors in place of some; what does not depend on those is shared. */
export function replace(outputs: readonly Tensor[], by: ReadonlyMap<Tensor, Tensor>): Tensor[] {
  const made = new Map(by);
  for (const node of nodesBetween(by, outputs)) {
    const inputs = node.inputs.map((input) => made.get(input) ?? input);
    const again = () => applyAll(node.op, inputs, node.attributes);
    const copies = withSource(node.source, () => (node.precise ? inFloat32(again) : again()), node.derived);
    for (const [i, output] of node.outputs.entries()) made.set(output, copies[i]!);
  }
  return outputs.map((output) => made.get(output) ?? output);
}
