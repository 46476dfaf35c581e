import type { Op, Tensor } from '../tensor.js';
import { apply } from '../tensor.js';
import { elementwise } from './batching.js';

const stopGradientOp: Op = {
  name: 'StopGradient',
  shape: ([x]) => x!,
  emit: (_context, _node, inputs) => inputs,
  vjp: 'none',
  batch: elementwise,
};

/** The same value; no gradient passes. */
export function stopGradient(x: Tensor): Tensor {
  return apply(stopGradientOp, [x]);
}

const identityOp: Op = {
  name: 'Identity',
  acceptsBroadcastCotangent: true,
  shape: ([x]) => x!,
  emit: (_context, _node, inputs) => inputs,
  vjp: (_, dy) => [dy],
  batch: elementwise,
};

/** The same value as a tensor of its own. */
export function identity(x: Tensor): Tensor {
  return apply(identityOp, [x]);
}
