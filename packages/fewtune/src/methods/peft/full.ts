import { z } from 'zod';
import { logisticRow } from '../linear/logistic-row.js';
import type { Method } from '../method.js';
import { type Adapt, estimateFineTune, fineTune, fineTuneFields } from './fine-tune.js';
import { usedVocabulary } from './vocabulary.js';

const schema = z.strictObject(fineTuneFields(5e-5));

export type FullOptions = z.infer<typeof schema>;

const adapt: Adapt = ({ weights, tokenizer }, ids) => {
  const used = usedVocabulary(weights, ids, tokenizer.padId);
  return { params: used.weights, frozen: {}, ids: used.ids, padId: used.padId, merge: used.restore };
};

/** Fine-tuning of every weight of the encoder. */
export const full: Method<FullOptions> = {
  name: 'full',
  schema,
  defaults: schema.parse({}),
  classRow: logisticRow,
  fit: (data, options, context) => fineTune(data, options, context, adapt),
  estimateSeconds: (data, options, context) => estimateFineTune(data, options, context, 3),
};
