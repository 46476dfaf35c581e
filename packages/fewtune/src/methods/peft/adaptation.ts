import type { HostTensor, Named, Tensor } from '@fewtune/engine';
import {
  type Addition,
  type EncodeHooks,
  type Encoder,
  heldTensors,
  isQuantized,
  type LinearFn,
} from '@fewtune/models';
import type { z } from 'zod';
import type { Random } from '../../data/random.js';
import { FewtuneError } from '../../errors.js';
import type { Adapter } from './adapter.js';
import { withAddition } from './additions.js';
import { ofPooler } from './targets.js';

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
  /** What is put between layers, and before each sentence. */
  hooks?(params: Named<Tensor>, frozen: Named<Tensor>): EncodeHooks;
  /** A factor on the learning rate of a weight; 1 when left out. */
  lrScale?(name: string): number;
  /** All weights of the encoder, with what was trained in place: merged, or, where there is an addition, among them. */
  merge(trained: Named<HostTensor>): Record<string, HostTensor>;
  /** What was trained as an adapter over the encoder as it is; absent where PEFT has no such kind. */
  adapter?(trained: Named<HostTensor>): Adapter;
  /** What is computed along with the encoder's own layers, where what was trained cannot be merged into their weights. */
  readonly addition?: Addition;
}

/**
 * An encoder with what was trained in place. Its fingerprint is still that of the base.
 *
 * @param weights of `adaptation.merge`
 */
export function tunedEncoder<E extends Encoder>(encoder: E, { addition }: Adaptation, weights: Named<HostTensor>): E {
  const tuned = { ...encoder, weights };
  return addition ? withAddition(tuned, addition, weights) : tuned;
}

/**
 * What is trained stands on an encoder's own layers.
 *
 * @throws FewtuneError MODEL_UNSUPPORTED for an encoder with an addition
 */
export function refuseAddition({ id, addition }: Pick<Encoder, 'id' | 'addition'>): void {
  if (!addition) return;
  throw new FewtuneError(
    'MODEL_UNSUPPORTED',
    `${id} has an adapter that is computed along with it (${addition.id}); train on the encoder it was made of.`,
  );
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
  return Object.fromEntries(Object.entries(weights).filter(([name]) => !ofPooler(name)));
}

/**
 * Frozen weights of a training step in the form that they are held in. Quantised ones are inputs of the program: as its
 * constants the runtime would turn them into float32 once for good.
 */
export function heldFrozen(frozen: Named<HostTensor>): { frozen: Named<HostTensor>; packFrozen?: false } {
  const quantized = Object.values(frozen).some(isQuantized);
  return { frozen: heldTensors(frozen), ...(quantized && { packFrozen: false as const }) };
}

/** Biases and norms do not decay, as is usual for transformers; nor do lengths, factors that are not near 0, states. */
export const decays = (name: string): boolean =>
  !/bias$|LayerNorm|layer_norm|magnitude_vector$|ia3_l$|vera_lambda|reft_|lora_E$|prompt_embeddings$|^prefix\./.test(
    name,
  );
