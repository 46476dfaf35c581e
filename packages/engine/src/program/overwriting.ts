/** Which values of a state a run may write over: what it reads then needs no second buffer. */
import type { OnnxNode } from '../onnx/model.js';

/** Operators that read an element of an input of their result's shape, and then write that of the result. */
const elementwise = new Set(['Add', 'Sub', 'Mul', 'Div', 'Where', 'Identity']);
/** Operators whose result may be the memory of their input, or whose work the runtime may leave to those who read it. */
const transparent = new Set(['Reshape', 'Identity', 'Unsqueeze', 'Squeeze', 'Flatten', 'Transpose', 'Cast']);
/** Operators that stop a run because of the numbers they are given, and which input those are. */
const stopping: ReadonlyMap<string, number> = new Map([
  ['Gather', 1],
  ['GatherElements', 1],
  ['GatherND', 1],
  ['OneHot', 0],
  ['ScatterElements', 1],
  ['ScatterND', 1],
]);

/**
 * Of values that a run reads and for which it makes new ones, those whose new values may take the place of the old while
 * it runs: whatever reads the old value has done so before, in any order that keeps to the graph, and nothing that is
 * still to come can stop the run and leave half a state.
 *
 * @param nodes in an order in which they could be run
 * @param pairs input and output, by the value's name
 */
export function overwritable(
  nodes: readonly OnnxNode[],
  pairs: ReadonlyMap<string, { readonly input: string; readonly output: string }>,
): string[] {
  const maker = new Map<string, number>();
  const readers = new Map<string, number[]>();
  for (const [at, { input, output }] of nodes.entries()) {
    for (const value of output) maker.set(value, at);
    for (const value of new Set(input)) readers.set(value, [...(readers.get(value) ?? []), at]);
  }
  /** The value that this one shows in another shape, if it does. */
  const root = (value: string): string => {
    const node = nodes[maker.get(value) ?? -1];
    return node && transparent.has(node.opType) ? root(node.input[0]!) : value;
  };
  /** Operators that may stop the run, by what can make them do so: where one did not, no other will. */
  const stops = new Map<string, number[]>();
  for (const [at, { opType, input }] of nodes.entries()) {
    const judged = stopping.get(opType);
    if (judged === undefined) continue;
    const numbers = root(input[judged]!);
    stops.set(numbers, [...(stops.get(numbers) ?? []), at]);
  }
  /** By number of the search, which nodes it has met. */
  const met = new Int32Array(nodes.length);
  let search = 0;

  /** Marks all nodes that must have run before this one. */
  const markBefore = (last: number) => {
    search++;
    const open = [last];
    for (let at = open.pop(); at !== undefined; at = open.pop()) {
      for (const value of nodes[at]!.input) {
        const before = maker.get(value);
        if (before === undefined || met[before] === search) continue;
        met[before] = search;
        open.push(before);
      }
    }
  };
  const readersOf = (value: string): number[] =>
    (readers.get(value) ?? []).flatMap((at) =>
      transparent.has(nodes[at]!.opType) ? [at, ...nodes[at]!.output.flatMap(readersOf)] : [at],
    );

  return [...pairs].flatMap(([name, { input, output }]) => {
    const writer = maker.get(output);
    if (writer === undefined) return [];
    markBefore(writer);
    const before = (at: number) => met[at] === search;
    const overItself = elementwise.has(nodes[writer]!.opType) && nodes[writer]!.input.includes(input);
    const done = readersOf(input).every((at) => before(at) || (at === writer && overItself));
    return done && [...stops.values()].every((alike) => alike.some(before)) ? [name] : [];
  });
}
