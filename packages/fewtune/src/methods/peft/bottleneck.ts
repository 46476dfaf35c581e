import { z } from 'zod';
import { logisticRow } from '../linear/logistic-row.js';
import type { Method } from '../method.js';
import type { AdaptationKind } from './adaptation.js';
import { addedAdaptation } from './added-adaptation.js';
import { addedFunctions, type BottleneckAdapter } from './additions.js';
import { bottleneckActivations, bottleneckStyles, startBottleneck } from './bottleneck-layer.js';
import { countsField, savedField, targetsField } from './fields.js';
import { estimateFineTune, fineTune, fineTuneFields } from './fine-tune.js';
import { savedWeights } from './targets.js';

const fields = {
  /** Where bottlenecks stand; see `bottleneckStyles`. */
  style: z.enum(bottleneckStyles).default('pfeiffer'),
  /** Numbers in the middle of each. */
  size: z.number().int().positive().default(32),
  /** Sizes of some: `{"layer.5.output.dense": 64}`. */
  sizePattern: countsField,
  activation: z.enum(bottleneckActivations).default('relu'),
  /** Of what is added; `auto`: 4 with `parallel`, else 1. */
  scale: z.union([z.number().positive(), z.literal('auto')]).default('auto'),
  /** At which of the layers where its style may stand: `all`, or names, ends of names, patterns. */
  targets: targetsField.default('all'),
  modulesToSave: savedField,
};

const ownSchema = z.strictObject(fields);
const schema = z.strictObject({ ...fineTuneFields(1e-3), ...fields });

export type BottleneckOptions = z.infer<typeof schema>;

/** Small networks after or beside the encoder's layers. */
export const bottleneckKind: AdaptationKind<typeof ownSchema> = {
  schema: ownSchema,
  adapt:
    ({ style, size, sizePattern, activation, scale, targets, modulesToSave }) =>
    (encoder, ids, random) => {
      const sizes = sizePattern === 'none' ? {} : sizePattern;
      const params = startBottleneck(encoder.weights, { style, size, sizes, targets }, random);
      const settings: Omit<BottleneckAdapter, 'weights'> = {
        method: 'bottleneck',
        style,
        activation,
        scale: scale === 'auto' ? (style === 'parallel' ? 4 : 1) : scale, // He et al. 2022, section 4.4
      };
      return addedAdaptation(encoder, ids, {
        params,
        saved: modulesToSave === 'none' ? {} : savedWeights(encoder.weights, modulesToSave, [], 'bottleneck'),
        functions: (traced) => addedFunctions({ ...settings, weights: params }, traced),
        adapter: (trained) => ({ ...settings, weights: trained }),
      });
    },
};

/** Bottleneck adapters after Houlsby, Pfeiffer, or He: the encoder's own weights stay as they are. */
export const bottleneck: Method<BottleneckOptions> = {
  name: 'bottleneck',
  schema,
  defaults: schema.parse({}),
  classRow: logisticRow,
  fit: (data, options, context) => fineTune(data, options, context, bottleneckKind.adapt(options)),
  estimateSeconds: (data, options, context) => estimateFineTune(data, options, context, 2.1),
};
