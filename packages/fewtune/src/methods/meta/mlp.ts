import { type HostTensor, hostTensor, linear, relu, zeros } from '@fewtune/engine';
import { createRandom } from '../../data/random.js';
import type { MetaModel } from './meta-model.js';

export interface MlpOptions {
  readonly inputs: number;
  /** Sizes of the hidden layers, ReLU between them; none by default: a linear head, e.g. over frozen features. */
  readonly hidden?: readonly number[];
  readonly outputs: number;
  readonly seed?: number;
}

/**
 * Dense layers over rows of numbers: frozen features, table columns, windows of a series. Weights are
 * `layer<i>.weight` [out, in] and `layer<i>.bias`, the last layer `head`; they start after He et al. 2015, seeded.
 */
export function mlp({ inputs, hidden = [], outputs, seed = 7 }: MlpOptions): MetaModel {
  const random = createRandom(seed);
  const sizes = [inputs, ...hidden, outputs];
  const nameOf = (layer: number) => (layer === hidden.length ? 'head' : `layer${layer}`);
  const weights: Record<string, HostTensor> = {};
  for (let layer = 0; layer <= hidden.length; layer++) {
    const [from, to] = [sizes[layer]!, sizes[layer + 1]!];
    const deviation = Math.sqrt(2 / from);
    const values = Float32Array.from({ length: to * from }, () => random.gaussian() * deviation);
    weights[`${nameOf(layer)}.weight`] = hostTensor('float32', [to, from], values);
    weights[`${nameOf(layer)}.bias`] = zeros('float32', [to]);
  }
  return {
    weights,
    headNames: ['head.weight', 'head.bias'],
    outputs,
    rowsAlone: true,
    forward: (given, x) => {
      let y = x; // [rows, inputs]
      for (let layer = 0; layer <= hidden.length; layer++) {
        y = linear(y, given[`${nameOf(layer)}.weight`]!, given[`${nameOf(layer)}.bias`]!);
        if (layer < hidden.length) y = relu(y);
      }
      return y; // [rows, outputs]
    },
  };
}
