import { z } from 'zod';
import { fileList, sha256 } from './sealed.js';

/** The name of the report in a folder that `fewtune merge` wrote. */
export const mergeManifestFile = 'fewtune-merge.json';

/** What was merged into what, and what it changed. */
export const mergeManifestSchema = z.object({
  schemaVersion: z.literal(1),
  library: z.object({ name: z.literal('fewtune'), version: z.string() }),
  created: z.string(),
  kind: z.enum(['encoder', 'onnx']),
  base: z.object({ id: z.string(), fingerprint: sha256 }),
  adapter: z.object({ source: z.string(), method: z.string(), modules: z.number().int(), sha256 }),
  weight: z.number(),
  /** False where adapters stay nodes of their own in the ONNX file. */
  merged: z.boolean(),
  measured: z.object({
    /** `embeddings` are of length 1; `outputs` and `logits` as the model gives them. */
    of: z.enum(['embeddings', 'logits', 'outputs']),
    texts: z.number().int(),
    /** Largest |difference| of a number between the adapter beside the weights and in them. */
    largestDifference: z.number(),
    /** Largest |difference| that the adapter makes; absent where the base has no such output. */
    largestChange: z.number().optional(),
    accuracyBefore: z.number().optional(),
    accuracyAfter: z.number().optional(),
  }),
  files: fileList,
});
export type MergeManifest = z.infer<typeof mergeManifestSchema>;
