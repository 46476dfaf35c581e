import { z } from 'zod';
import { logisticRow } from '../linear/logistic-row.js';
import type { Method } from '../method.js';
import type { AdaptationKind } from './adaptation.js';
import { addedAdaptation } from './added-adaptation.js';
import { savedField } from './fields.js';
import { estimateFineTune, fineTune, fineTuneFields } from './fine-tune.js';
import { savedWeights } from './targets.js';
import { promptHooks, startPrompt, tableName, virtualField, wholeField } from './virtual-tokens.js';

const fields = { virtualTokens: virtualField, modulesToSave: savedField };
const ownSchema = z.strictObject(fields);
const schema = z.strictObject({ ...fineTuneFields(1e-2), interpolation: wholeField, ...fields });

export type PromptOptions = z.infer<typeof schema>;

/** Learned words before every sentence. */
export const promptKind: AdaptationKind<typeof ownSchema> = {
  schema: ownSchema,
  adapt:
    ({ virtualTokens, modulesToSave }) =>
    (encoder, ids, random) =>
      addedAdaptation(encoder, ids, {
        params: { [tableName]: startPrompt(encoder.weights, virtualTokens, random) },
        saved: modulesToSave === 'none' ? {} : savedWeights(encoder.weights, modulesToSave, [], 'prompt'),
        functions: (params) => ({ hooks: promptHooks(params[tableName]!) }),
        adapter: (weights) => ({ method: 'prompt', weights }),
      }),
};

/** Prompt tuning: what is trained is what stands before a sentence. */
export const prompt: Method<PromptOptions> = {
  name: 'prompt',
  schema,
  defaults: schema.parse({}),
  classRow: logisticRow,
  fit: (data, options, context) => fineTune(data, options, context, promptKind.adapt(options)),
  estimateSeconds: (data, options, context) => estimateFineTune(data, options, context, 3),
};
