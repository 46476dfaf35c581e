import type { HostTensor, Named } from '@fewtune/engine';
import type { Encoder } from '@fewtune/models';
import { createRandom } from '../../data/random.js';
import { FewtuneError } from '../../errors.js';
import { type EpochEvent, runEpochs } from '../epochs.js';
import { type Adapt, withoutPooler } from '../peft/adaptation.js';
import { dropTokens } from '../peft/contrastive-stage.js';
import { lowestTrained, type Stage, stagesOf } from '../peft/trained-layers.js';
import { ActivationCache } from './activation-cache.js';
import { epochBatches, stepsOf } from './batches.js';
import { BestWeights, type Look } from './best-weights.js';
import { configurationOf, digestOfRows } from './configuration.js';
import { type Tokenised, type TuneExamples, tokenise } from './examples.js';
import { type Rows, splitRows } from './held-out.js';
import { RunLog } from './log/run-log.js';
import { type TuneOptions, type TuneSettings, tuneSettings } from './options.js';
import { parameterReport } from './report.js';
import type { Task } from './task.js';
import { computesInHalf, type MicroBatch, type Trained, TuneProgram } from './tune-program.js';
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
  const { seed = 7, threads, signal } = context;
  const settings = tuneSettings(options);
  if (settings.tokenDropout > 0 && (task.reads === 'tokens' || examples.pairs)) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `tokenDropout is ${settings.tokenDropout}; where tokens have labels, or belong to one of two texts, none can be left out.`,
    );
  }
  const { train, heldOut } = splitRows(encoder, task, tokenise(encoder, examples), options.validation, seed);
  const random = createRandom(seed);
  const weights = withoutPooler(encoder.weights);
  // A vocabulary that is cut down must have the words of held-out examples too.
  const read = [...train.ids, ...(heldOut?.ids ?? [])];
  const adaptation = await adapt({ ...encoder, weights }, read, random, threads);
  const head = task.head(encoder.hidden, random);
  const steps = settings.epochs * stepsOf(train.rows.length, settings);
  const recompute = recomputed(settings.recompute, encoder.layers);
  const typed = train.types !== undefined;
  const stages = checkedStages(settings, Object.keys(adaptation.params), encoder.layers);
  const trained: Trained = { encoder, adaptation, task, head, settings, recompute, typed, steps, stages, threads };
  const cached = stages[0]!.from;
  // Held-out examples too, unless a later stage trains what is below.
  const forLooks = heldOut !== undefined && stages.every(({ from }) => from === cached);
  let opened: Promise<ActivationCache> | undefined;
  const cache = () => {
    const { cacheActivations } = settings;
    opened ??= ActivationCache.create(
      encoder,
      adaptation,
      joinedTokens(adaptation.ids, train, forLooks ? heldOut : undefined),
      cached,
      typeof cacheActivations === 'object' ? cacheActivations : {},
      { threads, signal },
    );
    return opened;
  };
  const program = new TuneProgram(trained, cache);
  const params = { ...adaptation.params, ...head };
  const validator =
    heldOut &&
    (await Validator.open(
      { encoder, adaptation, task: heldOut.task, typed },
      params,
      heldOut.rows,
      { ...heldOut, ids: adaptation.ids.slice(train.ids.length) },
      { threads, ...(cached > 0 && forLooks && { cache: await cache() }) },
    ));
  const found = new BestWeights(options.validation);
  const every = options.validation?.everySteps ?? stepsOf(train.rows.length, settings);
  const log = options.log === undefined ? undefined : new RunLog(options.log, options.resume !== undefined);
  let last: { loss: number; lr: number; gradientNorm?: number } = { loss: 0, lr: 0 };
  try {
    const ended = await runEpochs<MicroBatch, Pick<TuneEvent, 'steps' | 'gradientNorm' | 'look'>>(
      epochsOf({ ...train, ids: adaptation.ids }, settings, seed),
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
    const report = parameterReport(weights, adaptation.params, head);
    return new Tuned(encoder, task, adaptation, part(adaptation.params), part(head), history, report, threads);
  } finally {
    log?.close();
    await program.dispose();
    await validator?.dispose();
    await (await opened?.catch(() => undefined))?.dispose();
  }
}

/** @throws FewtuneError OPTION_INVALID when states cannot be kept, but shall be */
function checkedStages(settings: TuneSettings, trained: readonly string[], layers: number): Stage[] {
  const { epochs, unfreeze, cacheActivations: wanted, tokenDropout, precision } = settings;
  const why =
    tokenDropout > 0
      ? `tokenDropout is ${tokenDropout}, so no epoch sees the same sentence`
      : precision !== 'float32'
        ? 'precision is not float32'
        : lowestTrained(trained, layers) < 1 && unfreeze === 'all'
          ? 'the lowest layer is trained, or what is below it'
          : undefined;
  if (why && wanted !== 'auto' && wanted !== false) {
    throw new FewtuneError('OPTION_INVALID', `fine-tuning: cacheActivations cannot be had: ${why}.`);
  }
  return stagesOf(trained, layers, { epochs, unfreeze, cached: wanted !== false && why === undefined });
}

/** @param ids of the rows of both, as the weights count them */
const joinedTokens = (ids: readonly (readonly number[])[], train: Rows, heldOut: Rows | undefined): Tokenised => ({
  ids: ids.slice(0, train.ids.length + (heldOut?.ids.length ?? 0)),
  ...(train.types && { types: [...train.types, ...(heldOut?.types ?? [])] }),
});

/**
 * The batches of each epoch, in an order of its own, tokens left out anew: the same whenever it is asked for.
 *
 * @param train rows of the task, and at least as many token ids
 */
function epochsOf(
  { rows, ids, types }: Omit<Rows, 'task'>,
  settings: { batchSize: number; accumulate: number; groupByLength: boolean; tokenDropout: number },
  seed: number,
) {
  const own = ids.slice(0, rows.length);
  const lengths = own.map(({ length }) => length);
  return function* (epoch: number): Generator<MicroBatch[]> {
    const seeds = createRandom(seed + 1);
    for (let i = 0; i < epoch; i++) seeds.next();
    const random = createRandom(seeds.int(2 ** 32));
    for (const step of epochBatches(lengths, settings, random)) {
      yield step.map((places) => ({
        rows: places.map((place) => rows[place]!),
        ids: places.map((place) => dropTokens(own[place]!, settings.tokenDropout, random)),
        ...(types && { types: places.map((place) => types[place]!) }),
      }));
    }
  };
}

const recomputed = (wanted: 'none' | 'all' | number, layers: number): number =>
  wanted === 'none' ? 0 : wanted === 'all' ? layers : wanted;
