import { EngineError } from '../errors.js';
import { float16Max, float16MinNormal } from '../float16.js';
import type { DType, HostTensor } from '../host-tensor.js';
import { convertFloat, elementCount } from '../host-tensor.js';
import { cast, isFloat } from '../ops/compare.js';
import { identity, viewAfter } from '../ops/control.js';
import { withSource } from '../source.js';
import type { Node, Tensor, TensorFunction } from '../tensor.js';
import { applyAll, constant, constantValue, isPlaceholder, scalar } from '../tensor.js';
import type { Tree } from '../tree.js';
import { mapTree } from '../tree.js';
import { customVjp } from './custom-vjp.js';
import { isTensor, reached } from './grad.js';

type Half = 'float16' | 'float32';

/** Which float dtype is used for what. The names are those of DeepMind's jmp. */
export interface Precision {
  /** Matrix products and convolutions, and what follows them. */
  readonly compute: Half;
  /** How frozen weights are stored; they are cast where they are used. Trained weights are always float32. */
  readonly weight: Half;
  /** Float results. */
  readonly output: Half;
}

/** Everything that is fast in float16 runs in it; weights, losses and results stay float32. */
export const float16Compute: Precision = { compute: 'float16', weight: 'float32', output: 'float32' };
/** Computes in float32 with frozen weights of half the size: what half precision is good for on a CPU. */
export const float16Storage: Precision = { compute: 'float32', weight: 'float16', output: 'float32' };

/** Products, run in the compute dtype: their sums are long, and this is where the time goes. */
const products = new Set(['MatMul', 'Gemm', 'Conv', 'ConvTranspose', 'ConvWeightGradient']);

/**
 * Runs in the dtype of what it is given, and in float32 where that is mixed. Scalar constants take the other operand's dtype.
 * Every operator that is neither here nor a product runs in float32: softmax, normalisations, sums and products over axes,
 * exponentials, logarithms, powers, square roots, interpolation, quantisation.
 */
const passive = new Set([
  ...['Identity', 'StopGradient', 'StartAfter', 'ViewAfter', 'Cast'],
  ...['Add', 'Sub', 'Mul', 'Div', 'Neg', 'Abs', 'Sign', 'Round', 'Floor', 'Ceil', 'Max', 'Min', 'Where', 'IsNaN'],
  ...['Equal', 'Greater', 'GreaterOrEqual', 'Less', 'LessOrEqual', 'Not', 'And', 'Or', 'Xor', 'BitwiseXor'],
  ...['Relu', 'Sigmoid', 'Tanh', 'Gelu', 'GeluTanh', 'MaxPool', 'ReduceMax', 'TopK', 'ArgMax', 'Trilu'],
  ...[
    'Expand',
    'RepeatEach',
    'Reshape',
    'Transpose',
    'MirrorWeight',
    'Slice',
    'Pad',
    'Concat',
    'Split',
    'Range',
    'Size',
  ],
  ...['Gather', 'GatherElements', 'GatherND', 'MoveRows'],
]);

/** Operators that may take a constant beyond float16's range at its largest number: masks of attention scores. */
const saturating = new Set(['Where', 'Max', 'Min']);

/**
 * The function under a precision policy, as `torch.autocast` would run it. The function is written for float32 and need not
 * know of it; what is wrapped in `inFloat32` is left alone. float16 arguments appear to it as float32, and are cast where
 * they are used. Its gradient is taken of the rewritten function, so that the backward pass follows the same policy.
 *
 * @example
 * const half = withPrecision((x) => relu(linear(x, w, b)), float16Compute);
 */
