import { z } from 'zod';
import { logisticRow } from '../linear/logistic-row.js';
import type { Method } from '../method.js';
import type { AdaptationKind } from './adaptation.js';
import { estimateFineTune, fineTune, fineTuneFields } from './fine-tune.js';
import { ia3Linear, mergeIa3, startIa3 } from './ia3-layer.js';
import { linearModules } from './targets.js';

const targets = z.union([z.string().min(1), z.array(z.string().min(1)).min(1)]);

const fields = {
  /** Layers that get a factor for each output; `auto`: keys and values. */
  targets: targets.default('auto'),
  /** Layers that get a factor for each input; `auto`: the second of each feed-forward block; `none`. */
  feedforward: targets.default('auto'),
};

const ownSchema = z.strictObject(fields);
const schema = z.strictObject({ ...fineTuneFields(1e-2), ...fields });

export type Ia3Options = z.infer<typeof schema>;

/** Keys and values, and the layer that leads back to the hidden size, as our four kinds of backbones name them. */
const keysAndValues = ['attention.self.key', 'attention.self.value', 'attn.k', 'attn.v', 'k_lin', 'v_lin'];

/** Factors on keys, values and the inputs of feed-forward layers. */
export const ia3Kind: AdaptationKind<typeof ownSchema> = {
  schema: ownSchema,
  adapt:
    (options) =>
    ({ weights, tokenizer }, ids) => {
      const linears = linearModules(weights);
      const having = (names: readonly string[]) =>
        names.filter((name) => linears.some((module) => module.endsWith(name)));
      const params = startIa3(weights, {
        targets: options.targets === 'auto' ? having(keysAndValues) : options.targets,
        feedforward:
          options.feedforward === 'auto'
            ? linears.filter((name) => /(?<!attention)\.output\.dense$|ffn\.lin2$/.test(name))
            : options.feedforward,
      });
      return {
        params,
        frozen: weights,
        ids,
        padId: tokenizer.padId,
        linear: ia3Linear,
        merge: (trained) => mergeIa3(weights, trained),
        adapter: (trained) => ({ method: 'ia3', weights: trained }),
      };
    },
};

/** (IA)³: activations are scaled by learned factors, a few thousand numbers in all. */
export const ia3: Method<Ia3Options> = {
  name: 'ia3',
  schema,
  defaults: schema.parse({}),
  classRow: logisticRow,
  fit: (data, options, context) => fineTune(data, options, context, ia3Kind.adapt(options)),
  estimateSeconds: (data, options, context) => estimateFineTune(data, options, context, 2),
};
