import {
  add,
  gelu,
  type HostTensor,
  hostTensor,
  linear,
  mul,
  type Named,
  relu,
  type Tensor,
  zeros,
} from '@fewtune/engine';
import type { LinearFn } from '@fewtune/models';
import type { Random } from '../../data/random.js';
import { uniformDown } from './lora-layer.js';
import { linearModules, namesMeant, ownOf, type Targets } from './targets.js';

/**
 * `houlsby`: after the attention's output and after the feed-forward block, each before what was there before is added
 * (Houlsby et al. 2019, section 2.1, arXiv:1902.00751). `pfeiffer`: after the feed-forward block only (Pfeiffer et al. 2021,
 * arXiv:2005.00247). `parallel`: beside the feed-forward block, from its input to its output, scaled (He et al. 2022,
 * section 3.3, arXiv:2110.04366).
 */
export const bottleneckStyles = ['houlsby', 'pfeiffer', 'parallel'] as const;
export type BottleneckStyle = (typeof bottleneckStyles)[number];

export const bottleneckActivations = ['relu', 'gelu'] as const;

/** What is no weight of it. */
export interface Bottleneck {
  readonly style: BottleneckStyle;
  readonly activation: (typeof bottleneckActivations)[number];
  /** Of what is added. */
  readonly scale: number;
}

export interface BottleneckSettings extends Pick<Bottleneck, 'style'> {
  /** Numbers in the middle. */
  readonly size: number;
  /** Which of the layers after which there may be one; `all`. */
  readonly targets: Targets;
  /** Sizes of some of them. */
  readonly sizes?: Readonly<Record<string, number>>;
}

const afterAttention = /attention\.output\.dense$|attention\.attn\.o$|attention\.out_lin$/;
const afterBlock = /(?<!attention)\.output\.dense$|ffn\.lin2$/;
const beforeBlock = /intermediate\.dense$|ffn\.lin1$/;

/**
 * Bottlenecks at their start: W_up and both biases are zero, so that each layer equals its base; W_down is uniform in
 * ±1/√in.
 *
 * @returns for each module after which one stands `<module>.adapter_down.weight` [size, in] and `.adapter_down.bias`,
 *   `<module>.adapter_up.weight` [out, size] and `.adapter_up.bias`
 * @throws FewtuneError OPTION_INVALID when a target means no such layer
 */
export function startBottleneck(
  weights: Named<HostTensor>,
  { style, size, targets, sizes = {} }: BottleneckSettings,
  random: Random,
): Record<string, HostTensor> {
  const possible = linearModules(weights).filter(
    (name) => afterBlock.test(name) || (style === 'houlsby' && afterAttention.test(name)),
  );
  const what = `bottleneck: no layer that a ${style} adapter can stand at`;
  const modules = targets === 'all' ? possible : namesMeant(targets, possible, what);
  namesMeant(Object.keys(sizes), modules, 'bottleneck: no adapted layer');
  const params: Record<string, HostTensor> = {};
  for (const module of modules) {
    const hidden = weights[`${module}.weight`]!.shape[0]!; // in and out of it are as wide as a token
    const own = ownOf(sizes, module, size);
    params[`${module}.adapter_down.weight`] = hostTensor('float32', [own, hidden], uniformDown(own, hidden, random));
    params[`${module}.adapter_down.bias`] = zeros('float32', [own]);
    params[`${module}.adapter_up.weight`] = zeros('float32', [hidden, own]);
    params[`${module}.adapter_up.bias`] = zeros('float32', [hidden]);
  }
  return params;
}

/**
 * y + s · W_up σ(W_down y + b_down) + b_up after a layer y = x Wᵀ + b; with `parallel` the bottleneck reads the input of
 * the feed-forward block instead of y. The biases of W_up are scaled too.
 *
 * @param params as of {@link startBottleneck}
 */
export function bottleneckLinear({ style, activation, scale }: Bottleneck, params: Named<Tensor>): LinearFn {
  const active = activation === 'relu' ? relu : gelu;
  const blockOf = (module: string) => /^.*\.layer\.\d+\./.exec(module)?.[0] ?? '';
  /** Inputs of feed-forward blocks, from when their first layer is traced to when their second is. */
  const inputs = new Map<string, Tensor>();
  return (x, module, weight, bias) => {
    const y = linear(x, weight, bias);
    if (style === 'parallel' && beforeBlock.test(module)) inputs.set(blockOf(module), x);
    const down = params[`${module}.adapter_down.weight`];
    if (!down) return y;
    const from = style === 'parallel' ? inputs.get(blockOf(module))! : y;
    const middle = active(linear(from, down, params[`${module}.adapter_down.bias`]));
    const up = mul(params[`${module}.adapter_up.weight`]!, scale); // small, unlike activations
    return add(y, linear(middle, up, mul(params[`${module}.adapter_up.bias`]!, scale)));
  };
}
