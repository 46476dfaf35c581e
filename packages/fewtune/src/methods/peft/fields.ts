import { z } from 'zod';

/** Names, ends of names, patterns, as options take them. */
export const targetsField = z.union([z.string().min(1), z.array(z.string().min(1)).min(1)]);

/** Whole numbers of some modules: `{"layer.5.output.dense": 16}`. */
export const countsField = z
  .union([z.literal('none'), z.record(z.string(), z.number().int().positive())])
  .default('none');

/** Modules that are trained whole besides, e.g. `LayerNorm`. */
export const savedField = targetsField.default('none');
