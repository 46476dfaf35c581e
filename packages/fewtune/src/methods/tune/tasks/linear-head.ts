import { type HostTensor, hostTensor, linear, type Named, type Tensor, zeros } from '@fewtune/engine';
import type { Random } from '../../../data/random.js';

/** One linear layer at its start: weights normal with deviation 0.02, as BERT's own head begins, biases 0. */
export function linearHead(outputs: number, hidden: number, random: Random): Record<string, HostTensor> {
  const weight = Float32Array.from({ length: outputs * hidden }, () => 0.02 * random.gaussian());
  return {
    'classifier.weight': hostTensor('float32', [outputs, hidden], weight),
    'classifier.bias': zeros('float32', [outputs]),
  };
}

/** states [rows, hidden] -> [rows, outputs] */
export const linearLogits = (states: Tensor, head: Named<Tensor>): Tensor =>
  linear(states, head['classifier.weight']!, head['classifier.bias']);
