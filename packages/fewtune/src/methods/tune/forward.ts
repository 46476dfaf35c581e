import type { HostTensor, Named, Tensor, TensorSpec } from '@fewtune/engine';
import {
  type Encoder,
  encodeUpper,
  encodeWith,
  type PackedInputs,
  packBatch,
  packedPairSpecs,
  packedSpecs,
  packingOf,
  packPairs,
  pool,
} from '@fewtune/models';
import { prefixed, under } from '../named.js';
import type { Adaptation } from '../peft/adaptation.js';
import type { Tokenised } from './examples.js';
import type { Task } from './task.js';

/** What is traced: an encoder, what is changed in it, and the head above. */
export interface TunedModel {
  readonly encoder: Pick<Encoder, 'config' | 'pooling' | 'hidden' | 'addition'>;
  readonly adaptation: Pick<Adaptation, 'linear' | 'hooks'>;
  readonly task: Pick<Task, 'reads' | 'logits'>;
  /** Layers that compute their inner values a second time in the backward pass. */
  readonly recompute?: number;
  /** Whether batches have token types, as those of pairs. */
  readonly typed?: boolean;
  /** Batches hold the states after so many layers instead of tokens; 0 when left out. */
  readonly from?: number;
}

/** What a batch of tokens holds. */
export const tokenSpecs = (typed = false) => (typed ? packedPairSpecs : packedSpecs);

/** Tokens of a batch, packed. */
export const packTokens = ({ ids, types }: Tokenised, padId: number): Record<keyof PackedInputs, HostTensor> =>
  types
    ? packPairs(
        ids.map((row, i) => ({ ids: row, types: types[i]! })),
        padId,
      )
    : packBatch(ids, padId);

/** What a batch holds: packed sentences and their targets, `target/<name>`. */
export function batchSpecs({
  encoder,
  task,
  typed,
  from = 0,
}: Pick<TunedModel, 'encoder' | 'typed' | 'from'> & { readonly task: Pick<Task, 'targetSpecs'> }): Record<
  string,
  TensorSpec
> {
  const targets = prefixed('target', task.targetSpecs);
  if (from === 0) return { ...tokenSpecs(typed), ...targets };
  const { inputIds: _, ...layout } = packedSpecs;
  return { states: { dtype: 'float32', shape: ['tokens', encoder.hidden] }, ...layout, ...targets };
}

export const targetsIn = (batch: Named<Tensor>): Record<string, Tensor> => under('target', batch);

/**
 * Logits of a packed batch, [batch, outputs], or [tokens, outputs] where tokens are read.
 *
 * @param params what is trained; the head's weights are in it, or among the frozen
 */
export function taskLogits(
  { encoder, adaptation, task, recompute, from = 0 }: TunedModel,
  params: Named<Tensor>,
  frozen: Named<Tensor>,
  batch: Named<Tensor>,
): Tensor {
  const inputs = batch as unknown as PackedInputs & { readonly states: Tensor };
  const packing = packingOf(inputs);
  const weights = { ...frozen, ...params };
  const [linear, hooks] = [adaptation.linear?.(params, frozen), adaptation.hooks?.(params, frozen)];
  const options = { linear, hooks, packing, recompute };
  const hidden =
    from > 0
      ? encodeUpper(encoder.config, weights, inputs, from, options)
      : encodeWith(encoder, weights, inputs, options);
  const states =
    task.reads === 'tokens' ? packing.toTokens(hidden) : pool(hidden, inputs.attentionMask, encoder.pooling);
  return task.logits(states, weights);
}
