import { elementCount } from '../host-tensor.js';
import { concat, split } from '../ops/indexing.js';
import type { Tensor } from '../tensor.js';

/** Above this many elements the copies cost more than the operators that are saved. */
const smallWeight = 1 << 14;

/**
 * An update rule, element by element, over many weights. Small weights that agree in kind, dtype and all sizes but the
 * first are joined, updated as one and cut apart again: an adapter or a bias is a few kilobytes, and a step with a
 * hundred of them would spend more time between operators than in them.
 *
 * @param names weights
 * @param kind  what the rule treats alike, as a string
 * @param parts the tensors of one weight (itself, its gradient, its moments), all of its shape
 * @param rule  their new values; called with a weight that stands for its group
 * @returns     the new values by weight
 */
export function updateTogether(
  names: readonly string[],
  kind: (name: string) => string,
  parts: (name: string) => readonly Tensor[],
  rule: (parts: readonly Tensor[], name: string) => readonly Tensor[],
): Map<string, readonly Tensor[]> {
  const groups = new Map<string, string[]>();
  for (const name of names) {
    const [weight] = parts(name) as [Tensor];
    const small = weight.rank > 0 && elementCount(weight.shape as number[]) <= smallWeight;
    const key = small ? [kind(name), weight.dtype, ...weight.shape.slice(1)].join() : `alone ${name}`;
    groups.set(key, [...(groups.get(key) ?? []), name]);
  }
  const updated = new Map<string, readonly Tensor[]>();
  for (const group of groups.values()) {
    const rows = group.map((name) => parts(name)[0]!.shape[0] as number);
    const columns = parts(group[0]!).map((_, i) => concatAll(group.map((name) => parts(name)[i]!)));
    const results = rule(columns, group[0]!).map((whole) => (group.length === 1 ? [whole] : split(whole, rows, 0)));
    for (const [i, name] of group.entries()) {
      updated.set(
        name,
        results.map((of) => of[i]!),
      );
    }
  }
  return updated;
}

const concatAll = (tensors: readonly Tensor[]): Tensor => (tensors.length === 1 ? tensors[0]! : concat(tensors, 0));
