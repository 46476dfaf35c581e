import type { HostTensor, Named } from '@fewtune/engine';
import { quantizeWeights } from '@fewtune/models';
import { z } from 'zod';
import { logisticRow } from '../linear/logistic-row.js';
import type { Method } from '../method.js';
import type { AdaptationKind } from './adaptation.js';
import { applyAdapter, type LoraAdapter, mergeAdapter } from './adapter.js';
import { evaDirections } from './eva.js';
import { estimateFineTune, fineTune, fineTuneFields } from './fine-tune.js';
import { loraInits, overEncoder, startLora } from './lora-start.js';
import { linearsMeant, ownOf } from './targets.js';

const patterns = z.union([z.literal('none'), z.record(z.string(), z.number().positive())]).default('none');
const targets = z.union([z.string().min(1), z.array(z.string().min(1)).min(1)]);

const fields = {
  rank: z.number().int().positive().default(8),
  /** The update is scaled by alpha / rank. */
  alpha: z.number().positive().default(16),
  /** Which linear layers are adapted: `all-linear`, or names, ends of names, patterns. */
  targets: targets.default('all-linear'),
  /** Scales by alpha / √rank instead. */
  rsLora: z.boolean().default(false),
  /** Trains the length of each row of a weight apart from its direction. */
  dora: z.boolean().default(false),
  /** What A and B start from. */
  init: z.enum([...loraInits, 'eva']).default('uniform'),
  /** LoRA+: how much larger the learning rate of B is than that of A. */
  loraPlus: z.number().positive().default(1),
  /** Ranks and alphas of some layers: `{"layer.5.output.dense": 16}`. */
  rankPattern: patterns.refine((value) => value === 'none' || Object.values(value).every(Number.isInteger), {
    message: 'ranks are whole numbers',
  }),
  alphaPattern: patterns,
  /** Modules that are trained whole besides, e.g. `LayerNorm`. */
  modulesToSave: targets.default('none'),
  /** How the frozen matrices are held while it trains: in 8 bits a scale a row, in 4 in blocks of 32 (QLoRA). */
  base: z.enum(['float32', 'int8', 'int4', 'nf4']).default('float32'),
};

/** As the encoder has them, or quantised. */
export function heldBase(weights: Named<HostTensor>, base: 'float32' | 'int8' | 'int4' | 'nf4'): Named<HostTensor> {
  if (base === 'float32') return weights;
  return quantizeWeights(weights, base === 'nf4' ? { code: 'nf4' } : { bits: base === 'int8' ? 8 : 4 });
}

const ownSchema = z.strictObject(fields);
const schema = z.strictObject({ ...fineTuneFields(5e-4), ...fields });

export type LoraMethodOptions = z.infer<typeof schema>;

/** Low-rank updates beside linear layers. */
export const loraKind: AdaptationKind<typeof ownSchema> = {
  schema: ownSchema,
  adapt:
    (options) =>
    async ({ config, weights: given, tokenizer }, ids, random, threads) => {
      const weights = heldBase(given, options.base);
      const { rank, init, alphaPattern, modulesToSave, loraPlus } = options;
      const ranks = options.rankPattern === 'none' ? {} : options.rankPattern;
      const rankOf = (module: string) => ownOf(ranks, module, rank);
      const modules = linearsMeant(weights, options.targets, 'lora');
      const eva = init === 'eva';
      const down = eva
        ? await evaDirections({ config, weights }, ids, tokenizer.padId, modules, rankOf, random, threads)
        : undefined;
      const start = startLora(
        weights,
        {
          ...options,
          init: eva ? 'uniform' : init,
          down,
          ranks,
          alphas: alphaPattern === 'none' ? {} : alphaPattern,
          saved: modulesToSave === 'none' ? undefined : modulesToSave,
        },
        random,
      );
      const { adapter } = start;
      const base = heldBase(start.base, options.base); // PiSSA and OLoRA moved weights
      const { saved } = adapter;
      const tuned = (trained: Named<HostTensor>): LoraAdapter => {
        const part = (names: object) => Object.fromEntries(Object.keys(names).map((name) => [name, trained[name]!]));
        return { ...adapter, weights: part(adapter.weights), ...(saved && { saved: part(saved) }) };
      };
      return {
        ...(weights !== given && { base: weights }),
        params: { ...adapter.weights, ...saved },
        frozen: Object.fromEntries(Object.entries(base).filter(([name]) => !saved?.[name])),
        ids,
        padId: tokenizer.padId,
        linear: (params) => applyAdapter(adapter, {}, params).linear,
        // Hayou et al. 2024, arXiv:2402.12354: B wants a larger rate than A.
        lrScale: (name) => (name.endsWith('.lora_B.weight') ? loraPlus : 1),
        merge: (trained) => mergeAdapter(base, tuned(trained)),
        adapter: (trained) => overEncoder(tuned(trained), start, weights),
      };
    },
};

/** Fine-tuning of low-rank updates to the encoder's linear layers; the rest stays as it is. */
export const lora: Method<LoraMethodOptions> = {
  name: 'lora',
  schema,
  defaults: schema.parse({}),
  classRow: logisticRow,
  fit: (data, options, context) => fineTune(data, options, context, loraKind.adapt(options)),
  estimateSeconds: (data, options, context) => estimateFineTune(data, options, context, 2),
};
