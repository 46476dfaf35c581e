import { z } from 'zod';
import type { TargetKind, TaskDataset } from '../data/task-dataset.js';
import { FewtuneError } from '../errors.js';
import { type AdaptationName, adaptationOf } from '../methods/peft/adaptations.js';
import type { TuneOptions } from '../methods/tune/options.js';

export interface FinetuneTaskOptions {
  /** Which weights are trained; `lora`. */
  readonly method?: AdaptationName;
  /** Options of the method. */
  readonly options?: Readonly<Record<string, unknown>>;
  /**
   * How long and how fast; over `tune`'s own defaults: enough epochs for 4000 examples to be seen (3 to 20), the rate
   * 5e-4 (5e-5 with `full`), that of the head 5e-3, token dropout 0.
   */
  readonly tune?: Omit<TuneOptions, 'validation'>;
  /** Rows to measure on: another dataset, or the share of the rows that is put aside; 0.2. */
  readonly test?: TaskDataset | number;
  /** Share of the other rows by which the best epoch is kept and thresholds are chosen; 0.1. */
  readonly validation?: number;
  /** Looks without a better loss that end the run; 3. */
  readonly patience?: number;
  /** Of grades: `likelihood` or `coral`; of values: `mse` or `huber`. */
  readonly loss?: 'likelihood' | 'coral' | 'mse' | 'huber';
  /** Whether what needs no encoder is measured beside; true. */
  readonly baselines?: boolean;
  /** Default 7. */
  readonly seed?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

export const finetuneTaskDefaults = {
  method: 'lora',
  test: 0.2,
  validation: 0.1,
  patience: 3,
  baselines: true,
  seed: 7,
} as const;

const schema = z.object({
  method: z.string().optional(),
  test: z.union([z.number().gt(0).lt(1), z.object({})]).optional(),
  validation: z.number().gt(0).lt(1).optional(),
  patience: z.int().min(1).optional(),
  loss: z.enum(['likelihood', 'coral', 'mse', 'huber']).optional(),
  baselines: z.boolean().optional(),
  seed: z
    .int()
    .min(0)
    .max(2 ** 32 - 1)
    .optional(),
  threads: z.int().min(1).max(1024).optional(),
});

/** @throws FewtuneError OPTION_INVALID */
export function checkFinetuneTaskOptions(options: FinetuneTaskOptions, kind: TargetKind): void {
  const parsed = schema.safeParse(options);
  if (!parsed.success) {
    const wrong = parsed.error.issues.map(({ path, message }) => `option ${path.join('.')}: ${message}`);
    throw new FewtuneError('OPTION_INVALID', `${wrong.join('; ')}.`, { cause: parsed.error });
  }
  const losses = { ordinal: ['likelihood', 'coral'], regression: ['mse', 'huber'] } as const;
  const known: readonly string[] = losses[kind as keyof typeof losses] ?? [];
  if (options.loss !== undefined && !known.includes(options.loss)) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `option loss: ${options.loss} is none of ${kind}${known.length > 0 ? `; its losses are ${known.join(' and ')}` : ', which has one'}.`,
    );
  }
  if ((options.tune as TuneOptions | undefined)?.validation !== undefined) {
    throw new FewtuneError('OPTION_INVALID', 'tune.validation: give the share as the option validation.');
  }
  if (options.method !== undefined) adaptationOf(options.method, options.options as never);
}

export function tuneDefaults(method: string, rows: number): TuneOptions {
  const epochs = Math.min(20, Math.max(3, Math.round(4000 / rows)));
  return { epochs, lr: method === 'full' ? 5e-5 : 5e-4, headLr: 5e-3 };
}

/** What can stand in a manifest. */
export const plainSettings = ({
  checkpoint: _,
  resume: __,
  validation: ___,
  ...own
}: TuneOptions): Record<string, unknown> => own;