export function withPrecision<Args extends unknown[], R extends Tree<Tensor>>(
  fn: (...args: Args) => R,
  policy: Precision,
): (...args: Args) => R {
  checkPrecision(policy);
  return (...args) => {
    const start = scalar(0).node.id; // whatever is younger belongs to the function
    const given = new Map<Tensor, Tensor>();
    const seen = (value: unknown): unknown => {
      if (isTensor(value)) return viewed(value, given);
      if (Array.isArray(value)) return value.map(seen);
      if (value === null || typeof value !== 'object' || Object.getPrototypeOf(value) !== Object.prototype)
        return value;
      return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, seen(part)]));
    };
    const result = fn(...(args.map(seen) as Args));
    const rewriter = new Rewriter(policy, start, given);
    return mapTree<Tensor, Tensor>(result, isTensor, (tensor) => {
      const value = rewriter.value(tensor);
      return isFloat(value.dtype) && value.dtype !== 'float64' ? rewriter.as(value, policy.output) : value;
    }) as R;
  };
}

/** A value as the function sees it. */
function viewed(value: Tensor, given: Map<Tensor, Tensor>): Tensor {
  const view = value.dtype === 'float16' ? cast(value, 'float32') : identity(value);
  given.set(view, value);
  return view;
}

/** A function inside a rule, with results in whatever dtype they are computed. */
const lowered =
  (fn: TensorFunction, policy: Precision): TensorFunction =>
  (inputs) => {
    const start = scalar(0).node.id;
    const given = new Map<Tensor, Tensor>();
    const results = fn(inputs.map((input) => viewed(input, given)));
    const rewriter = new Rewriter(policy, start, given);
    return results.map((result) => result && rewriter.value(result));
  };

class Rewriter {
  /** Values whose dtype is nobody's wish: scalar constants, and what is made of nothing else. */
  private readonly weak = new Set<Tensor>();
  private readonly casts = new Map<Tensor, Tensor>();

  constructor(
    private readonly policy: Precision,
    private readonly start: number,
    private readonly made: Map<Tensor, Tensor>,
  ) {}

  /** What takes the place of a traced value. */
  value(root: Tensor): Tensor {
    const own = ({ node }: Tensor) => node.id > this.start;
    const nodes = new Set<Node>();
    const stack = [root];
    while (stack.length > 0) {
      const tensor = stack.pop()!;
      if (this.made.has(tensor) || !own(tensor) || nodes.has(tensor.node)) continue;
      nodes.add(tensor.node);
      stack.push(...tensor.node.inputs);
    }
    for (const node of [...nodes].sort((a, b) => a.id - b.id)) {
      const outputs = this.rewrite(node);
      for (const [i, output] of node.outputs.entries()) this.made.set(output, outputs[i]!);
    }
    return this.made.get(root) ?? root;
  }

  /** A float in another float dtype. */
  as(tensor: Tensor, dtype: DType): Tensor {
    if (tensor.dtype === dtype || !isFloat(tensor.dtype)) return tensor;
    const value = constantValue(tensor);
    if (value && elementCount(value.shape) === 1) return constant(saturated(value, dtype));
    const known = this.casts.get(tensor);
    if (known?.dtype === dtype) return known;
    // There and back: float32 holds every float16.
    const source = tensor.node.op.name === 'Cast' ? tensor.node.inputs[0]! : undefined;
    const result = source?.dtype === dtype && dtype === 'float16' ? source : cast(tensor, dtype);
    this.casts.set(tensor, result);
    return result;
  }

  private rewrite(node: Node): readonly Tensor[] {
    if (isPlaceholder(node)) return node.outputs;
    const [first] = node.outputs;
    const value = constantValue(first!);
    if (value) {
      if (isFloat(value.dtype) && elementCount(value.shape) === 1) this.weak.add(first!);
      return node.outputs;
    }
    const before = node.inputs.map((input) => this.made.get(input) ?? input);
    if (node.op.lower && !node.precise) {
      return applyAll(
        node.op.lower((fn) => lowered(fn, this.policy)),
        before,
        node.attributes,
      );
    }
    const inputs = this.cast(node, before);
    const stored = products.has(node.op.name) && !node.precise && this.policy.compute === 'float32';
    const outputs = withSource(
      node.source,
      () =>
        stored && before.some(isStored)
          ? [productOfStored(node, before)]
          : inputs.every((input, i) => input === node.inputs[i])
            ? node.outputs
            : applyAll(node.op, inputs, node.attributes),
      node.derived,
    );
    const floats = inputs.filter(({ dtype }) => isFloat(dtype));
    const fromBool = node.op.name === 'Cast' && inputs[0]!.dtype === 'bool';
    const weak =
      floats.length > 0 ? floats.every((input) => this.weak.has(input)) : fromBool || node.op.name === 'Size';
    if (weak && isFloat(outputs[0]!.dtype) && passive.has(node.op.name)) this.weak.add(outputs[0]!);
    return outputs;
  }

