import { z } from 'zod';
import { FewtuneError } from '../../errors.js';
import { logisticRow } from '../linear/logistic-row.js';
import type { Method } from '../method.js';
import { type Adapt, estimateFineTune, fineTune, fineTuneFields } from './fine-tune.js';
import { initLora, loraLinear, loraTargets, mergeLora } from './lora-layer.js';

const schema = z.strictObject({
  ...fineTuneFields(5e-4),
  rank: z.number().int().positive().default(8),
  /** The update is scaled by alpha / rank. */
  alpha: z.number().positive().default(16),
  /** Which linear layers are adapted: the last part of their names, or `all-linear`. */
  targets: z.union([z.literal('all-linear'), z.array(z.string()).min(1)]).default('all-linear'),
});

export type LoraMethodOptions = z.infer<typeof schema>;

const adaptWith =
  ({ rank, alpha, targets }: LoraMethodOptions): Adapt =>
  ({ weights, tokenizer }, ids, random) => {
    const modules = loraTargets(weights, targets);
    if (modules.length === 0) {
      const known = new Set(loraTargets(weights, 'all-linear').map((module) => module.split('.').slice(-2).join('.')));
      throw new FewtuneError(
        'OPTION_INVALID',
        `lora: no linear layer of this encoder is named ${JSON.stringify(targets)}; it has ${[...known].join(', ')}.`,
      );
    }
    const scale = alpha / rank;
    return {
      params: initLora(weights, modules, rank, random),
      frozen: weights,
      ids,
      padId: tokenizer.padId,
      linear: (params) => loraLinear(params, scale),
      merge: (trained) => mergeLora(weights, trained, scale),
    };
  };

/** Fine-tuning of low-rank updates to the encoder's linear layers; the rest stays as it is. */
export const lora: Method<LoraMethodOptions> = {
  name: 'lora',
  schema,
  defaults: schema.parse({}),
  classRow: logisticRow,
  fit: (data, options, context) => fineTune(data, options, context, adaptWith(options)),
  estimateSeconds: (data, options, context) => estimateFineTune(data, options, context, 2),
};
