import type { HostTensor, Named } from '@fewtune/engine';
import type { Encoder } from '@fewtune/models';
import type { LoraOptions } from '../peft/lora-layer.js';
import type { BilevelOptions } from './task-loss.js';

/** Everything besides weights that decides how a text classifier is adapted. */
export interface TextMamlSettings extends LoraOptions, Pick<BilevelOptions, 'variant' | 'innerLr' | 'innerSteps'> {
  /** Of the logits: the inverse temperature of the cosine between a sentence and its prototype. */
  readonly scale: number;
}

/** Where MAML over an encoder's LoRA weights begins. */
export interface TextMamlStart {
  /** Without what was learned. */
  readonly encoder: Encoder;
  /** LoRA weights, and learned rates under `rate/`. */
  readonly params: Named<HostTensor>;
  readonly settings: TextMamlSettings;
}
