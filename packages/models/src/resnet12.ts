import {
  add,
  batchNorm,
  conv,
  globalAveragePool,
  type HostTensor,
  leakyRelu,
  linear,
  maxPool,
  type Named,
  reshape,
  type Tensor,
} from '@fewtune/engine';
import { filled, heWeights } from './start-weights.js';

export interface ResNet12Options {
  /** Of the images; 3 when left out. */
  readonly channels?: number;
  /** Height and width of the images; 84 when left out, as in miniImageNet. */
  readonly size?: number;
  /** Filters of the four blocks; 64, 160, 320, 640 (Lee et al. 2019) when left out. Oreshkin et al.: 64, 128, 256, 512. */
  readonly filters?: readonly [number, number, number, number];
  /** Whether the places that are left are averaged; true when left out. Lee et al. do not, and get filters × places. */
  readonly averagePool?: boolean;
  /** Outputs of the linear head; without it there is none, and `forward` returns features. */
  readonly ways?: number;
  readonly seed?: number;
}

export interface ResNet12 {
  /**
   * Named as in published checkpoints: `layer<1-4>.0.conv<1-3>.weight`, `layer<i>.0.bn<j>.weight` and `.bias`,
   * `layer<i>.0.downsample.0.weight` (1 × 1 convolution), `.downsample.1.weight` and `.bias`; `head.weight`, `head.bias`.
   */
  readonly weights: Readonly<Record<string, HostTensor>>;
  readonly headNames: readonly string[];
  /** Numbers an image becomes. */
  readonly featureSize: number;
  /** What `forward` returns a row: the ways, or the feature size where there is no head. */
  readonly outputs: number;
  /**
   * images [n, channels, size, size] → [n, featureSize]. Normalised by the statistics of `reference` (images of the same
   * kind) when given; else by those of the images themselves, so that each image's features depend on the others.
   */
  features(weights: Named<Tensor>, images: Tensor, reference?: Tensor): Tensor;
  /** images [n, channels, size, size] → logits [n, ways] */
  forward(weights: Named<Tensor>, images: Tensor, reference?: Tensor): Tensor;
}

const blocks = 4;
const slope = 0.1;

/**
 * ResNet-12, the larger backbone of few-shot learning: four residual blocks of three 3 × 3 convolutions, each with batch
 * normalisation and leaky ReLU (0.1), a 1 × 1 convolution around them, and a pooling that halves. Oreshkin et al. 2018,
 * arXiv:1805.10123; Lee et al. 2019, section 4.1, arXiv:1904.03758; their DropBlock, a regulariser of training, is left out.
 * Weights start after He et al. 2015 (arXiv:1502.01852), seeded.
 *
 * @throws RangeError when the images are too small to be halved four times
 */
export function resnet12(options: ResNet12Options = {}): ResNet12 {
  const { channels = 3, size = 84, filters = [64, 160, 320, 640], averagePool = true, ways, seed = 7 } = options;
  const side = size >> blocks; // pooling drops an odd last row
  if (side < 1)
    throw new RangeError(`resnet12: images of ${size} × ${size} cannot be halved four times; use 16 or more`);
  const featureSize = filters[3] * (averagePool ? 1 : side * side);

  const features = (weights: Named<Tensor>, images: Tensor, reference?: Tensor): Tensor => {
    let pair: Pair = { x: images, reference };
    for (let block = 1; block <= blocks; block++) pair = applyBlock(weights, `layer${block}.0`, pair);
    return averagePool ? globalAveragePool(pair.x) : reshape(pair.x, [pair.x.shape[0]!, featureSize]);
  };
  const head = (weights: Named<Tensor>, x: Tensor) =>
    ways === undefined ? x : linear(x, weights['head.weight']!, weights['head.bias']!);
  return {
    weights: startWeights([channels, ...filters], featureSize, ways, seed),
    headNames: ways === undefined ? [] : ['head.weight', 'head.bias'],
    featureSize,
    outputs: ways ?? featureSize,
    features,
    forward: (weights, images, reference) => head(weights, features(weights, images, reference)),
  };
}

/** Images, and those by whose statistics they are normalised. */
interface Pair {
  readonly x: Tensor;
  readonly reference?: Tensor;
}

/** relu(bn(conv3(relu(bn(conv2(relu(bn(conv1(x)))))))) + bn(conv1×1(x))), halved; [n, in, h, w] → [n, out, h/2, w/2]. */
function applyBlock(weights: Named<Tensor>, name: string, input: Pair): Pair {
  const normalised = (pair: Pair, convolution: string, norm: string, padding: number): Pair => {
    const [scale, bias] = [weights[`${name}.${norm}.weight`]!, weights[`${name}.${norm}.bias`]!];
    const convolved = (x: Tensor) => conv(x, weights[`${name}.${convolution}.weight`]!, undefined, { padding });
    if (!pair.reference) return { x: batchNorm(convolved(pair.x), scale, bias).y };
    const { y, statistics } = batchNorm(convolved(pair.reference), scale, bias);
    return { x: batchNorm(convolved(pair.x), scale, bias, { statistics }).y, reference: y };
  };
  const both = ({ x, reference }: Pair, change: (x: Tensor) => Tensor): Pair => ({
    x: change(x),
    ...(reference && { reference: change(reference) }),
  });
  const rectify = (pair: Pair) => both(pair, (x) => leakyRelu(x, slope));
  const first = rectify(normalised(input, 'conv1', 'bn1', 1));
  const second = rectify(normalised(first, 'conv2', 'bn2', 1));
  const third = normalised(second, 'conv3', 'bn3', 1);
  const around = normalised(input, 'downsample.0', 'downsample.1', 0);
  const joined: Pair = {
    x: add(third.x, around.x),
    ...(third.reference && { reference: add(third.reference, around.reference!) }),
  };
  return both(rectify(joined), (x) => maxPool(x, { kernel: 2 }));
}

function startWeights(
  sizes: readonly number[],
  featureSize: number,
  ways: number | undefined,
  seed: number,
): Record<string, HostTensor> {
  const he = heWeights(seed);
  const weights: Record<string, HostTensor> = {};
  const norm = (name: string, channels: number) => {
    weights[`${name}.weight`] = filled(channels, 1);
    weights[`${name}.bias`] = filled(channels, 0);
  };
  for (let block = 1; block <= blocks; block++) {
    const [from, to] = [sizes[block - 1]!, sizes[block]!];
    const name = `layer${block}.0`;
    for (const layer of [1, 2, 3]) {
      weights[`${name}.conv${layer}.weight`] = he([to, layer === 1 ? from : to, 3, 3]);
      norm(`${name}.bn${layer}`, to);
    }
    weights[`${name}.downsample.0.weight`] = he([to, from, 1, 1]);
    norm(`${name}.downsample.1`, to);
  }
  if (ways !== undefined) {
    weights['head.weight'] = he([ways, featureSize]);
    weights['head.bias'] = filled(ways, 0);
  }
  return weights;
}
