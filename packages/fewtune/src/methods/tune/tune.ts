import type { HostTensor, Named } from '@fewtune/engine';
import type { Encoder } from '@fewtune/models';
import { type EpochEvent, runEpochs } from '../epochs.js';
import { type Adapt, withoutPooler } from '../peft/adaptation.js';
import { openCheckpoint } from '../run-checkpoint.js';
import { stepsOf } from './batches.js';
import { BestWeights, type Look } from './best-weights.js';
import { configurationOf, digestOfRows } from './configuration.js';
import type { TuneExamples } from './examples.js';
import { RunLog } from './log/run-log.js';
import { type TuneChoices, type TuneOptions, tuneChoices } from './options.js';
import { type Known, type Prepared, prepare } from './prepare.js';
import { rangeTest } from './range-test.js';
import { parameterReport } from './report.js';
import type { Task } from './task.js';
import { computesInHalf, type MicroBatch, TuneProgram } from './tune-program.js';
import { Tuned } from './tuned.js';
import { Validator } from './validator.js';

export interface TuneEvent extends EpochEvent {
  /** Steps of the whole run. */
  readonly steps: number;
  readonly gradientNorm?: number;
  /** A look at held-out examples, after this step. */
  readonly look?: Look;
}

export interface TuneContext {
  /** Of batches, of the head's and the adapter's start; 7. */
  readonly seed?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  /** Called after each step, before the next begins. */
  onProgress?(event: TuneEvent): void;
}

/**
 * Supervised fine-tuning: an encoder and a head above it are trained together on labelled examples, whatever the task
 * and the way of fine-tuning. The same seed gives the same run to the bit, on the same machine.
 *
 * @param adapt which weights are trained, and how: `adaptationOf('lora', { rank: 16 })`
 * @throws FewtuneError OPTION_INVALID, ROWS_EMPTY, LOSS_NOT_FINITE, INTERRUPTED; of a checkpoint FILE_NOT_FOUND,
 *   FILE_UNREADABLE, OUTPUT_UNWRITABLE
 * @example
 * const task = classification([0, 1, 0, 1], ['complaint', 'praise']);
 * await using tuned = await tune(await loadEncoder(), { texts }, task, adaptationOf('lora'), { epochs: 5 });
 * const logits = await tuned.logits(['thank you']);
 */
export async function tune(
  encoder: Encoder,
  examples: TuneExamples,
  task: Task,
  adapt: Adapt,
  options: TuneOptions = {},
  context: TuneContext = {},
): Promise<Tuned> {
  const choices = tuneChoices(options);
  const { resume, validation } = options;
  const known = resume === undefined ? {} : await chosenBefore(resume, choices);
  const prepared = await prepare(encoder, { examples, task, adapt }, choices, context, { validation, known });
  try {
    const findsRate = choices.lr === 'auto' && known.lr === undefined;
    const lr = findsRate ? (await rangeTest(prepared, {}, context.signal)).suggestion : prepared.trained.settings.lr;
    const { trained } = prepared;
    return await run(
      { ...prepared, trained: { ...trained, settings: { ...trained.settings, lr } } },
      encoder,
      options,
      context,
    );
  } finally {
    await prepared.dispose();
  }
}

async function run(prepared: Prepared, encoder: Encoder, options: TuneOptions, context: TuneContext): Promise<Tuned> {
  const { seed = 7, threads, signal } = context;
  const { trained, train, heldOut, ids, cached, cachedLooks } = prepared;
  const { adaptation, task, head, settings, steps, typed } = trained;
  const program = new TuneProgram(trained, () => prepared.cache());
  const params = { ...adaptation.params, ...head };
  const validator =
    heldOut &&
    (await Validator.open(
      { encoder, adaptation, task: heldOut.task, typed },
      params,
      heldOut.rows,
      { ...heldOut, ids: ids.slice(train.ids.length) },
      { threads, ...(cached > 0 && cachedLooks && { cache: await prepared.cache() }) },
    ));
  const found = new BestWeights(options.validation);
  const every = options.validation?.everySteps ?? stepsOf(train.rows.length, settings);
  const log = options.log === undefined ? undefined : new RunLog(options.log, options.resume !== undefined);
  let last: { loss: number; lr: number; gradientNorm?: number } = { loss: 0, lr: 0 };
  try {
    const ended = await runEpochs<MicroBatch, Pick<TuneEvent, 'steps' | 'gradientNorm' | 'look'>>(
      prepared.batches,
      {
        epochs: settings.epochs,
        rateHalvings: settings.rateHalvings,
        checkpoint: options.checkpoint,
        resume: options.resume,
        signal,
        data: options.checkpoint || options.resume ? digestOfRows([train, ...(heldOut ? [heldOut] : [])]) : undefined,
      },
      {
        what: 'fine-tuning',
        keptOnInterrupt: true,
        configuration: () => configurationOf(trained, encoder, seed, options.validation),
        ready: (_, { rateShare, epoch }) => program.ready(rateShare, epoch),
        run: async (batches) => {
          const { skipped, ...metrics } = await program.run(batches);
          last = metrics;
          const { gradientNorm } = metrics;
          return {
            ...metrics,
            skipped: skipped && !computesInHalf(settings),
            shown: { steps, ...(gradientNorm !== undefined && { gradientNorm }) },
          };
        },
        after: async ({ step, epoch }) => {
          const { loss, lr, gradientNorm } = last;
          found.steps.push({ step, epoch: epoch + 1, loss, lr, ...(gradientNorm !== undefined && { gradientNorm }) });
          if (!validator || (step % every !== 0 && step !== steps)) return {};
          const now = await program.params();
          const look = { step, epoch: epoch + 1, ...(await validator.look(now, signal)) };
          return { ended: found.add(look, now), shown: { look } };
        },
        kept: found,
        snapshot: () => program.snapshot(),
        restore: (state) => program.restore(state),
        params: () => program.params(),
        harmless: () => task.harmless ?? 0,
        rate: { name: 'lr', value: settings.lr },
        advice: `Lower lr (${settings.lr}).`,
      },
      (event) => {
        log?.add(event);
        context.onProgress?.(event);
      },
    );
    if (ended.error !== undefined) throw ended.error;
    const { best } = found;
    const end = best?.weights ?? ended.params;
    const part = (names: object): Named<HostTensor> =>
      Object.fromEntries(Object.keys(names).map((name) => [name, end[name]!]));
    const history = {
      steps: found.steps,
      looks: found.looks,
      ...(best && { kept: best.look }),
      rateHalvings: ended.result!.rateHalvings,
    };
    const report = parameterReport(withoutPooler(encoder.weights), adaptation.params, head);
    return new Tuned(encoder, task, adaptation, part(adaptation.params), part(head), history, report, threads);
  } finally {
    log?.close();
    await program.dispose();
    await validator?.dispose();
  }
}

/** What a run that is gone on with had chosen where it was left open. */
async function chosenBefore(resume: string, choices: TuneChoices): Promise<Known> {
  const open = (['lr', 'batchSize', 'recompute'] as const).filter((name) => choices[name] === 'auto');
  if (open.length === 0) return {};
  const { configuration } = await openCheckpoint(resume);
  return Object.fromEntries(
    open.flatMap((name) => (typeof configuration[name] === 'number' ? [[name, configuration[name]]] : [])),
  );
}
