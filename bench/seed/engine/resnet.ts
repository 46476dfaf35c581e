import {
  add,
  batchNorm,
  constantRate,
  conv,
  crossEntropy,
  globalAveragePool,
  type HostTensor,
  hostTensor,
  linear,
  type Named,
  relu,
  sgd,
  type Tensor,
  trainStep,
} from '@fewtune/engine';
import { type Contender, timeEach } from '../../lib/contender.js';
import { contest } from '../../lib/contest.js';
import { threads } from '../../lib/machine.js';
import { pythonRival } from '../../lib/peers.js';
import { normals } from '../../lib/statistics.js';
import { type Convolution, forwardProduct, inputProduct, productsContender, weightProduct } from './matrix-products.js';
import type { Part } from './part.js';

const classes = 10;
const side = 32;
const widths = [64, 128, 256, 512];

/**
 * A step of ResNet-18 in its shape for 32 × 32 pixels (a 3 × 3 stem, no pooling after it), batch 32, SGD with momentum,
 * batch normalisation by the statistics of the batch. He et al. 2015, arXiv:1512.03385.
 */
export const resnet: Part = {
  name: 'resnet',
  async run({ quick, python, torch }) {
    const batch = quick ? 4 : 32;
    const peer = { name: `${torch} eager`, kind: 'step', target: '<= 1.2x peer', args: { batch } };
    return contest({
      what: `ResNet-18 step, 32 × 32, batch ${batch}`,
      ours: await ourStep(batch),
      products: { contender: await productsContender(products(batch), { threads }), target: null },
      rivals: [pythonRival(python, 'torch_resnet.py', peer)],
      rounds: quick ? 2 : 5,
      runs: 2,
    });
  },
};

/** One convolution with its normalisation. */
interface Layer {
  readonly name: string;
  readonly from: number;
  readonly to: number;
  readonly kernel: number;
  readonly stride: number;
  /** Side of the output. */
  readonly side: number;
}

interface Block {
  readonly first: Layer;
  readonly second: Layer;
  readonly shortcut?: Layer;
}

const stem: Layer = { name: 'stem', from: 3, to: 64, kernel: 3, stride: 1, side };

/** Four stages of two blocks; a stage halves the sides and doubles the channels. */
const blocks: readonly Block[] = widths.flatMap((to, stage) =>
  [0, 1].map((block): Block => {
    const halved = stage > 0 && block === 0;
    const from = halved ? widths[stage - 1]! : to;
    const common = { to, side: side / 2 ** stage };
    const name = `stage${stage}.${block}`;
    return {
      first: { ...common, name: `${name}.first`, from, kernel: 3, stride: halved ? 2 : 1 },
      second: { ...common, name: `${name}.second`, from: to, kernel: 3, stride: 1 },
      ...(halved ? { shortcut: { ...common, name: `${name}.shortcut`, from, kernel: 1, stride: 2 } } : {}),
    };
  }),
);

const layers: readonly Layer[] = [
  stem,
  ...blocks.flatMap(({ first, second, shortcut }) => [first, second, ...(shortcut ? [shortcut] : [])]),
];

function resnet18(params: Named<Tensor>, images: Tensor): Tensor {
  const convolve = (x: Tensor, { name, kernel, stride }: Layer) => {
    const y = conv(x, params[`${name}.conv.weight`]!, undefined, { stride, padding: (kernel - 1) / 2 });
    return batchNorm(y, params[`${name}.norm.weight`]!, params[`${name}.norm.bias`]!).y;
  };
  let x = relu(convolve(images, stem));
  for (const { first, second, shortcut } of blocks) {
    const inner = convolve(relu(convolve(x, first)), second);
    x = relu(add(inner, shortcut ? convolve(x, shortcut) : x));
  }
  return linear(globalAveragePool(x), params['head.weight']!, params['head.bias']!);
}

function startWeights(): Record<string, HostTensor> {
  const weights: Record<string, HostTensor> = {};
  for (const [seed, { name, from, to, kernel }] of layers.entries()) {
    const inputs = from * kernel * kernel;
    const drawn = normals(to * inputs, seed, Math.sqrt(2 / inputs));
    weights[`${name}.conv.weight`] = hostTensor('float32', [to, from, kernel, kernel], drawn);
    weights[`${name}.norm.weight`] = hostTensor('float32', [to], new Float32Array(to).fill(1));
    weights[`${name}.norm.bias`] = hostTensor('float32', [to], new Float32Array(to));
  }
  weights['head.weight'] = hostTensor('float32', [classes, 512], normals(classes * 512, 99, 0.05));
  weights['head.bias'] = hostTensor('float32', [classes], new Float32Array(classes));
  return weights;
}

async function ourStep(batch: number): Promise<Contender> {
  const step = await trainStep({
    params: startWeights(),
    batch: {
      images: { dtype: 'float32', shape: [batch, 3, side, side] },
      labels: { dtype: 'int64', shape: [batch] },
    },
    loss: (params, { batch: { images, labels } }) => crossEntropy(resnet18(params, images), labels),
    optimizer: sgd({ momentum: 0.9 }),
    schedule: constantRate(0.01),
    threads,
    planMemory: true,
  });
  const given = {
    images: hostTensor('float32', [batch, 3, side, side], normals(batch * 3 * side * side, 1)),
    labels: hostTensor(
      'int64',
      [batch],
      Array.from({ length: batch }, (_, row) => row % classes),
    ),
  };
  return { name: 'Fewtune', time: (count) => timeEach(count, () => step.run(given)), close: () => step.dispose() };
}

/** Forward, inputs and weights of every convolution; the stem's input needs no gradient. */
const products = (batch: number) =>
  layers.flatMap((layer) => {
    const { from, to, kernel, side } = layer;
    const convolution: Convolution = { batch, from, to, window: kernel * kernel, places: side * side };
    return [
      forwardProduct(convolution),
      ...(layer === stem ? [] : [inputProduct(convolution)]),
      weightProduct(convolution),
    ];
  });
