import { product } from '../dims.js';
import { elementCount, hostTensor, onnxType } from '../host-tensor.js';
import type { EmitContext, Node } from '../tensor.js';

/** One number an axis. */
export interface Taps {
  readonly kernel: readonly number[];
  readonly stride: readonly number[];
  readonly before: readonly number[];
  readonly after: readonly number[];
  readonly dilation: readonly number[];
}

/** Each place of the window in turn: how far it is from the window's start, and what stands there in every window. */
function candidatesOf(context: EmitContext, node: Node, x: string, taps: Taps) {
  const out = node.outputs[0]!.shape.slice(2) as number[];
  const ints = (list: readonly number[]) => context.constant(hostTensor('int64', [list.length], list));
  const lowest = context.constant(hostTensor('float32', [], [-3.4e38]));
  const even = [...taps.before, ...taps.after].every((count) => count === 0);
  const pads = ints([0, 0, ...taps.before, 0, 0, ...taps.after]);
  const padded = even ? x : context.node('Pad', [x, pads, lowest])[0]!;
  const axes = ints(out.map((_, i) => i + 2));
  return indices(taps.kernel).map((tap) => {
    const offset = tap.map((at, i) => at * taps.dilation[i]!);
    const ends = ints(offset.map((from, i) => from + (out[i]! - 1) * taps.stride[i]! + 1));
    return { offset, value: context.node('Slice', [padded, ints(offset), ends, axes, ints(taps.stride)])[0]! };
  });
}

/** The largest elements of windows without the runtime's MaxPool, for WebGPU, whose own knows no dilation. */
export function largestOf(context: EmitContext, node: Node, x: string, taps: Taps): string {
  const values = candidatesOf(context, node, x, taps).map(({ value }) => value);
  return values.reduce((a, b) => context.node('Max', [a, b])[0]!);
}

/**
 * The places of the largest elements, for WebGPU, whose MaxPool has none: each place of the window in turn is compared
 * with the maximum, the last first, so that ties go to the first.
 */
export function placesOf(context: EmitContext, node: Node, x: string, values: string, taps: Taps): string {
  const { inputs, outputs } = node;
  const sizes = inputs[0]!.shape.slice(2) as number[];
  const out = outputs[0]!.shape.slice(2) as number[];
  const ints = (list: readonly number[]) => context.constant(hostTensor('int64', [list.length], list));
  const one = (type: string, ...names: string[]) => context.node(type, names)[0]!;
  let places: string | undefined;
  for (const { offset, value } of candidatesOf(context, node, x, taps).reverse()) {
    // Where this place of each window lies in the image without its padding.
    const flat = indices(out).map((window) =>
      window.reduce((index, w, i) => index * sizes[i]! + w * taps.stride[i]! + offset[i]! - taps.before[i]!, 0),
    );
    const here = context.constant(hostTensor('int32', [1, 1, ...out], flat));
    places = places === undefined ? here : one('Where', one('Equal', value, values), here, places);
  }
  const image = context.constant(hostTensor('int32', [], [elementCount(sizes)]));
  const number = (value: number) => context.constant(hostTensor('int32', [], [value]));
  const [images] = context.node('Reshape', [context.dim(product(inputs[0]!.shape.slice(0, 2))), ints([])]);
  const [count] = context.node('Cast', [images!], { to: onnxType.int32 });
  const starts = one('Mul', one('Range', number(0), count!, number(1)), image);
  const shaped = one('Reshape', starts, context.shape([...inputs[0]!.shape.slice(0, 2), ...out.map(() => 1)]));
  return context.node('Cast', [one('Add', places!, shaped)], { to: onnxType.int64 })[0]!;
}

/** All index tuples below `sizes`, the last running fastest. */
function indices(sizes: readonly number[]): number[][] {
  return sizes.reduce<number[][]>(
    (all, size) => all.flatMap((head) => Array.from({ length: size }, (_, i) => [...head, i])),
    [[]],
  );
}
