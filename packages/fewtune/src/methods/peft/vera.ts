import { z } from 'zod';
import { logisticRow } from '../linear/logistic-row.js';
import type { Method } from '../method.js';
import type { AdaptationKind } from './adaptation.js';
import { estimateFineTune, fineTune, fineTuneFields } from './fine-tune.js';
import { mergeVera, startVera, veraLinear } from './vera-layer.js';

const fields = {
  /** Of the two random matrices that all layers share. */
  rank: z.number().int().positive().default(256),
  /** Which linear layers are adapted: `all-linear`, or names, ends of names, patterns. */
  targets: z.union([z.string().min(1), z.array(z.string().min(1)).min(1)]).default('all-linear'),
};

const ownSchema = z.strictObject(fields);
const schema = z.strictObject({ ...fineTuneFields(1e-2), ...fields });

export type VeraOptions = z.infer<typeof schema>;

/** Two vectors a layer between shared random matrices. */
export const veraKind: AdaptationKind<typeof ownSchema> = {
  schema: ownSchema,
  adapt:
    (options) =>
    ({ weights, tokenizer }, ids, random) => {
      const { params, shared } = startVera(weights, options, random);
      return {
        params,
        frozen: { ...weights, ...shared },
        ids,
        padId: tokenizer.padId,
        linear: (trained, frozen) => veraLinear({ ...frozen, ...trained }),
        merge: (trained) => mergeVera(weights, { ...shared, ...trained }),
        adapter: (trained) => ({ method: 'vera', rank: options.rank, weights: { ...trained, ...shared } }),
      };
    },
};

/** VeRA: two vectors a layer between random matrices that are frozen and shared. */
export const vera: Method<VeraOptions> = {
  name: 'vera',
  schema,
  defaults: schema.parse({}),
  classRow: logisticRow,
  fit: (data, options, context) => fineTune(data, options, context, veraKind.adapt(options)),
  estimateSeconds: (data, options, context) => estimateFineTune(data, options, context, 2.5),
};
