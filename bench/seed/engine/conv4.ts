import {
  add,
  batchNorm,
  conv,
  crossEntropy,
  grad,
  type HostTensor,
  hostTensor,
  linear,
  maxPool,
  mul,
  type Named,
  relu,
  reshape,
  sub,
  type Tensor,
} from '@fewtune/engine';
import { normals } from '../../lib/statistics.js';

export const channels = 64;
export const blocks = 4;

/** Start weights of Conv4 for images of one channel, 28 × 28: the last block leaves one place of 64 channels. */
export function conv4Weights(ways: number): Record<string, HostTensor> {
  const weights: Record<string, HostTensor> = {};
  const drawn = (name: string, shape: number[], fanIn: number) => {
    const count = shape.reduce((product, size) => product * size, 1);
    weights[name] = hostTensor('float32', shape, normals(count, Object.keys(weights).length, Math.sqrt(2 / fanIn)));
  };
  const filled = (name: string, size: number, value: number) => {
    weights[name] = hostTensor('float32', [size], new Float32Array(size).fill(value));
  };
  for (let block = 0; block < blocks; block++) {
    const from = block === 0 ? 1 : channels;
    drawn(`conv${block}.weight`, [channels, from, 3, 3], from * 9);
    filled(`conv${block}.bias`, channels, 0);
    filled(`norm${block}.weight`, channels, 1);
    filled(`norm${block}.bias`, channels, 0);
  }
  drawn('head.weight', [ways, channels], channels);
  filled('head.bias', ways, 0);
  return weights;
}

/** Conv4: four times convolution, batch normalisation, ReLU, pooling. Vinyals et al. 2016, arXiv:1606.04080. */
function conv4(params: Named<Tensor>, images: Tensor): Tensor {
  let x = images; // [n, 1, 28, 28]
  for (let block = 0; block < blocks; block++) {
    x = conv(x, params[`conv${block}.weight`]!, params[`conv${block}.bias`]!, { padding: 1 });
    x = batchNorm(x, params[`norm${block}.weight`]!, params[`norm${block}.bias`]!).y;
    x = maxPool(relu(x), { kernel: 2 });
  }
  return linear(reshape(x, [x.shape[0]!, channels]), params['head.weight']!, params['head.bias']!);
}

export interface Task {
  readonly supportImages: Tensor;
  readonly supportLabels: Tensor;
  readonly queryImages: Tensor;
  readonly queryLabels: Tensor;
}

/** Outer loss of one task. MAML: Finn et al. 2017, algorithm 2, arXiv:1703.03400. */
export function mamlLoss(params: Named<Tensor>, task: Task, { steps, lr }: { steps: number; lr: number }): Tensor {
  const inner = (fast: Named<Tensor>) => crossEntropy(conv4(fast, task.supportImages), task.supportLabels);
  let fast = params;
  for (let step = 0; step < steps; step++) {
    const gradient = grad(inner)(fast);
    fast = Object.fromEntries(Object.entries(fast).map(([name, p]) => [name, sub(p, mul(gradient[name]!, lr))]));
  }
  return crossEntropy(conv4(fast, task.queryImages), task.queryLabels);
}

/** Mean of the tasks' losses. */
export const meanLoss = (losses: readonly Tensor[]): Tensor =>
  mul(
    losses.reduce((a, b) => add(a, b)),
    1 / losses.length,
  );
