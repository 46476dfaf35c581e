import type { Named, Tensor, TensorSpec } from '@fewtune/engine';
import {
  type Encoder,
  encode,
  type PackedInputs,
  packedPairSpecs,
  packedSpecs,
  packingOf,
  pool,
} from '@fewtune/models';
import { prefixed, under } from '../named.js';
import type { Adaptation } from '../peft/adaptation.js';
import type { Task } from './task.js';

/** What is traced: an encoder, what is changed in it, and the head above. */
export interface TunedModel {
  readonly encoder: Pick<Encoder, 'config' | 'pooling'>;
  readonly adaptation: Pick<Adaptation, 'linear'>;
  readonly task: Pick<Task, 'reads' | 'logits'>;
  /** Layers that compute their inner values a second time in the backward pass. */
  readonly recompute?: number;
  /** Whether batches have token types, as those of pairs. */
  readonly typed?: boolean;
}

/** What a batch holds: packed sentences and their targets, `target/<name>`. */
export const batchSpecs = (task: Pick<Task, 'targetSpecs'>, typed = false): Record<string, TensorSpec> => ({
  ...(typed ? packedPairSpecs : packedSpecs),
  ...prefixed('target', task.targetSpecs),
});

export const targetsIn = (batch: Named<Tensor>): Record<string, Tensor> => under('target', batch);

/**
 * Logits of a packed batch, [batch, outputs], or [tokens, outputs] where tokens are read.
 *
 * @param params what is trained; the head's weights are in it, or among the frozen
 */
export function taskLogits(
  { encoder, adaptation, task, recompute }: TunedModel,
  params: Named<Tensor>,
  frozen: Named<Tensor>,
  batch: Named<Tensor>,
): Tensor {
  const inputs = batch as unknown as PackedInputs;
  const packing = packingOf(inputs);
  const linear = adaptation.linear?.(params, frozen);
  const weights = { ...frozen, ...params };
  const hidden = encode(encoder.config, weights, inputs, { linear, packing, recompute });
  const states =
    task.reads === 'tokens' ? packing.toTokens(hidden) : pool(hidden, inputs.attentionMask, encoder.pooling);
  return task.logits(states, weights);
}
