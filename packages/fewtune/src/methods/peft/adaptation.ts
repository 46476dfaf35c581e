import type { HostTensor, Named, Tensor } from '@fewtune/engine';
import { type Encoder, heldTensors, isQuantized, type LinearFn } from '@fewtune/models';
import type { z } from 'zod';
import type { Random } from '../../data/random.js';
import { FewtuneError } from '../../errors.js';
import type { Adapter } from './adapter.js';

/** What one way of fine-tuning trains, and how the result becomes an ordinary checkpoint again. */
export interface Adaptation {
  readonly params: Named<HostTensor>;
  readonly frozen: Named<HostTensor>;
  /** The weights before training, where they are not quite those of the encoder that was given. */
  readonly base?: Named<HostTensor>;
  /** Token ids as the weights count them. */
  readonly ids: readonly (readonly number[])[];
  readonly padId: number;
  linear?(params: Named<Tensor>, frozen: Named<Tensor>): LinearFn;
  /** A factor on the learning rate of a weight; 1 when left out. */
  lrScale?(name: string): number;
  /** All weights of the encoder, with what was trained in place. */
  merge(trained: Named<HostTensor>): Record<string, HostTensor>;
  /** What was trained as an adapter over the encoder as it is; absent where PEFT has no such kind. */
  adapter?(trained: Named<HostTensor>): Adapter;
}

/** Makes an encoder ready for training on some sentences. */
export type Adapt = (
  encoder: Pick<Encoder, 'config' | 'weights' | 'tokenizer'>,
  ids: readonly (readonly number[])[],
  random: Random,
  threads?: number,
) => Adaptation | Promise<Adaptation>;

/** A way of fine-tuning with its own options, apart from how long and on what it is trained. */
export interface AdaptationKind<Schema extends z.ZodType> {
  readonly schema: Schema;
  adapt(options: z.output<Schema>): Adapt;
}

/**
 * Options with their defaults filled in.
 *
 * @throws FewtuneError OPTION_INVALID naming each option that is wrong, and all there are
 */
export function parseAdaptation<Schema extends z.ZodType>(name: string, schema: Schema, given: unknown) {
  const found = schema.safeParse(given);
  if (found.success) return found.data;
  const wrong = found.error.issues.map(({ path, message }) => [path.join('.'), message].filter(Boolean).join(': '));
  const known = Object.entries(schema.parse({}) as object).map(([option, value]) => `${option}=${value}`);
  const all = known.length > 0 ? `Its options, with their defaults: ${known.join(', ')}.` : 'It has no options.';
  throw new FewtuneError('OPTION_INVALID', `${name}: ${wrong.join('; ')}. ${all}`, { cause: found.error });
}

/** Nothing that is trained here reads the pooler: it would only be carried along. */
export function withoutPooler(weights: Named<HostTensor>): Record<string, HostTensor> {
  return Object.fromEntries(Object.entries(weights).filter(([name]) => !name.startsWith('pooler.')));
}

/**
 * Frozen weights of a training step in the form that they are held in. Quantised ones are inputs of the program: as its
 * constants the runtime would turn them into float32 once for good.
 */
export function heldFrozen(frozen: Named<HostTensor>): { frozen: Named<HostTensor>; packFrozen?: false } {
  const quantized = Object.values(frozen).some(isQuantized);
  return { frozen: heldTensors(frozen), ...(quantized && { packFrozen: false as const }) };
}

/** Biases and norms do not decay, as is usual for transformers; nor do lengths and factors that are not near 0. */
export const decays = (name: string): boolean =>
  !/bias$|LayerNorm|layer_norm|magnitude_vector$|ia3_l$|vera_lambda/.test(name);
