import { readEncoderConfig } from '@fewtune/models';
import { z } from 'zod';
import { logisticRow } from '../linear/logistic-row.js';
import type { Method } from '../method.js';
import type { AdaptationKind } from './adaptation.js';
import { addedAdaptation } from './added-adaptation.js';
import { savedField } from './fields.js';
import { estimateFineTune, fineTune, fineTuneFields } from './fine-tune.js';
import { savedWeights } from './targets.js';
import { finishedPrefix, prefixHooks, prefixTable, startPrefix, virtualField, wholeField } from './virtual-tokens.js';

const fields = {
  virtualTokens: virtualField,
  /** Keys and values are made by two layers of this width in the middle, which are not kept; 0 trains them as they stand. */
  projection: z.number().int().min(0).default(0),
  modulesToSave: savedField,
};
const ownSchema = z.strictObject(fields);
const schema = z.strictObject({ ...fineTuneFields(1e-2), interpolation: wholeField, ...fields });

export type PrefixOptions = z.infer<typeof schema>;

/** Learned keys and values before those of every layer. */
export const prefixKind: AdaptationKind<typeof ownSchema> = {
  schema: ownSchema,
  adapt:
    ({ virtualTokens, projection, modulesToSave }) =>
    (encoder, ids, random) => {
      const { layers, hidden, heads } = readEncoderConfig(encoder.config);
      return addedAdaptation(encoder, ids, {
        params: startPrefix({ virtual: virtualTokens, layers, hidden, projection }, random),
        saved: modulesToSave === 'none' ? {} : savedWeights(encoder.weights, modulesToSave, [], 'prefix'),
        functions: (params) => ({ hooks: prefixHooks(prefixTable(params), layers) }),
        adapter: (trained) => ({ method: 'prefix', layers, heads, weights: finishedPrefix(trained) }),
      });
    },
};

/** Prefix tuning: what is trained is what every layer's attention sees besides. */
export const prefix: Method<PrefixOptions> = {
  name: 'prefix',
  schema,
  defaults: schema.parse({}),
  classRow: logisticRow,
  fit: (data, options, context) => fineTune(data, options, context, prefixKind.adapt(options)),
  estimateSeconds: (data, options, context) => estimateFineTune(data, options, context, 2.3),
};
