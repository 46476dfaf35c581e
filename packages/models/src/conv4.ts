import {
  add,
  batchNorm,
  constant,
  conv,
  div,
  elementCount,
  type HostTensor,
  hostTensor,
  linear,
  matMul,
  maxPool,
  mean,
  mul,
  type Named,
  relu,
  reshape,
  sizeOf,
  sqrt,
  sub,
  sum,
  type Tensor,
  transpose,
} from '@fewtune/engine';
import { filled, heWeights } from './start-weights.js';

export interface Conv4Options {
  /** Of the images; 1 (grey) when left out. */
  readonly channels?: number;
  /** Height and width of the images; 28 when left out, as in the Omniglot protocol. */
  readonly size?: number;
  /** Filters of each block; 64 when left out. */
  readonly filters?: number;
  /**
   * How a block halves its image: pooling after the convolution (Vinyals et al. 2016), or a convolution that steps by
   * two, as MAML's own Omniglot network (Finn et al. 2017, section 5.2). `max-pool` when left out.
   */
  readonly variant?: Conv4Variant;
  /** Outputs of the linear head; without it there is none, and `forward` returns features. */
  readonly ways?: number;
  readonly seed?: number;
}

export type Conv4Variant = 'max-pool' | 'stride-2';

/**
 * A batch normalisation in place of a model's own.
 *
 * @param name of the layer, e.g. `norm0`
 * @param x [batch, channels, ...]; scale and bias [channels]
 */
export type Normalise = (name: string, x: Tensor, scale: Tensor, bias: Tensor) => Tensor;

export interface Conv4 {
  /** `conv<i>.weight` [filters, in, 3, 3], `conv<i>.bias`, `norm<i>.weight`, `norm<i>.bias` [filters]; `head.weight`, `head.bias`. */
  readonly weights: Readonly<Record<string, HostTensor>>;
  readonly headNames: readonly string[];
  /** Its batch normalisations. */
  readonly normNames: readonly string[];
  /** Numbers an image becomes: filters × the places that are left after four halvings. */
  readonly featureSize: number;
  /** What `forward` returns a row: the ways, or the feature size where there is no head. */
  readonly outputs: number;
  /**
   * images [n, channels, size, size] → [n, featureSize]. Normalised by the statistics of `reference` (images of the same
   * kind) when given; else by those of the images themselves, so that each image's features depend on the others. A
   * function normalises as it will.
   */
  features(weights: Named<Tensor>, images: Tensor, reference?: Tensor | Normalise): Tensor;
  /** images [n, channels, size, size] → logits [n, ways] */
  forward(weights: Named<Tensor>, images: Tensor, reference?: Tensor | Normalise): Tensor;
}

const blocks = 4;

/**
 * Conv4, the small backbone of few-shot learning: four times 3 × 3 convolution, batch normalisation, ReLU, and a halving.
 * Vinyals et al. 2016, section 4.1, arXiv:1606.04080. Weights start after He et al. 2015 (arXiv:1502.01852), seeded.
 *
 * @throws RangeError when the images are too small to be halved four times
 */
export function conv4(options: Conv4Options = {}): Conv4 {
  const { channels = 1, size = 28, filters = 64, variant = 'max-pool', ways, seed = 7 } = options;
  const side = sideAfter(size, variant);
  if (side < 1) throw new RangeError(`conv4: images of ${size} × ${size} cannot be halved four times; use 16 or more`);
  const featureSize = filters * side * side;

  const features = (weights: Named<Tensor>, images: Tensor, reference?: Tensor | Normalise): Tensor => {
    let x = images;
    let other = typeof reference === 'function' ? undefined : reference;
    const normalise = typeof reference === 'function' ? reference : undefined;
    for (let block = 0; block < blocks; block++) [x, other] = applyBlock(weights, block, variant, x, other, normalise);
    return reshape(x, [x.shape[0]!, featureSize]);
  };
  const head = (weights: Named<Tensor>, x: Tensor) =>
    ways === undefined ? x : linear(x, weights['head.weight']!, weights['head.bias']!);
  return {
    weights: startWeights({ channels, filters, featureSize, ways, seed }),
    headNames: ways === undefined ? [] : ['head.weight', 'head.bias'],
    normNames: Array.from({ length: blocks }, (_, block) => `norm${block}`),
    featureSize,
    outputs: ways ?? featureSize,
    features,
    forward: (weights, images, reference) => head(weights, features(weights, images, reference)),
  };
}

