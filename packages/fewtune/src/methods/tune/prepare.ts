import type { Named, Tensor } from '@fewtune/engine';
import type { Encoder } from '@fewtune/models';
import { createRandom } from '../../data/random.js';
import { FewtuneError } from '../../errors.js';
import { type Adapt, type Adaptation, refuseAddition, withoutPooler } from '../peft/adaptation.js';
import { applyAdapter } from '../peft/adapter.js';
import { dropTokens } from '../peft/contrastive-stage.js';
import { startLora } from '../peft/lora-start.js';
import { lowestTrained, type Stage, stagesOf } from '../peft/trained-layers.js';
import { ActivationCache } from './activation-cache.js';
import { epochBatches, stepsOf } from './batches.js';
import { type Tokenised, type TuneExamples, tokenise } from './examples.js';
import { fitted } from './fit.js';
import { type Rows, splitRows } from './held-out.js';
import type { TuneChoices, TuneSettings, Validation } from './options.js';
import type { Task } from './task.js';
import type { MicroBatch, Trained } from './tune-program.js';

/** Everything that a run needs before its first step. */
export interface Prepared {
  readonly trained: Trained;
  readonly train: Rows;
  readonly heldOut?: Rows;
  /** Ids of the rows that are learned from, and then of those held out, as the weights count them. */
  readonly ids: readonly (readonly number[])[];
  /** After so many layers states are kept, at first; 0 when they are not. */
  readonly cached: number;
  /** Whether those of held-out examples are kept too: not when a later stage trains what is below. */
  readonly cachedLooks: boolean;
  cache(): Promise<ActivationCache>;
  /** The batches of an epoch, in an order of its own, tokens left out anew: the same whenever it is asked for. */
  batches(epoch: number): Generator<MicroBatch[]>;
  dispose(): Promise<void>;
}

/** What is known before a run: of a resumed one, what was chosen when it began. */
export interface Known {
  readonly lr?: number;
  readonly batchSize?: number;
  readonly recompute?: number;
}

/**
 * Splits the examples, makes the adaptation and the head at their start, and chooses what was left open of the batch.
 *
 * @throws FewtuneError OPTION_INVALID, ROWS_EMPTY, MEMORY_EXCEEDED
 */
export async function prepare(
  encoder: Encoder,
  { examples, task, adapt }: { examples: TuneExamples; task: Task; adapt: Adapt },
  { memoryBytes, ...choices }: TuneChoices,
  { seed = 7, threads, signal }: { seed?: number; threads?: number; signal?: AbortSignal },
  { validation, known = {} }: { validation?: Validation; known?: Known } = {},
): Promise<Prepared> {
  if (choices.tokenDropout > 0 && (task.reads === 'tokens' || examples.pairs)) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `tokenDropout is ${choices.tokenDropout}; where tokens have labels, or belong to one of two texts, none can be left out.`,
    );
  }
  const { train, heldOut } = splitRows(encoder, task, tokenise(encoder, examples), validation, seed);
  const random = createRandom(seed);
  refuseAddition(encoder);
  const weights = withoutPooler(encoder.weights);
  // A vocabulary that is cut down must have the words of held-out examples too.
  const read = [...train.ids, ...(heldOut?.ids ?? [])];
  const adaptation = await adapt({ ...encoder, weights }, read, random, threads);
  if (train.types && adaptation.ids.some((row, i) => row.length < read[i]!.length)) {
    throw new FewtuneError(
      'OPTION_INVALID',
      'virtual tokens leave too few positions for the longest pair; take fewer.',
    );
  }
  const head = task.head(encoder.hidden, random);
  const typed = train.types !== undefined;
  const stages = checkedStages(choices, Object.keys(adaptation.params), encoder.layers);
  // Where the rate is open, whoever asks for it sets it.
  const lr = known.lr ?? (choices.lr === 'auto' ? 1 : choices.lr);
  const trainedWith = (settings: TuneSettings): Trained => {
    const steps = settings.epochs * stepsOf(train.rows.length, settings);
    const { recompute } = settings;
    return { encoder, adaptation, task, head, settings, recompute, typed, steps, stages, threads };
  };
  const { batchSize, recompute } = fitted(
    (size, layers) => trainedWith({ ...choices, lr, batchSize: size, recompute: layers }),
    train.ids.map(({ length }) => length),
    encoder.layers,
    { ...choices, ...known, memoryBytes },
    Object.keys(adaptation.frozen).length === 0
      ? () => ({ ...trainedWith({ ...choices, lr, batchSize: 1, recompute: 0 }), adaptation: startOfLora(weights) })
      : undefined,
  );
  const trained = trainedWith({ ...choices, lr, batchSize, recompute });
  const cached = stages[0]!.from;
  const cachedLooks = heldOut !== undefined && stages.every(({ from }) => from === cached);
  let opened: Promise<ActivationCache> | undefined;
  const cache = () => {
    const { cacheActivations } = choices;
    opened ??= ActivationCache.create(
      encoder,
      adaptation,
      joinedTokens(adaptation.ids, train, cachedLooks ? heldOut : undefined),
      cached,
      typeof cacheActivations === 'object' ? cacheActivations : {},
      { threads, signal },
    );
    return opened;
  };
  return {
    trained,
    train,
    heldOut,
    ids: adaptation.ids,
    cached,
    cachedLooks,
    cache,
    batches: epochsOf({ ...train, ids: adaptation.ids }, trained.settings, seed),
    dispose: async () => (await opened?.catch(() => undefined))?.dispose(),
  };
}

/** LoRA as far as a plan needs it. */
function startOfLora(weights: Encoder['weights']): Adaptation {
  const { adapter, base } = startLora(weights, { rank: 8, alpha: 16, targets: 'all-linear' }, createRandom(1));
  const linear = (params: Named<Tensor>) => applyAdapter(adapter, {}, params).linear;
  return { params: adapter.weights, frozen: base, ids: [], padId: 0, linear, merge: () => ({}) };
}

/** @throws FewtuneError OPTION_INVALID when states cannot be kept, but shall be */
function checkedStages(
  settings: Omit<TuneChoices, 'memoryBytes'>,
  trained: readonly string[],
  layers: number,
): Stage[] {
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

/** @param train rows of the task, and at least as many token ids @see Prepared.batches */
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
