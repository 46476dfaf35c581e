import { exp, mul, type Schedule, sub } from '@fewtune/engine';
import type { Encoder } from '@fewtune/models';
import { FewtuneError, throwIfAborted } from '../../errors.js';
import { checkCount } from '../checks.js';
import type { Adapt } from '../peft/adaptation.js';
import type { TuneExamples } from './examples.js';
import { type TuneOptions, tuneChoices } from './options.js';
import { type Prepared, prepare } from './prepare.js';
import { RateCurve, type RatePoint, type RatesFound, ratesFound, ratesOf } from './rate-curve.js';
import type { Task } from './task.js';
import { type MicroBatch, TuneProgram } from './tune-program.js';

export interface RateRange {
  /** The smallest rate; 1e-6. */
  readonly from?: number;
  /** The largest; 1. */
  readonly to?: number;
  /** 60. */
  readonly steps?: number;
}

/** What concerns a step, as in `tune`. */
export interface RangeTestOptions
  extends RateRange,
    Omit<TuneOptions, 'epochs' | 'lr' | 'schedule' | 'warmup' | 'validation' | 'checkpoint' | 'resume' | 'log'> {}

export interface RangeTest extends RatesFound {
  /** Every step, until the loss explodes. */
  readonly points: readonly RatePoint[];
}

export interface RangeContext {
  readonly seed?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

/**
 * Trains for some steps whose rate rises from one to the next by the same factor, and sees where the loss falls: Smith 2017,
 * arXiv:1506.01186. What was trained is thrown away.
 *
 * @throws FewtuneError OPTION_INVALID, also when the loss falls nowhere; ROWS_EMPTY, INTERRUPTED
 * @example
 * const { suggestion, points } = await lrRangeTest(encoder, { texts }, task, adaptationOf('lora'), { batchSize: 32 });
 */
export async function lrRangeTest(
  encoder: Encoder,
  examples: TuneExamples,
  task: Task,
  adapt: Adapt,
  options: RangeTestOptions = {},
  context: RangeContext = {},
): Promise<RangeTest> {
  const { from, to, steps, ...own } = options;
  const prepared = await prepare(encoder, { examples, task, adapt }, tuneChoices(own), context);
  try {
    return await rangeTest(prepared, { from, to, steps }, context.signal);
  } finally {
    await prepared.dispose();
  }
}

/** @see lrRangeTest */
export async function rangeTest(
  prepared: Prepared,
  { from = 1e-6, to = 1, steps = 60 }: RateRange = {},
  signal?: AbortSignal,
): Promise<RangeTest> {
  checkCount('steps', steps, 10);
  if (!(from > 0 && to > from)) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `the rates ${from} and ${to}: the second must be larger, and both above 0.`,
    );
  }
  const rise = Math.log(to / from) / (steps - 1);
  const schedule: Schedule = (step) => mul(exp(mul(sub(step, 1), rise)), from);
  const { trained } = prepared;
  const settings = { ...trained.settings, lr: to, headLr: 'same' as const };
  const program = new TuneProgram({ ...trained, settings, schedule }, () => prepared.cache());
  const curve = new RateCurve();
  const batches = endless(prepared);
  try {
    await program.ready(1);
    for (const lr of ratesOf({ from, to, steps })) {
      throwIfAborted(signal);
      const { loss } = await program.run(batches.next().value);
      if (curve.add(lr, loss)) break;
    }
  } finally {
    await program.dispose();
  }
  return { points: curve.points, ...ratesFound(curve.points) };
}

function* endless({ batches }: Prepared): Generator<MicroBatch[], never> {
  for (let epoch = 0; ; epoch++) yield* batches(epoch);
}
