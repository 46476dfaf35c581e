import { z } from 'zod';
import { logisticRow } from '../linear/logistic-row.js';
import type { Method } from '../method.js';
import type { AdaptationKind } from './adaptation.js';
import { estimateFineTune, fineTune, fineTuneFields } from './fine-tune.js';
import { usedVocabulary } from './vocabulary.js';

const fields = {
  /** The learning rate of each layer as a share of that of the layer above it. */
  layerDecay: z.number().positive().max(1).default(1),
};

const ownSchema = z.strictObject(fields);
const schema = z.strictObject({ ...fineTuneFields(5e-5), ...fields });

export type FullOptions = z.infer<typeof schema>;

/** 0 for embeddings, then 1, 2, … from the lowest layer to the highest. */
const depthOf = (name: string): number => Number(/\.layer\.(\d+)\./.exec(name)?.[1] ?? -1) + 1;

/** Every weight, of word embeddings the rows that are read. */
export const fullKind: AdaptationKind<typeof ownSchema> = {
  schema: ownSchema,
  adapt:
    ({ layerDecay }) =>
    ({ weights, tokenizer }, ids) => {
      const highest = Math.max(...Object.keys(weights).map(depthOf));
      const used = usedVocabulary(weights, ids, tokenizer.padId);
      return {
        params: used.weights,
        frozen: {},
        ids: used.ids,
        padId: used.padId,
        merge: used.restore,
        // Howard & Ruder 2018, section 3.2, arXiv:1801.06146: lower layers hold what is general, and move less.
        lrScale: (name) => layerDecay ** (highest - depthOf(name)),
      };
    },
};

/** Fine-tuning of every weight of the encoder. */
export const full: Method<FullOptions> = {
  name: 'full',
  schema,
  defaults: schema.parse({}),
  classRow: logisticRow,
  fit: (data, options, context) => fineTune(data, options, context, fullKind.adapt(options)),
  estimateSeconds: (data, options, context) => estimateFineTune(data, options, context, 3),
};