/** Both image batches [n, in, h, w] through one block, normalised by the statistics of `reference` if there is one. */
function applyBlock(
  weights: Named<Tensor>,
  block: number,
  variant: Conv4Variant,
  images: Tensor,
  reference?: Tensor,
  normalise?: Normalise,
): [Tensor, Tensor | undefined] {
  const stride = variant === 'stride-2' ? 2 : 1;
  const convolved = (x: Tensor) =>
    conv(x, weights[`conv${block}.weight`]!, weights[`conv${block}.bias`]!, { padding: 1, stride });
  const [scale, bias] = [weights[`norm${block}.weight`]!, weights[`norm${block}.bias`]!];
  const rest = (x: Tensor) => (variant === 'stride-2' ? relu(x) : maxPool(relu(x), { kernel: 2 }));
  if (!normalise && block === 0 && fewInputs(weights)) {
    const layer = { weight: weights['conv0.weight']!, scale, bias, stride };
    const normalised = normalisedConvolution(layer, reference ?? images);
    return [rest(normalised(images)), reference && rest(normalised(reference))];
  }
  if (normalise) return [rest(normalise(`norm${block}`, convolved(images), scale, bias)), undefined];
  if (!reference) return [rest(batchNorm(convolved(images), scale, bias).y), undefined];
  const { y, statistics } = batchNorm(convolved(reference), scale, bias);
  return [rest(batchNorm(convolved(images), scale, bias, { statistics }).y), rest(y)];
}

/** Whether a window of the first layer holds fewer numbers than it has filters, by far. */
const fewInputs = ({ 'conv0.weight': weight }: Named<Tensor>): boolean =>
  elementCount((weight!.shape as number[]).slice(1)) * 4 <= Number(weight!.shape[0]);

interface FirstLayer {
  /** [filters, channels, 3, 3] */
  readonly weight: Tensor;
  readonly scale: Tensor;
  readonly bias: Tensor;
  readonly stride: number;
}

/**
 * Convolution and batch normalisation as one convolution. Its outputs are products of the filters with windows of the
 * image, so their means and variances follow from those of the windows: W μ and diag(W Σ Wᵀ). The 64 large output maps are
 * then passed over once, and never differentiated through their statistics; Σ is 9 × 9 and, for the same images, the
 * same in every inner step of MAML. The convolution's own bias would be taken off again, so it is left out.
 *
 * @param reference the images [n, channels, h, w] whose statistics count
 */
function normalisedConvolution({ weight, scale, bias, stride }: FirstLayer, reference: Tensor) {
  const [filters, channels] = weight.shape as [number, number];
  const numbers = channels * 9;
  const windows = conv(reference, constant(identityFilters(channels)), undefined, { padding: 1, stride });
  const rows = reshape(transpose(windows, [1, 0, 2, 3]), [numbers, -1]); // [numbers, places]
  const centre = mean(rows, { axes: [1], keepDims: true });
  const away = sub(rows, centre);
  const covariance = div(matMul(away, away, { transposeB: true }), sizeOf([away.shape[1]!]));
  const w = reshape(weight, [filters, numbers]);
  const variance = sum(mul(matMul(w, covariance), w), { axes: [1] }); // [filters]
  const slope = div(scale, sqrt(add(variance, epsilon)));
  const offset = sub(bias, mul(reshape(matMul(w, centre), [filters]), slope));
  const scaled = mul(weight, reshape(slope, [filters, 1, 1, 1]));
  return (images: Tensor): Tensor => conv(images, scaled, offset, { padding: 1, stride });
}

/** As of `batchNorm`. */
const epsilon = 1e-5;

/** Filters [channels · 9, channels, 3, 3] that each pick one number of the window. */
function identityFilters(channels: number): HostTensor {
  const numbers = channels * 9;
  const values = new Float32Array(numbers * numbers);
  for (let i = 0; i < numbers; i++) values[i * numbers + i] = 1;
  return hostTensor('float32', [numbers, channels, 3, 3], values);
}

/** Pooling drops an odd last row, a padded convolution that steps by two keeps it. */
function sideAfter(size: number, variant: Conv4Variant): number {
  let side = size;
  for (let block = 0; block < blocks; block++) side = variant === 'stride-2' ? Math.ceil(side / 2) : side >> 1;
  return side;
}

interface StartOptions {
  readonly channels: number;
  readonly filters: number;
  readonly featureSize: number;
  readonly ways: number | undefined;
  readonly seed: number;
}

function startWeights({ channels, filters, featureSize, ways, seed }: StartOptions): Record<string, HostTensor> {
  const he = heWeights(seed);
  const weights: Record<string, HostTensor> = {};
  for (let block = 0; block < blocks; block++) {
    weights[`conv${block}.weight`] = he([filters, block === 0 ? channels : filters, 3, 3]);
    weights[`conv${block}.bias`] = filled(filters, 0);
    weights[`norm${block}.weight`] = filled(filters, 1);
    weights[`norm${block}.bias`] = filled(filters, 0);
  }
  if (ways !== undefined) {
    weights['head.weight'] = he([ways, featureSize]);
    weights['head.bias'] = filled(ways, 0);
  }
  return weights;
}
