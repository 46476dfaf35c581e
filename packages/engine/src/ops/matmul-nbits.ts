/** Products with a weight of 4 or 8 bits in blocks, held packed: ONNX Runtime's MatMulNBits. */
import { isSymbolic, showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import type { HostTensor } from '../host-tensor.js';
import { hostTensor } from '../host-tensor.js';
import type { EmitContext, Node, Op, Tensor } from '../tensor.js';
import { apply, constant } from '../tensor.js';
import { customVjp } from '../transforms/custom-vjp.js';
import { add, expand } from './arithmetic.js';
import { cast } from './compare.js';
import { startAfter, viewAfter } from './control.js';
import { slice } from './indexing.js';
import { linear, matMul } from './matmul.js';
import { dequantize } from './quantize.js';
import { reshape } from './shape.js';

/** A quantised weight [out, in], traced or on the host. */
export interface NBitsWeight<T = Tensor> {
  /** uint8 [out, blocks, bytes a block]: with 4 bits the even element of a pair is in the lower half of the byte. */
  readonly packed: T;
  /** float32 [out, blocks] */
  readonly scales: T;
  /** uint8 [out, ⌈blocks · bits / 8⌉], packed likewise; the middle (8 or 128) when left out. */
  readonly zeroPoints?: T;
  readonly bits: 4 | 8;
}

/**
 * Quantises a weight in blocks along its rows, each with a scale, and a zero point unless `symmetric`, as MatMulNBits reads it:
 * value ≈ scale · (q − zero point).
 *
 * @param weight    float32 [out, in]
 * @param blockSize a power of two from 16 on; 32 when left out
 * @throws EngineError ARGUMENT_INVALID
 * @example
 * const { packed, scales, zeroPoints, bits } = quantizeNBits(weight, { bits: 4 });
 */
export function quantizeNBits(
  weight: HostTensor,
  { bits = 4, blockSize = 32, symmetric = false }: { bits?: 4 | 8; blockSize?: number; symmetric?: boolean } = {},
): NBitsWeight<HostTensor> & { readonly zeroPoints?: HostTensor } {
  const [rows, columns] = weight.shape as [number, number];
  if (weight.dtype !== 'float32' || weight.shape.length !== 2) {
    throw new EngineError(
      'ARGUMENT_INVALID',
      `quantizeNBits takes float32 [out, in], not ${weight.dtype} ${showShape(weight.shape)}`,
    );
  }
  if (!(blockSize >= 16 && Number.isInteger(Math.log2(blockSize))) || (bits !== 4 && bits !== 8)) {
    throw new EngineError(
      'ARGUMENT_INVALID',
      `quantizeNBits: ${bits} bits in blocks of ${blockSize}; use 4 or 8 and a power of two from 16 on`,
    );
  }
  const data = weight.data as Float32Array;
  const [blocks, highest, middle, perByte] = [Math.ceil(columns / blockSize), 2 ** bits - 1, 2 ** (bits - 1), 8 / bits];
  const packed = new Uint8Array((rows * blocks * blockSize) / perByte);
  const scales = new Float32Array(rows * blocks);
  const rowBytes = Math.ceil(blocks / perByte);
  const zeroPoints = new Uint8Array(rows * rowBytes);
  const put = (bytes: Uint8Array, start: number, i: number, value: number) => {
    const at = start + Math.floor(i / perByte);
    bytes[at] = bytes[at]! | (value << (bits * (i % perByte)));
  };
  for (let row = 0; row < rows; row++) {
    for (let block = 0; block < blocks; block++) {
      const [start, end] = [block * blockSize, Math.min((block + 1) * blockSize, columns)];
      const part = data.subarray(row * columns + start, row * columns + end);
      // Zero lies inside the range, so that it is exact.
      let [low, high] = [0, 0];
      for (const value of part) {
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
      const scale = Math.fround(
        symmetric ? Math.max(-low / middle, high / (middle - 1)) || 1 : (high - low) / highest || 1,
      );
      const zero = symmetric ? middle : Math.min(Math.max(Math.round(-low / scale), 0), highest);
      scales[row * blocks + block] = scale;
      if (!symmetric) put(zeroPoints, row * rowBytes, block, zero);
      const target = ((row * blocks + block) * blockSize) / perByte;
      for (let i = 0; i < blockSize; i++) {
        const q = i < part.length ? Math.round(part[i]! / scale) + zero : zero;
        put(packed, target, i, Math.min(Math.max(q, 0), highest));
      }
    }
  }
  return {
    packed: hostTensor('uint8', [rows, blocks, blockSize / perByte], packed),
    scales: hostTensor('float32', [rows, blocks], scales),
    ...(symmetric ? {} : { zeroPoints: hostTensor('uint8', [rows, rowBytes], zeroPoints) }),
    bits,
  };
}

type Layout = { bits: 4 | 8; inputs: number };

/** uint8 [..., n] -> uint8 [..., 2 n] */
const unpackHalvesOp: Op = {
  name: 'UnpackHalves',
  shape: ([bytes]) => ({
    dtype: 'uint8',
    shape: [...bytes!.shape.slice(0, -1), (bytes!.shape.at(-1) as number) * 2],
  }),
  emit: (context, node, [bytes]) => {
    const byte = (value: number) => context.constant(hostTensor('uint8', [], [value]));
    const last = context.constant(hostTensor('int64', [1], [-1]));
    const halves = [
      context.node('BitwiseAnd', [bytes!, byte(15)]),
      context.node('BitShift', [bytes!, byte(4)], { direction: 'RIGHT' }),
    ].map(([half]) => context.node('Unsqueeze', [half!, last])[0]!);
    const [pairs] = context.node('Concat', halves, { axis: -1 });
    return context.node('Reshape', [pairs!, context.shape(node.outputs[0]!.shape)]);
  },
  vjp: 'none',
  batch: ([bytes]) => apply(unpackHalvesOp, [bytes!]),
};

/** The whole numbers that are packed in bytes, uint8 [..., n] -> uint8 [..., n · 8 / bits]. */
export function unpackNBits(bytes: Tensor, bits: 4 | 8): Tensor {
  return bits === 8 ? bytes : apply(unpackHalvesOp, [bytes]);
}

/**
 * A quantised weight in plain operators, or some rows of one, e.g. gathered from a table.
 *
 * @param weight packed [..., blocks, bytes], scales [..., blocks], zero points likewise if any
 * @param inputs how many values of a row are meant; the last block may hold more
 * @returns      float32 [..., inputs]
 */
export function dequantizeNBits({ packed, scales, zeroPoints, bits }: NBitsWeight, inputs: number): Tensor {
  const [blocks, bytes] = packed.shape.slice(-2) as [number, number];
  const block = (bytes * 8) / bits;
  const zero = zeroPoints
    ? slice(unpackNBits(zeroPoints, bits), -1, 0, blocks)
    : expand(constant(hostTensor('uint8', [], [2 ** (bits - 1)])), scales.shape);
  // A block a row: the scales are then along one axis, and DequantizeLinear needs no other copy of the weight.
  const inRows = (x: Tensor, width: number) => reshape(x, [-1, width]);
  const values = dequantize(inRows(unpackNBits(packed, bits), block), inRows(scales, 1), inRows(zero, 1));
  const flat = reshape(values, [...packed.shape.slice(0, -2), blocks * block]);
  return inputs === blocks * block ? flat : slice(flat, -1, 0, inputs);
}

/** The weight of a node in plain operators, [out, inputs]. */
const writtenOut = ([packed, scales, zeroPoints]: readonly Tensor[], { bits, inputs }: Layout): Tensor =>
  dequantizeNBits({ packed: packed!, scales: scales!, zeroPoints, bits }, inputs);

/** The product in standard operators: `dequantizeNBits` as ONNX nodes, and a matrix product. */
function emitPortable(context: EmitContext, node: Node, [x, packed, scales, zeroPoints]: readonly string[]): string[] {
  const { bits, inputs } = node.attributes as Layout;
  const [rows, blocks, bytes] = node.inputs[1]!.shape as [number, number, number];
  const block = (bytes * 8) / bits;
  const whole = (...values: number[]) => context.constant(hostTensor('int64', [values.length], values));
  const real = (value: number) => context.constant(hostTensor('float32', [], [value]));
  const node1 = (type: string, from: readonly string[], attributes?: Readonly<Record<string, number>>) =>
    context.node(type, from, attributes)[0]!;
  const unpacked = (name: string, shape: number[]) => {
    const float = node1('Cast', [name], { to: 1 });
    if (bits === 8) return float;
    const upper = node1('Floor', [node1('Mul', [float, real(1 / 16)])]);
    const lower = node1('Sub', [float, node1('Mul', [upper, real(16)])]);
    const halves = [lower, upper].map((half) => node1('Unsqueeze', [half, whole(-1)]));
    return node1('Reshape', [node1('Concat', halves, { axis: -1 }), whole(...shape)]);
  };
  const cut = (name: string, end: number) => node1('Slice', [name, whole(0), whole(end), whole(1)]);
  const zero = zeroPoints
    ? node1('Unsqueeze', [cut(unpacked(zeroPoints, [rows, -1]), blocks), whole(-1)])
    : real(2 ** (bits - 1));
  const moved = node1('Sub', [unpacked(packed!, [rows, blocks, block]), zero]);
  const scaled = node1('Mul', [moved, node1('Unsqueeze', [scales!, whole(-1)])]);
  const weight = cut(node1('Reshape', [scaled, whole(rows, blocks * block)]), inputs);
  return context.node('MatMul', [x!, context.node('Transpose', [weight], { perm: [1, 0] })[0]!]);
}

const matMulNBitsOp: Op = {
  name: 'MatMulNBits',
  /** x [..., in], packed [out, blocks, bytes], scales [out, blocks], zero points if any -> [..., out] */
  shape: ([x, packed]) => ({ dtype: x!.dtype, shape: [...x!.shape.slice(0, -1), packed!.shape[0]!] }),
  emit: (context, node, inputs) => {
    if (context.portable) return emitPortable(context, node, inputs);
    const { bits, inputs: k } = node.attributes as Layout;
    const [n, , bytes] = node.inputs[1]!.shape as [number, number, number];
    const attributes = { K: k, N: n, bits, block_size: (bytes * 8) / bits };
    return context.node('MatMulNBits', inputs, attributes, { domain: 'com.microsoft' });
  },
  // y = x Wᵀ  =>  dx = dy W, W frozen. It is written out when dy is there: before, all layers' would stand at once.
  vjp: ([, packed, scales, ...zero], dy, { attributes }) => [
    matMul(dy, writtenOut([packed!, startAfter(scales!, dy), ...zero], attributes as Layout)),
    undefined,
    undefined,
    ...zero.map(() => undefined),
  ],
  batch: ([x, ...weight], { node, batched, map }) => {
    if (batched.slice(1).every((one) => !one)) return apply(matMulNBitsOp, [x!, ...weight], node.attributes);
    // A weight for each example has no kernel.
    const plain = ([one, ...parts]: readonly Tensor[]) => [
      matMul(one!, writtenOut(parts, node.attributes as Layout), { transposeB: true }),
    ];
    return map(plain, [x!, ...weight], batched) as readonly Tensor[];
  },
};

/**
 * A dense layer with a quantised weight, y = x Wᵀ + b. The weight is frozen: x and the bias get their gradients. In a
 * portable file, and in float64, the weight is written out in plain operators.
 *
 * @param x      [..., in]
 * @param weight as `quantizeNBits` packs it, traced
 * @param bias   [out]
 * @throws EngineError SHAPE_MISMATCH
 */
export function linearNBits(x: Tensor, { packed, scales, zeroPoints, bits }: NBitsWeight, bias?: Tensor): Tensor {
  const inputs = x.shape.at(-1);
  const [, blocks, bytes] = packed.shape;
  const block = ((bytes as number) * 8) / bits;
  const fits =
    packed.rank === 3 &&
    inputs !== undefined &&
    !isSymbolic(inputs) &&
    Math.ceil(inputs / block) === blocks &&
    scales.rank === 2 &&
    scales.shape[0] === packed.shape[0] &&
    scales.shape[1] === blocks;
  if (!fits) {
    throw new EngineError(
      'SHAPE_MISMATCH',
      `linearNBits: ${showShape(x.shape)} does not fit a weight packed as ${showShape(packed.shape)} with scales ${showShape(scales.shape)}`,
    );
  }
  const weight = [packed, scales, ...(zeroPoints ? [zeroPoints] : [])];
  const y =
    x.dtype === 'float32'
      ? apply(matMulNBitsOp, [x, ...weight], { bits, inputs })
      : matMul(x, cast(writtenOut(weight, { bits, inputs }), x.dtype), { transposeB: true });
  return bias ? add(y, bias) : y;
}

/**
 * A dense layer y = x Wᵀ + b whose frozen weight is written out from the parts that it is held in, anew for each of both
 * passes and not before its turn: kept from one to the other, the weights of all layers would stand at once. Nor is it made
 * when the program is opened, should the parts be constants. x and b get their gradients.
 *
 * @param x     [..., in]
 * @param write the weight [out, in] from the parts
 * @param bias  [out]
 */
export function linearWritten(
  x: Tensor,
  parts: readonly Tensor[],
  write: (parts: readonly Tensor[]) => Tensor,
  bias?: Tensor,
): Tensor {
  const after = (when: Tensor, [first, ...rest]: readonly Tensor[]) => write([viewAfter(first!, when), ...rest]);
  const layer = customVjp(
    (given: Tensor, ...held: Tensor[]) => linear(given, after(given, held)),
    ([, ...held], dy) => [matMul(dy, after(dy, held)), ...held.map(() => undefined)],
  );
  const y = layer(x, ...parts);
  return bias ? add(y, bias) : y;
}

/** The parts of a host weight as constants of the graph. */
export function constantNBits({ packed, scales, zeroPoints, bits }: NBitsWeight<HostTensor>): NBitsWeight {
  return {
    packed: constant(packed),
    scales: constant(scales),
    ...(zeroPoints ? { zeroPoints: constant(zeroPoints) } : {}),
    bits,
  };
}
