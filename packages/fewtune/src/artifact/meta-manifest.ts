import { z } from 'zod';
import { fileList, sha256 } from './sealed.js';

/** Accuracy of plain prototypes on classes that were not trained on, before meta-training and after. */
const measuredSchema = z.object({
  /** `test`: classes that nothing was chosen on. `validation`: those that chose the step, so slightly optimistic. */
  on: z.enum(['test', 'validation']),
  classes: z.number().int(),
  before: z.number(),
  after: z.number(),
  /** One sentence: episodes, shots, queries. */
  how: z.string(),
});

export const metaManifestSchema = z.object({
  schemaVersion: z.literal(1),
  kind: z.enum(['metric', 'maml']),
  library: z.object({ name: z.literal('fewtune'), version: z.string() }),
  created: z.string(),
  /** The encoder that the adapter belongs to. */
  base: z.object({ id: z.string(), revision: z.string().optional(), fingerprint: sha256 }),
  pooling: z.string(),
  /** How it was trained, defaults filled in. */
  options: z.record(z.string(), z.unknown()),
  /** What a head should know of it: metric, temperature … */
  head: z.record(z.string(), z.union([z.number(), z.string(), z.boolean()])),
  trainingData: z.object({
    source: z.string(),
    /** sha-256 over the rows that were trained on, in order. */
    fingerprint: sha256,
    examples: z.number().int(),
  }),
  /** The classes that it was trained on; no figure measured on them says anything of new classes. */
  classes: z.array(z.string()).min(2),
  validationClasses: z.array(z.string()),
  measured: z.array(measuredSchema),
  steps: z.number().int(),
  /** The step whose weights were kept. */
  keptStep: z.number().int(),
  /** The share of the update that was kept. */
  keptShare: z.number(),
  seed: z.number().int(),
  seconds: z.number(),
  files: fileList,
});
export type MetaManifest = z.infer<typeof metaManifestSchema>;
export type MetaReport = Omit<MetaManifest, 'files'>;

/** The name of the manifest inside a meta-trained folder. */
export const metaManifestFile = 'fewtune-meta.json';
