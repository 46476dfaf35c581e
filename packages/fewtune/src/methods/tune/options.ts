import type { Precision } from '@fewtune/engine';
import { z } from 'zod';
import type { EpochOptions } from '../epochs.js';
import { parseAdaptation } from '../peft/adaptation.js';
import type { ActivationCacheOptions } from './activation-cache.js';
import type { TuneExamples } from './examples.js';
import type { Task } from './task.js';

export const tuneSchedules = ['linear', 'cosine', 'constant'] as const;
export type TuneSchedule = (typeof tuneSchedules)[number];

const half = z.enum(['float16', 'float32']);

const schema = z.strictObject({
  epochs: z.number().int().positive().default(3),
  batchSize: z.union([z.number().int().positive(), z.literal('auto')]).default(16),
  accumulate: z.number().int().positive().default(1),
  groupByLength: z.boolean().default(true),
  lr: z.union([z.number().positive(), z.literal('auto')]).default(1e-4),
  headLr: z.union([z.number().positive(), z.literal('same')]).default('same'),
  schedule: z.enum(tuneSchedules).default('linear'),
  warmup: z.number().min(0).max(1).default(0.1),
  weightDecay: z.number().min(0).default(0.01),
  clipNorm: z.number().positive().default(1),
  tokenDropout: z.number().min(0).max(0.9).default(0),
  precision: z
    .union([z.literal('float32'), z.object({ compute: half, weight: half, output: half })])
    .default('float32'),
  recompute: z.union([z.enum(['none', 'all', 'auto']), z.number().int().min(0)]).default('none'),
  memoryBytes: z.union([z.number().positive(), z.literal('auto')]).default('auto'),
  unfreeze: z.enum(['all', 'gradual']).default('all'),
  cacheActivations: z
    .union([
      z.literal('auto'),
      z.boolean(),
      z.strictObject({
        memoryBytes: z.number().min(0).optional(),
        folder: z.string().min(1).optional(),
        dtype: z.enum(['float32', 'float16']).optional(),
        keep: z.boolean().optional(),
      }),
    ])
    .default('auto'),
  rateHalvings: z.number().int().min(0).default(4),
});

/** Options that are numbers and words, by name: what a command line can set. */
export const tuneOptionNames: readonly string[] = Object.keys(schema.shape);

/** How an encoder is fine-tuned; everything may be left out. */
export interface TuneOptions extends Pick<EpochOptions<never>, 'checkpoint' | 'resume'> {
  /** Passes over the examples; 3. */
  readonly epochs?: number;
  /** Examples that are computed at once: `auto`, the largest power of two up to 64 that fits into memory; 16. */
  readonly batchSize?: number | 'auto';
  /** So many batches make a step, equal to that of one large batch; 1. */
  readonly accumulate?: number;
  /** Batches of like lengths, which cost less; true. */
  readonly groupByLength?: boolean;
  /** Largest learning rate; 1e-4. Full fine-tuning wants less, vectors alone more; `auto`: that of a range test. */
  readonly lr?: number | 'auto';
  /** That of the head; `same`. */
  readonly headLr?: number | 'same';
  /** How the rate goes down from its largest value: to 0 along a line or a cosine, or not at all; `linear`. */
  readonly schedule?: TuneSchedule;
  /** Share of the steps in which the rate rises from 0; 0.1. */
  readonly warmup?: number;
  readonly weightDecay?: number;
  /** Largest norm of the gradient; 1. */
  readonly clipNorm?: number;
  /** Probability with which a token is left out, drawn anew each time; 0. */
  readonly tokenDropout?: number;
  /** The engine's policy; `float32`. */
  readonly precision?: 'float32' | Precision;
  /**
   * Layers that compute their inner values a second time instead of keeping them: so many, the lowest first; `auto`: as few
   * as make a step fit into memory; `none`.
   */
  readonly recompute?: 'none' | 'all' | 'auto' | number;
  /** What a step may take, for `auto`, and where it is given a limit in any case; `auto`: half of what is free. */
  readonly memoryBytes?: number | 'auto';
  /**
   * Which layers are trained: all that the adaptation has, or the top one in the first epoch and one more in each that
   * follows (Howard & Ruder 2018, section 3.3, arXiv:1801.06146); `all`.
   */
  readonly unfreeze?: 'all' | 'gradual';
  /**
   * States below the lowest trained layer are computed once for each distinct sentence and kept, in memory or, where they
   * are large, in a file; `auto`: where that saves work and changes nothing.
   */
  readonly cacheActivations?: 'auto' | boolean | ActivationCacheOptions;
  /** How often the rate may be halved because a step diverged; 4. */
  readonly rateHalvings?: number;
  /** Examples that are not learned from, by which the run is judged, and ended early; none. */
  readonly validation?: Validation;
  /** A folder for `metrics.jsonl`, one line a step, and TensorBoard's event files; none. */
  readonly log?: string;
}

export interface Validation {
  /** A share of the examples, or examples with a task of the same kind. */
  readonly on: number | { readonly examples: TuneExamples; readonly task: Task };
  /** So many looks without a better loss end the run; it goes on to its end when left out. */
  readonly patience?: number;
  /** Steps between two looks; an epoch's when left out. */
  readonly everySteps?: number;
  /** The weights at the end are those with the lowest held-out loss (the default), the best score, or the last ones. */
  readonly keep?: 'loss' | 'score' | 'last';
}

/** Options with their defaults filled in. */
export type TuneChoices = z.output<typeof schema>;

/** Choices of which nothing is open any more. */
export interface TuneSettings extends Omit<TuneChoices, 'batchSize' | 'lr' | 'recompute' | 'memoryBytes'> {
  readonly batchSize: number;
  readonly lr: number;
  /** Layers. */
  readonly recompute: number;
}

/** @throws FewtuneError OPTION_INVALID naming what is wrong */
export function tuneChoices(options: TuneOptions): TuneChoices {
  const { checkpoint: _, resume: __, validation: ___, log: ____, ...own } = options;
  return parseAdaptation('fine-tuning', schema, own);
}
