import { type HostTensor, hostTensor, mul, type Named, reshape, type Tensor } from '@fewtune/engine';
import { type LinearFn, product } from '@fewtune/models';
import { linearModules, namesMeant, type Targets } from './targets.js';

export interface Ia3Settings {
  /** Layers that get a factor for each of their outputs: in the paper, keys and values. */
  readonly targets: Targets;
  /** Layers that get a factor for each of their inputs: in the paper, the second of each feed-forward block. */
  readonly feedforward: Targets | 'none';
}

/**
 * Factors at their start: 1, where the layer equals its base.
 *
 * @returns `<module>.ia3_l`: [out, 1], or [1, in] in feed-forward layers
 * @throws FewtuneError OPTION_INVALID when a target means no layer
 */
export function startIa3(
  weights: Named<HostTensor>,
  { targets, feedforward }: Ia3Settings,
): Record<string, HostTensor> {
  const linears = linearModules(weights);
  const what = 'ia3: no linear layer of this encoder';
  const inputs = feedforward === 'none' ? [] : namesMeant(feedforward, linears, what);
  const outputs = namesMeant(targets, linears, what).filter((module) => !inputs.includes(module));
  const ones = (shape: number[]) => hostTensor('float32', shape, new Float32Array(shape[0]! * shape[1]!).fill(1));
  return Object.fromEntries(
    [...outputs, ...inputs].map((module) => {
      const [outer, inner] = weights[`${module}.weight`]!.shape as [number, number];
      return [`${module}.ia3_l`, ones(inputs.includes(module) ? [1, inner] : [outer, 1])];
    }),
  );
}

/**
 * (IA)³: y = l · (x Wᵀ + b), or y = (l · x) Wᵀ + b in feed-forward layers. Liu et al. 2022, section 3.3, arXiv:2205.05638.
 *
 * @param params `<module>.ia3_l` [out, 1] or [1, in]
 */
export function ia3Linear(params: Named<Tensor>): LinearFn {
  return (x, module, weight, bias) => {
    const l = params[`${module}.ia3_l`];
    if (!l) return product(x, weight, bias);
    const factors = reshape(l, [-1]);
    return l.shape[1] === 1 ? mul(product(x, weight, bias), factors) : product(mul(x, factors), weight, bias);
  };
}

/** The plain weights that scaled layers amount to. */
export function mergeIa3(weights: Named<HostTensor>, params: Named<HostTensor>): Record<string, HostTensor> {
  const merged: Record<string, HostTensor> = { ...weights };
  for (const [name, l] of Object.entries(params)) {
    if (!name.endsWith('.ia3_l')) continue;
    const module = name.slice(0, -'.ia3_l'.length);
    const { shape, data } = weights[`${module}.weight`]!;
    const inner = shape[1]!;
    const factors = l.data as Float32Array;
    const ofOutputs = l.shape[1] === 1;
    const scaled = Float32Array.from(
      data as Float32Array,
      (w, at) => w * factors[ofOutputs ? Math.floor(at / inner) : at % inner]!,
    );
    merged[`${module}.weight`] = hostTensor('float32', shape, scaled);
    const bias = weights[`${module}.bias`];
    if (bias && ofOutputs) {
      const moved = Float32Array.from(bias.data as Float32Array, (value, row) => value * factors[row]!);
      merged[`${module}.bias`] = hostTensor('float32', bias.shape, moved);
    }
  }
  return merged;
}
