import { showShape } from '../dims.js';
import { EngineError } from '../errors.js';
import type { Op, Tensor } from '../tensor.js';
import { apply, applyAll } from '../tensor.js';
import { add, div, mul, sub, sum, sumTo } from './arithmetic.js';
import { normalizeAxis } from './broadcast.js';
import { maximum } from './compare.js';
import { exp, sqrt } from './elementwise.js';
import { mean } from './reduce.js';

const softmaxOp: Op = {
  name: 'Softmax',
  shape: ([x]) => x!,
  // dx = y ∘ (dy − Σ dy∘y)
  vjp: (_, dy, { outputs: [y], attributes }) => {
    const weighted = mul(dy, y!);
    return [sub(weighted, mul(y!, sum(weighted, { axes: [attributes.axis as number], keepDims: true })))];
  },
};

export function softmax(x: Tensor, axis = -1): Tensor {
  return apply(softmaxOp, [x], { axis: normalizeAxis('softmax', axis, x.rank) });
}

const logSoftmaxOp: Op = {
  name: 'LogSoftmax',
  shape: ([x]) => x!,
  // dx = dy − softmax(x) Σ dy
  vjp: (_, dy, { outputs: [y], attributes }) => [
    sub(dy, mul(exp(y!), sum(dy, { axes: [attributes.axis as number], keepDims: true }))),
  ],
};

export function logSoftmax(x: Tensor, axis = -1): Tensor {
  return apply(logSoftmaxOp, [x], { axis: normalizeAxis('logSoftmax', axis, x.rank) });
}

/** Layer normalisation with its mean and inverse deviation as second and third output, as ONNX has it (opset 17). */
const layerNormOp: Op = {
  name: 'LayerNormalization',
  shape: ([x, scale, bias]) => {
    for (const [what, part] of [
      ['scale', scale],
      ['bias', bias],
    ] as const) {
      if (part!.rank !== 1 || part!.shape[0] !== x!.shape.at(-1)) {
        throw new EngineError(
          'SHAPE_MISMATCH',
          `layerNorm: ${what} ${showShape(part!.shape)} does not fit the last axis of ${showShape(x!.shape)}`,
        );
      }
    }
    const statistics = { dtype: x!.dtype, shape: [...x!.shape.slice(0, -1), 1] };
    return [{ dtype: x!.dtype, shape: x!.shape }, statistics, statistics];
  },
  emit: (context, node, inputs) => {
    const epsilon = node.attributes.epsilon as number;
    return context.node('LayerNormalization', inputs, { axis: -1, epsilon }, { outputs: 3 });
  },
  vjp: ([x, scale, bias], _, { outputs: [y, average, inverse], cotangents: [dy, dAverage, dInverse] }) => {
    const axes = [-1];
    const centred = sub(x!, average!);
    const normal = mul(centred, inverse!);
    let dx: Tensor | undefined;
    if (dy) {
      // With g = scale ∘ dy: dx = inverse (g − mean(g) − normal mean(g ∘ normal)).
      const g = mul(dy, scale!);
      const meanG = mean(g, { axes, keepDims: true });
      const projection = mean(mul(g, normal), { axes, keepDims: true });
      dx = mul(sub(sub(g, meanG), mul(normal, projection)), inverse!);
    }
    // The statistics have cotangents of their own under second order: they appear in the rule above.
    if (dAverage) {
      const part = mul(dAverage, 1 / (x!.shape.at(-1) as number));
      dx = dx ? add(dx, part) : part;
    }
    if (dInverse) {
      // d(var + ε)^(-1/2)/dx = −inverse³ centred / n
      const cube = mul(inverse!, mul(inverse!, inverse!));
      const part = mul(mul(dInverse, cube), mul(centred, -1 / (x!.shape.at(-1) as number)));
      dx = dx ? add(dx, part) : part;
    }
    return [dx, dy && sumTo(mul(dy, normal), scale!.shape, y!.shape), dy && sumTo(dy, bias!.shape, y!.shape)];
  },
};

/**
 * Layer normalisation over the last axis (Ba et al. 2016, arXiv:1607.06450).
 *
 * @param x     [..., n]; n must be a number
 * @param scale [n]
 * @param bias  [n]
 */
export function layerNorm(x: Tensor, scale: Tensor, bias: Tensor, epsilon = 1e-5): Tensor {
  // ONNX's operator keeps its statistics in float32: other precisions are written out.
  if (x.dtype === 'float32') return applyAll(layerNormOp, [x, scale, bias], { epsilon })[0]!;
  const centred = sub(x, mean(x, { axes: [-1], keepDims: true }));
  const variance = mean(mul(centred, centred), { axes: [-1], keepDims: true });
  return add(mul(div(centred, sqrt(add(variance, epsilon))), scale), bias);
}

/** Rows scaled to length 1: x / max(‖x‖₂, epsilon) over the last axis. */
export function l2Normalize(x: Tensor, epsilon = 1e-12): Tensor {
  const squared = sum(mul(x, x), { axes: [-1], keepDims: true });
  return div(x, maximum(sqrt(maximum(squared, epsilon * epsilon)), epsilon));
}
