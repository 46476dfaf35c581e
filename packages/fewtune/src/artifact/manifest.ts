import { z } from 'zod';
import { fileList, seal, sha256 } from './sealed.js';

const interval = z.tuple([z.number(), z.number()]);

/** The four figures that every report carries; never shown without `EvaluatedOn`. */
export const metricsSchema = z.object({
  accuracy: z.number(),
  macroF1: z.number(),
  /** Bootstrap 95 % interval of the accuracy. */
  accuracyInterval: interval,
  /** Expected calibration error of the confidences after temperature scaling, 15 bins. */
  ece: z.number(),
});
export type Metrics = z.infer<typeof metricsSchema>;

/** How `Metrics` were measured. */
export const evaluatedOnSchema = z.object({
  kind: z.enum(['test', 'cross-validation']),
  /** Rows that were predicted by a model that had not seen them. */
  examples: z.number().int(),
  /** One sentence for people. */
  how: z.string(),
});
export type EvaluatedOn = z.infer<typeof evaluatedOnSchema>;

const adviceEntry = z.object({
  method: z.string(),
  /** Out-of-fold accuracy on `examples` rows; absent when the method was skipped. */
  accuracy: z.number().optional(),
  accuracyInterval: interval.optional(),
  examples: z.number().int(),
  seconds: z.number(),
  /** Why the method was not tried, or tried on part of the folds only. */
  note: z.string().optional(),
});

/** What a race of methods found; a single entry when the method was named by the user. */
export const adviceSchema = z.object({
  requested: z.string(),
  chosen: z.string(),
  rule: z.string(),
  tried: z.array(adviceEntry),
  skipped: z.array(z.object({ method: z.string(), reason: z.string() })),
  /** By how much the winner was ahead of the best other method, on the rows that both predicted. */
  margin: z.object({ over: z.string(), difference: z.number(), interval, examples: z.number().int() }).optional(),
});
export type Advice = z.infer<typeof adviceSchema>;

/** A class learned or forgotten after training. */
const changeSchema = z.object({
  change: z.enum(['learn', 'forget']),
  label: z.string(),
  /** Examples that were given; for `forget`, examples that went. */
  examples: z.number().int(),
  at: z.string(),
  library: z.string(),
});
export type ModelChange = z.infer<typeof changeSchema>;

/** A meta-trained folder that a model was trained from. */
const startSchema = z.object({
  /** Its folder's name. */
  source: z.string(),
  kind: z.string(),
  /** sha-256 of its adapter. */
  adapter: sha256,
  /** Classes that it was meta-trained on. */
  classes: z.number().int(),
  /** Those of them that the model was trained on too: figures on these are none of new classes. */
  seen: z.array(z.string()),
});
export type MetaStart = z.infer<typeof startSchema>;

export const manifestSchema = z.object({
  schemaVersion: z.literal(1),
  task: z.literal('text-classification'),
  library: z.object({ name: z.literal('fewtune'), version: z.string() }),
  created: z.string(),
  method: z.object({
    name: z.string(),
    options: z.record(z.string(), z.unknown()),
    details: z.record(z.string(), z.union([z.number(), z.string(), z.boolean()])),
  }),
  /** Absent for methods that use none (`tfidf`). */
  encoder: z
    .object({
      id: z.string(),
      revision: z.string().optional(),
      /** Of the encoder that the method was given: with a start, of the base with the start's adapter merged in. */
      fingerprint: z.string(),
      /** The meta-trained start that the encoder came from. */
      start: startSchema.optional(),
    })
    .optional(),
  preprocessing: z.object({
    /** Tokens a text is cut to, special tokens included. */
    maxLength: z.number().int().positive(),
    padId: z.number().int().nonnegative(),
  }),
  labels: z.array(z.string()).min(2),
  /** Divides the logits; already applied inside the ONNX files. */
  temperature: z.number().positive(),
  trainingData: z.object({
    source: z.string(),
    /** sha-256 over the rows that were learned from, in order. */
    fingerprint: sha256,
    examples: z.number().int(),
    classes: z.number().int(),
    repairs: z.array(z.object({ kind: z.string(), count: z.number().int(), remedy: z.string() })),
  }),
  /** The examples kept in the folder; absent where there are none, as in folders of version 0.1.0. */
  support: z
    .object({
      rows: z.number().int().positive(),
      /** Examples that the head learned from. */
      learnedFrom: z.number().int(),
      /** Whether `support.jsonl` has their texts. */
      texts: z.boolean(),
      /** Whether label names stand among the vectors. */
      names: z.boolean(),
    })
    .optional(),
  /** What was changed since the training, oldest first. The metrics are those from before. */
  changes: z.array(changeSchema).optional(),
  seed: z.number().int(),
  seconds: z.number(),
  metrics: metricsSchema,
  evaluatedOn: evaluatedOnSchema,
  advice: adviceSchema,
  files: fileList,
});
export type Manifest = z.infer<typeof manifestSchema>;

/** The name of the manifest inside a model folder. */
export const manifestFile = 'fewtune.json';

/** The manifest's text. Its last field is a hash of all the others, so that a changed byte in it is noticed too. */
export function printManifest(manifest: Manifest): string {
  return seal(manifestSchema, manifest);
}
