import { z } from 'zod';
import { logisticRow } from '../linear/logistic-row.js';
import type { Method } from '../method.js';
import type { Adapt, AdaptationKind } from './adaptation.js';
import { estimateFineTune, fineTune, fineTuneFields } from './fine-tune.js';

const schema = z.strictObject(fineTuneFields(1e-3));

const ownSchema = z.strictObject({});

export type BitFitOptions = z.infer<typeof schema>;

/** Every bias of the encoder, those of its norms too, is trained as it stands. */
const adapt: Adapt = ({ weights, tokenizer }, ids) => {
  const isBias = (name: string) => name.endsWith('.bias');
  const part = (keep: (name: string) => boolean) =>
    Object.fromEntries(Object.entries(weights).filter(([name]) => keep(name)));
  return {
    params: part(isBias),
    frozen: part((name) => !isBias(name)),
    ids,
    padId: tokenizer.padId,
    merge: (trained) => ({ ...weights, ...trained }),
  };
};

/** Biases alone. */
export const bitfitKind: AdaptationKind<typeof ownSchema> = { schema: ownSchema, adapt: () => adapt };

/** BitFit: only the biases are trained. Ben Zaken et al. 2022, arXiv:2106.10199. */
export const bitfit: Method<BitFitOptions> = {
  name: 'bitfit',
  schema,
  defaults: schema.parse({}),
  classRow: logisticRow,
  fit: (data, options, context) => fineTune(data, options, context, adapt),
  estimateSeconds: (data, options, context) => estimateFineTune(data, options, context, 2),
};
