/** Convolutions over a batch of tasks: see `BatchRule` in tensor.ts. */
import type { Dim } from '../dims.js';
import { isSymbolic, product, quotient } from '../dims.js';
import { hostTensor } from '../host-tensor.js';
import type { Attributes, BatchContext, BatchRule, Tensor } from '../tensor.js';
import { apply, constant } from '../tensor.js';
import { add } from './arithmetic.js';
import { gather, pad, scatterAdd, slice } from './indexing.js';
import { matMul } from './matmul.js';
import { reshape, transpose, unsqueeze } from './shape.js';
import type { Geometry as ConvolutionGeometry, WeightGradient } from './weight-gradient.js';

type Geometry = ConvolutionGeometry & { sizes?: number[] };

/**
 * Conv and ConvTranspose of a batch. With one weight for all, the batch goes into the images. With a weight for each
 * example, and few enough to be counted, every example becomes a group of its own; a symbolic number of groups does not
 * exist, so then the convolution is written out as a matrix product of patches.
 *
 * @param inputs x [batch?, n, in, ...size], weight [batch?, ...], bias [batch?, out] if any
 * @returns      [batch, n, out, ...size']
 */
export function batchConvolution([x, w, bias]: readonly Tensor[], context: BatchContext): Tensor {
  const { node, batched, size, full } = context;
  const { group } = node.attributes as Geometry;
  const shape = node.outputs[0]!.shape;
  if (bias) {
    const plain =
      batched[0] || batched[1] ? batchConvolution([x!, w!], context) : apply(node.op, [x!, w!], node.attributes);
    const flat = [...(batched[2] ? [size] : []), 1, shape[1]!, ...shape.slice(2).map(() => 1)];
    return add(plain, reshape(bias, flat));
  }
  const [n, out, ...places] = shape as [Dim, number, ...number[]];
  const spatial = places.map((_, i) => i + 3);
  const run = (image: Tensor, weight: Tensor, groups: number) =>
    apply(node.op, [image, weight], { ...node.attributes, group: groups } as Attributes);

  if (!batched[1]) return reshape(run(mergeFirst(x!), w!, group), [size, ...shape]);
  if (isSymbolic(size)) return reshape(writtenOut(batched[0] ? x! : unsqueeze(x!, 0), w!, context), [size, ...shape]);
  if (!batched[0]) {
    // One image for all weights: their output channels stand side by side in each group.
    const y = run(x!, sideBySide(w!, group, node.op.name === 'Conv'), group);
    const parts = reshape(y, [n, group, size, out / group, ...places]);
    return reshape(transpose(parts, [2, 0, 1, 3, ...spatial.map((axis) => axis + 1)]), [size, ...shape]);
  }
  const groups = size * group;
  const channels = x!.shape[2] as number;
  const images = reshape(swapFirst(x!), [n, size * channels, ...x!.shape.slice(3)]);
  const y = run(images, mergeFirst(full(1)), groups);
  return swapFirst(reshape(y, [n, size, out, ...places]));
}

/**
 * The weight gradient of a batch: every example is a group of its own, or, of symbolically many, goes through the rules
 * of the operators it can be `composed` of.
 */
export function batchWeightGradient(composed: (x: Tensor, dy: Tensor, at: WeightGradient) => Tensor): BatchRule {
  return (inputs, { node, batched, size, full, map }) => {
    const at = node.attributes as WeightGradient;
    if (isSymbolic(size)) return map(([x, dy]) => [composed(x!, dy!, at)], inputs, batched)[0]!;
    const [x, dy] = [full(0), full(1)].map((y) => {
      const images = swapFirst(y);
      return reshape(images, [images.shape[0]!, product(images.shape.slice(1, 3)), ...images.shape.slice(3)]);
    });
    const y = apply(node.op, [x!, dy!], { ...at, group: size * at.group });
    return reshape(y, [size, ...node.outputs[0]!.shape]);
  };
}

/** Weights [batch, ...] of examples as one weight with the batch in its output channels, inside each group. */
function sideBySide(w: Tensor, group: number, outFirst: boolean): Tensor {
  const [batch, first, second, ...kernel] = w.shape as [Dim, number, number, ...number[]];
  const axes = kernel.map((_, i) => i + 4);
  if (outFirst) {
    const grouped = transpose(reshape(w, [batch, group, first / group, second, ...kernel]), [1, 0, 2, 3, ...axes]);
    return reshape(grouped, [product([batch, first]), second, ...kernel]);
  }
  const swapped = transpose(w, [1, 0, 2, ...kernel.map((_, i) => i + 3)]);
  return reshape(swapped, [first, product([batch, second]), ...kernel]);
}

