import { z } from 'zod';
import { fileList, seal, sha256 } from './sealed.js';

const interval = z.tuple([z.number(), z.number()]);

/** A score on rows that no fit saw, and how sure it is. */
export const measuredSchema = z.object({
  name: z.string(),
  value: z.number(),
  /** Bootstrap 95 % interval over the rows. */
  interval,
  /** Other figures of the same rows. */
  others: z.record(z.string(), z.number()),
});
export type Measured = z.infer<typeof measuredSchema>;

export const tunedKinds = ['classification', 'multi-label', 'ordinal', 'regression', 'tokens'] as const;
export type TunedKind = (typeof tunedKinds)[number];

/** `fewtune.json` of a fine-tuned model: an encoder with a head for one of several tasks. */
export const taskManifestSchema = z.object({
  schemaVersion: z.literal(1),
  task: z.literal('fine-tuned'),
  kind: z.enum(tunedKinds),
  /** Whether it reads two texts at once. */
  pairs: z.boolean(),
  library: z.object({ name: z.literal('fewtune'), version: z.string() }),
  created: z.string(),
  /** What each logit is of: labels, BIO tags, names of values. */
  outputs: z.array(z.string()).min(1),
  /** Of several labels: the probability from which each one is given. */
  thresholds: z.array(z.number()).optional(),
  /** Divides the logits; already applied inside the ONNX files. */
  temperature: z.number().positive(),
  encoder: z.object({ id: z.string(), revision: z.string().optional(), fingerprint: z.string() }),
  preprocessing: z.object({ maxLength: z.number().int().positive(), padId: z.number().int().nonnegative() }),
  method: z.object({
    name: z.string(),
    options: z.record(z.string(), z.unknown()),
    details: z.record(z.string(), z.union([z.number(), z.string(), z.boolean()])),
  }),
  trainingData: z.object({
    source: z.string(),
    fingerprint: sha256,
    examples: z.number().int(),
    repairs: z.array(z.object({ kind: z.string(), count: z.number().int(), remedy: z.string() })),
    /** What the task told of its targets, such as entities that take whole words. */
    notes: z.array(z.string()),
  }),
  seed: z.number().int(),
  seconds: z.number(),
  score: measuredSchema,
  /** What needs no fine-tuning, on the same rows. */
  baselines: z.array(z.object({ baseline: z.string(), score: measuredSchema })),
  evaluatedOn: z.object({ examples: z.number().int(), how: z.string() }),
  files: fileList,
});
export type TaskManifest = z.infer<typeof taskManifestSchema>;
export type TunedReport = Omit<TaskManifest, 'files'>;

export const printTaskManifest = (manifest: TaskManifest): string => seal(taskManifestSchema, manifest);