  /** The inputs in the dtype the operator runs in. */
  private cast({ op, precise }: Node, inputs: readonly Tensor[]): readonly Tensor[] {
    if (inputs.some(({ dtype }) => dtype === 'float64') || op.name === 'Cast') return inputs;
    if (precise) return inputs.map((input) => this.as(input, 'float32'));
    if (products.has(op.name)) return inputs.map((input) => this.as(input, this.policy.compute));
    if (!passive.has(op.name)) return inputs.map((input) => this.as(input, 'float32'));
    const floats = inputs.filter(({ dtype }) => isFloat(dtype));
    const yields = (input: Tensor) => this.weak.has(input) && (fits(input) || saturating.has(op.name));
    const half = floats.some(({ dtype }) => dtype === 'float16');
    const mixed = floats.some((input) => input.dtype === 'float32' && !yields(input));
    return half ? inputs.map((input) => this.as(input, mixed ? 'float32' : 'float16')) : inputs;
  }
}

/** A constant that float16 holds; others keep their operation in float32. Values made of constants are not looked into. */
function fits(tensor: Tensor): boolean {
  const value = constantValue(tensor);
  if (!value || value.dtype === 'float16') return true;
  const size = Math.abs(Number(value.data[0]));
  return size === 0 || (size <= float16Max && size >= float16MinNormal) || Number.isNaN(size) || size === Infinity;
}

function saturated(value: HostTensor, dtype: DType): HostTensor {
  const number = Number(value.data[0]);
  if (dtype !== 'float16' || value.dtype === 'float16' || !Number.isFinite(number)) return convertFloat(value, dtype);
  const held = Math.max(-float16Max, Math.min(float16Max, number));
  return convertFloat({ ...value, data: Float32Array.of(held) }, dtype);
}

const isStored = ({ dtype, shape }: Tensor) =>
  dtype === 'float16' && shape.length > 0 && shape.every((size) => typeof size === 'number');

/**
 * A product with weights stored in float16. They are cast when their turn comes, in the backward pass once more, so that no
 * two of them stand in memory in float32 together.
 */
function productOfStored({ op, attributes }: Node, inputs: readonly Tensor[]): Tensor {
  const activation = inputs.find((input) => !isStored(input) && input.rank > 0);
  const product = (...given: readonly Tensor[]) =>
    applyAll(
      op,
      given.map((input) => cast(input, 'float32')),
      attributes,
    )[0]!;
  const backward = (given: readonly Tensor[], cotangent: Tensor) => {
    const fresh = given.map((input) => (isStored(input) ? viewAfter(input, cotangent) : identity(input)));
    const wrt = fresh.filter((input) => !isStored(input));
    const found = reached([product(...fresh)], [cotangent], wrt);
    return fresh.map((input) => (isStored(input) ? undefined : found[wrt.indexOf(input)]));
  };
  const forward = (...given: readonly Tensor[]) =>
    product(...given.map((input) => (isStored(input) && activation ? viewAfter(input, activation) : input)));
  return customVjp(forward, backward)(...inputs);
}

/** @throws EngineError ARGUMENT_INVALID */
function checkPrecision(policy: Precision): void {
  for (const part of ['compute', 'weight', 'output'] as const) {
    if (policy[part] === 'float16' || policy[part] === 'float32') continue;
    throw new EngineError('ARGUMENT_INVALID', `precision: ${part} is float16 or float32, not ${policy[part]}`);
  }
}
