import type { HostTensor, Named, Tensor } from '@fewtune/engine';
import {
  type Addition,
  createTokenizer,
  type EncodeHooks,
  type Encoder,
  type LinearFn,
  readEncoderConfig,
} from '@fewtune/models';
import { FewtuneError } from '../../errors.js';
import type { AdapterParts } from './adapter-parts.js';
import { type Bottleneck, bottleneckLinear } from './bottleneck-layer.js';
import { layersOf, type ReftPositions, reftHooks } from './reft-layer.js';
import { prefixHooks, promptHooks, tableName } from './virtual-tokens.js';

/**
 * Bottlenecks after or beside layers: `weights` holds, for each module that one stands at, `<module>.adapter_down.weight`
 * [size, in], `.adapter_down.bias`, `.adapter_up.weight` [out, size] and `.adapter_up.bias`. PEFT has no such kind.
 */
export interface BottleneckAdapter extends AdapterParts, Bottleneck {
  readonly method: 'bottleneck';
}

/** LoReFT: `<layer>.reft_R` [r, hidden] with orthonormal rows, `.reft_W` [r, hidden], `.reft_b` [r]. PEFT has no such kind. */
export interface ReftAdapter extends AdapterParts {
  readonly method: 'loreft';
  readonly positions: ReftPositions;
}

/** Prefix tuning: `prompt_embeddings` [virtual, layers · 2 · hidden], keys then values of each layer. */
export interface PrefixAdapter extends AdapterParts {
  readonly method: 'prefix';
  readonly layers: number;
  readonly heads: number;
}

/** Prompt tuning: `prompt_embeddings` [virtual, hidden]. */
export interface PromptAdapter extends AdapterParts {
  readonly method: 'prompt';
}

/** An adapter that cannot be merged into an encoder's weights: it is computed along with them. */
export type AddedAdapter = BottleneckAdapter | ReftAdapter | PrefixAdapter | PromptAdapter;

const addedMethods: ReadonlySet<string> = new Set(['bottleneck', 'loreft', 'prefix', 'prompt']);

export const isAdded = <A extends { readonly method: string }>(adapter: A): adapter is A & AddedAdapter =>
  addedMethods.has(adapter.method);

/** What `encode` takes to compute with an adapter, whose weights are `params`. */
export function addedFunctions(
  adapter: AddedAdapter,
  params: Named<Tensor>,
): { linear?: LinearFn; hooks?: EncodeHooks } {
  switch (adapter.method) {
    case 'bottleneck':
      return { linear: bottleneckLinear(adapter, params) };
    case 'loreft':
      return { hooks: reftHooks(adapter.positions, params) };
    case 'prefix':
      return { hooks: prefixHooks(params[tableName]!, adapter.layers) };
    case 'prompt':
      return { hooks: promptHooks(params[tableName]!) };
    default:
      return adapter satisfies never;
  }
}

/** What of an adapter does not fit to an encoder's weights; undefined when all does. */
export function addedMismatch(weights: Named<HostTensor>, adapter: AddedAdapter): string | undefined {
  const hidden = weights['embeddings.LayerNorm.weight']!.shape[0]!;
  const layers = layersOf(weights);
  for (const [name, { shape }] of Object.entries(adapter.weights)) {
    const [, module, kind] = /^(.*)\.(adapter_down\.weight|adapter_up\.weight|reft_R)$/.exec(name) ?? [];
    if (kind === 'reft_R' && !layers.includes(module!))
      return `it changes the states after ${module}, which is not there`;
    if (kind?.startsWith('adapter_') && !weights[`${module}.weight`])
      return `it stands at ${module}, which is not there`;
    const width = adapter.method === 'prefix' ? 2 * adapter.layers * hidden : hidden;
    const needs = kind === 'adapter_up.weight' ? shape[0] : kind || name === tableName ? shape[1] : width;
    if (needs !== width) return `its ${name} is made for ${needs} numbers a token, there are ${width}`;
  }
  if (adapter.method === 'prefix' && adapter.layers !== layers.length) {
    return `it has keys of ${adapter.layers} layers, there are ${layers.length}`;
  }
  return undefined;
}

/** An adapter as an encoder carries it, apart from its weights. */
export function additionOf(adapter: AddedAdapter): Addition {
  const { weights, saved: _, base: __, targets: ___, ...settings } = adapter;
  const own = Object.keys(weights);
  const part = (all: Named<Tensor>) => Object.fromEntries(own.map((name) => [name, all[name]!]));
  return {
    id: JSON.stringify(settings),
    virtual: weights[tableName]?.shape[0],
    ...(adapter.method === 'bottleneck'
      ? { linear: (all: Named<Tensor>) => addedFunctions(adapter, part(all)).linear! }
      : { hooks: (all: Named<Tensor>) => addedFunctions(adapter, part(all)).hooks! }),
  };
}

/**
 * An encoder that computes an addition along with its layers. Where virtual tokens leave fewer positions to a text than
 * it may have, its tokenizer cuts it there.
 *
 * @param weights the encoder's, and the addition's
 * @throws FewtuneError MODEL_UNSUPPORTED when it has an addition already; OPTION_INVALID when no position is left
 */
export function withAddition<E extends Encoder>(encoder: E, addition: Addition, weights: Named<HostTensor>): E {
  if (encoder.addition) {
    throw new FewtuneError(
      'MODEL_UNSUPPORTED',
      `the encoder has an adapter already (${encoder.addition.id}), which is computed along with it; load it without.`,
    );
  }
  const longest = longestText(encoder.config, addition.virtual);
  const { tokenizer } = encoder;
  const cut = longest < tokenizer.maxLength;
  return {
    ...encoder,
    weights,
    addition,
    ...(cut && { tokenizer: createTokenizer(tokenizer.files, { maxLength: longest }) }),
  };
}

/**
 * Tokens that a text may have beside virtual ones, its special tokens included.
 *
 * @throws FewtuneError OPTION_INVALID
 */
export function longestText(config: Encoder['config'], virtual = 0): number {
  const { maxPositions } = readEncoderConfig(config);
  const left = maxPositions - virtual;
  if (left >= 8) return left;
  throw new FewtuneError(
    'OPTION_INVALID',
    `${virtual} virtual tokens leave ${Math.max(0, left)} of ${maxPositions} positions to a text; take fewer.`,
  );
}
