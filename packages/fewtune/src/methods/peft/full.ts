import { z } from 'zod';
import { FewtuneError } from '../../errors.js';
import { logisticRow } from '../linear/logistic-row.js';
import type { Method } from '../method.js';
import type { AdaptationKind } from './adaptation.js';
import { estimateFineTune, fineTune, fineTuneFields } from './fine-tune.js';
import { layerOf } from './trained-layers.js';
import { usedVocabulary } from './vocabulary.js';

const fields = {
  /** The learning rate of each layer as a share of that of the layer above it. */
  layerDecay: z.number().positive().max(1).default(1),
  /** How many layers are trained, from the top; the others and the embeddings stay as they are. */
  layers: z.union([z.literal('all'), z.number().int().positive()]).default('all'),
};

const ownSchema = z.strictObject(fields);
const schema = z.strictObject({ ...fineTuneFields(5e-5), ...fields });

export type FullOptions = z.infer<typeof schema>;

/** 0 for embeddings, then 1, 2, … from the lowest layer to the highest. */
const depthOf = (name: string): number => (layerOf(name) ?? -1) + 1;

/** Every weight, of word embeddings the rows that are read; or those of the top layers. */
export const fullKind: AdaptationKind<typeof ownSchema> = {
  schema: ownSchema,
  adapt:
    ({ layerDecay, layers }) =>
    ({ weights, tokenizer }, ids) => {
      const highest = Math.max(...Object.keys(weights).map(depthOf));
      // Howard & Ruder 2018, section 3.2, arXiv:1801.06146: lower layers hold what is general, and move less.
      const lrScale = (name: string) => layerDecay ** (highest - depthOf(name));
      if (layers !== 'all') {
        if (layers > highest) {
          throw new FewtuneError('OPTION_INVALID', `full: the encoder has ${highest} layers; layers is ${layers}.`);
        }
        const part = (trained: boolean) =>
          Object.fromEntries(Object.entries(weights).filter(([name]) => depthOf(name) > highest - layers === trained));
        return {
          params: part(true),
          frozen: part(false),
          ids,
          padId: tokenizer.padId,
          merge: (trained) => ({ ...weights, ...trained }),
          lrScale,
        };
      }
      const used = usedVocabulary(weights, ids, tokenizer.padId);
      return {
        params: used.weights,
        frozen: {},
        ids: used.ids,
        padId: used.padId,
        merge: used.restore,
        lrScale,
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
