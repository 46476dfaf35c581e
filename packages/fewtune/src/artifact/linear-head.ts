import { affineRows } from './affine-rows.js';

/** A linear classifier over features: logits = x Wᵀ + b. */
export interface LinearHead {
  /** [classes, hidden], row-major. */
  readonly weight: Float32Array;
  /** [classes] */
  readonly bias: Float32Array;
}

/** Logits [rows, classes] of features [rows, hidden]. */
export function headLogits(head: LinearHead, features: Float32Array): Float32Array {
  const classes = head.bias.length;
  const hidden = head.weight.length / classes;
  const out = new Float32Array((features.length / hidden) * classes);
  affineRows(features, head.weight, head.bias, hidden, out);
  return out;
}
