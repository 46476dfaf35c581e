import { z } from 'zod';
import { logisticRow } from '../linear/logistic-row.js';
import type { Method } from '../method.js';
import type { AdaptationKind } from './adaptation.js';
import { addedAdaptation } from './added-adaptation.js';
import { countsField, savedField, targetsField } from './fields.js';
import { estimateFineTune, fineTune, fineTuneFields } from './fine-tune.js';
import { finishedReft, orthonormalRows, positionsOf, reftHooks, startReft } from './reft-layer.js';
import { savedWeights } from './targets.js';

const fields = {
  /** Directions in which states are changed. */
  rank: z.number().int().positive().default(8),
  /** Ranks of some layers: `{"layer.5": 16}`. */
  rankPattern: countsField,
  /** After which layers: `all`, or names like `layer.5`, ends of names, patterns. */
  targets: targetsField.default('all'),
  /** Which tokens: `all`, or the first and last ones, `f1+l1`. */
  positions: z
    .string()
    .default('all')
    .refine((value) => positionsOf(value) !== undefined, { message: 'all, or first and last tokens like f1+l1' }),
  modulesToSave: savedField,
};

const ownSchema = z.strictObject(fields);
const schema = z.strictObject({ ...fineTuneFields(1e-3), ...fields });

export type LoReftOptions = z.infer<typeof schema>;

/** Learned changes of the states between layers, in a few directions. */
export const loreftKind: AdaptationKind<typeof ownSchema> = {
  schema: ownSchema,
  adapt:
    ({ rank, rankPattern, targets, positions, modulesToSave }) =>
    (encoder, ids, random) => {
      const ranks = rankPattern === 'none' ? {} : rankPattern;
      return addedAdaptation(encoder, ids, {
        params: startReft(encoder.weights, { rank, ranks, targets }, random),
        saved: modulesToSave === 'none' ? {} : savedWeights(encoder.weights, modulesToSave, [], 'loreft'),
        functions: (params) => ({ hooks: reftHooks(positions, params, orthonormalRows) }),
        adapter: (trained) => ({ method: 'loreft', positions, weights: finishedReft(trained) }),
      });
    },
};

/** LoReFT: states are changed, weights are not. */
export const loreft: Method<LoReftOptions> = {
  name: 'loreft',
  schema,
  defaults: schema.parse({}),
  classRow: logisticRow,
  fit: (data, options, context) => fineTune(data, options, context, loreftKind.adapt(options)),
  estimateSeconds: (data, options, context) => estimateFineTune(data, options, context, 2.1),
};