/**
 * Convolution as matrix products, one a example and group.
 *
 * @param x [batch or 1, n, in, ...size]
 * @param w [batch, ...]
 * @returns [batch, n, out, ...size'] up to a reshape
 */
function writtenOut(x: Tensor, w: Tensor, { node, size: examples }: BatchContext): Tensor {
  const geometry = node.attributes as Geometry;
  const { group, padding } = geometry;
  const [batch, n, channels, ...sizes] = x.shape as [Dim, Dim, Dim, ...number[]];
  const [, out, ...results] = node.outputs[0]!.shape as [Dim, number, ...number[]];
  const kernel = node.inputs[1]!.shape.slice(2) as number[];
  const taps = product(kernel) as number;
  // In a weight gradient the images stand in the channels' place, and may be symbolically many.
  const inner = quotient(channels, group)!;
  const forward = node.op.name === 'Conv';
  // The plane that windows slide over, and the places they stop at.
  const plane = (forward ? sizes : results).map((size, i) => size + 2 * padding[i]!);
  const stops = forward ? results : sizes;
  const stopCount = product(stops) as number;
  const index = constant(hostTensor('int64', [taps * stopCount], windows(geometry, plane, kernel, stops)));
  if (forward) {
    const padded = sizes.reduce((y, _, i) => pad(y, i + 3, padding[i]!, plane[i]!), x);
    const flat = reshape(padded, [batch, n, group, inner, product(plane)]);
    const picked = gather(transpose(flat, [4, 0, 1, 2, 3]), index); // [taps * stops, batch, n, group, in / group]
    const patches = reshape(picked, [taps, stopCount, ...picked.shape.slice(1)]);
    const columns = reshape(transpose(patches, [2, 4, 5, 0, 3, 1]), [
      batch,
      group,
      product([inner, taps]),
      product([n, stopCount]),
    ]);
    const y = matMul(reshape(w, [examples, group, out / group, product([inner, taps])]), columns);
    return swapInner(reshape(y, [examples, out, n, stopCount]));
  }
  const grouped = transpose(reshape(x, [batch, n, group, inner, stopCount]), [0, 2, 3, 1, 4]);
  const rows = reshape(grouped, [batch, group, inner, product([n, stopCount])]);
  const weight = reshape(w, [examples, group, inner, (out / group) * taps]);
  const columns = matMul(weight, rows, { transposeA: true }); // [batch, group, out / group * taps, n * stops]
  const patches = transpose(reshape(columns, [examples, group, out / group, taps, n, stopCount]), [3, 5, 0, 4, 1, 2]);
  const rowsOf = reshape(patches, [taps * stopCount, ...patches.shape.slice(2)]);
  const added = scatterAdd(rowsOf, index, product(plane)); // [plane, batch, n, group, out / group]
  const flat = reshape(transpose(added, [1, 2, 3, 4, 0]), [examples, n, out, ...plane]);
  return results.reduce((y, size, i) => slice(y, i + 3, padding[i]!, padding[i]! + size), flat);
}

/** Where in the flattened plane each tap of the window at each stop lies, taps outermost. */
function windows({ strides, dilations }: Geometry, plane: number[], kernel: number[], stops: number[]): number[] {
  let places = [0];
  const extend = (along: (axis: number) => number, counts: number[], from: number[]) => {
    let all = from;
    for (const [axis, count] of counts.entries()) {
      const step = along(axis) * plane.slice(axis + 1).reduce((a, b) => a * b, 1);
      all = all.flatMap((start) => Array.from({ length: count }, (_, i) => start + i * step));
    }
    return all;
  };
  places = extend((axis) => dilations[axis]!, kernel, places);
  return extend((axis) => strides[axis]!, stops, places);
}

/** [batch, n, ...] -> [batch * n, ...] */
function mergeFirst(x: Tensor): Tensor {
  return reshape(x, [product(x.shape.slice(0, 2)), ...x.shape.slice(2)]);
}

/** The first two axes swapped; where one of them is 1 that moves nothing. */
function swapFirst(x: Tensor): Tensor {
  const [a, b, ...rest] = x.shape as [Dim, Dim, ...Dim[]];
  return a === 1 || b === 1 ? reshape(x, [b, a, ...rest]) : transpose(x, [1, 0, ...rest.map((_, i) => i + 2)]);
}

/** [a, b, c, d] -> [a, c, b, d] */
function swapInner(x: Tensor): Tensor {
  const [a, b, c, d] = x.shape as [Dim, Dim, Dim, Dim];
  return c === 1 ? reshape(x, [a, c, b, d]) : transpose(x, [0, 2, 1, 3]);
}
