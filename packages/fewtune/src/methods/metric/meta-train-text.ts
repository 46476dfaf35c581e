import { createHash } from 'node:crypto';
import { type HostTensor, hostTensor, type Named } from '@fewtune/engine';
import type { Encoder } from '@fewtune/models';
import type { EpisodeSource } from '../../data/meta-dataset.js';
import { createRandom } from '../../data/random.js';
import { type Run, startRun } from '../../run.js';
import { withoutPooler } from '../peft/adaptation.js';
import { adaptEncoder, type LoraAdapter } from '../peft/adapter.js';
import { contrastiveStage, type StageState } from '../peft/contrastive-stage.js';
import { initLora, loraLinear, mergeLora } from '../peft/lora-layer.js';
import { linearsMeant } from '../peft/targets.js';
import { episodeAccuracy } from './episode-accuracy.js';
import {
  checkMetaText,
  type MetaTextOptions,
  type MetaTextSettings,
  metaTextDefaults,
  requirePairs,
} from './meta-text-options.js';
import { type Kept, type Look, readTextCheckpoint, writeTextCheckpoint } from './text-checkpoint.js';

/** Raised whenever the same options lead to other weights; part of the key under which trained weights are kept. */
export const metaTextRecipe = 1;

/** Shares that validation chooses from, and what is kept without it. */
const SHARES = [0.25, 0.5, 0.75, 1];
const BLIND_SHARE = 0.5;
const BATCH_ROWS = 72;

export interface MetaTextEvent {
  /** From 1. */
  readonly step: number;
  readonly steps: number;
  /** Of this batch, before the step. */
  readonly loss: number;
  readonly lr: number;
  readonly elapsedMs: number;
  /** Best accuracy of plain prototypes on the validation episodes, where this step had a look at them. */
  readonly validation?: number;
}

export interface MetaTextResult {
  /** What was learned; the interpolation is in its B matrices. */
  readonly adapter: LoraAdapter;
  /** The encoder with the adapter merged into it and a fingerprint of its own: any method takes it. */
  readonly encoder: Encoder;
  readonly steps: number;
  /** The step whose update was kept (0: nothing beat the encoder as it was), and the share of it. */
  readonly keptStep: number;
  readonly keptShare: number;
  /** Accuracy on the validation episodes: at step 0, which is the encoder as it was, and of each share at each look. */
  readonly validation: readonly Look[];
  readonly classes: readonly string[];
}

/**
 * Meta-trains a text encoder on the classes of a source, so that classes it has never seen lie apart: LoRA weights on
 * every linear layer, trained with the supervised contrastive loss on class-balanced batches, then moved back towards the
 * base (WiSE-FT: Wortsman et al. 2022, arXiv:2109.01903), which keeps what the training classes do not teach.
 *
 * @throws FewtuneError CLASS_SINGLE, OPTION_INVALID, LOSS_NOT_FINITE, INTERRUPTED; of a checkpoint FILE_NOT_FOUND,
 *   FILE_UNREADABLE, OPTION_INVALID (of another run), OUTPUT_UNWRITABLE
 * @example
 * const { train, validation, test } = metaDataset(data, splitClasses(data.classes, { train: 0.6, validation: 0.2, test: 0.2 }, 7));
 * const run = metaTrainText(await loadEncoder(), train, { validation });
 * for await (const { step, loss } of run) console.log(step, loss);
 * const { encoder } = await run.result;
 */
export function metaTrainText(
  encoder: Encoder,
  source: EpisodeSource,
  options: MetaTextOptions = {},
): Run<MetaTextEvent, MetaTextResult> {
  return startRun((emit) => trained(encoder, source, { ...metaTextDefaults, ...options }, emit));
}

async function trained(
  encoder: Encoder,
  source: EpisodeSource,
  settings: MetaTextSettings,
  emit: (event: MetaTextEvent) => void,
): Promise<MetaTextResult> {
  checkMetaText(settings);
  requirePairs(source);
  const { rank, alpha, steps, signal, threads, checkpoint, validation } = settings;
  const frozen = withoutPooler(encoder.weights);
  const modules = linearsMeant(frozen, settings.targets);
  const random = createRandom(settings.seed);
  const params = initLora(frozen, modules, rank, random);
  const identity = identityOf(encoder, source, settings);
  const resumed = settings.resume === undefined ? undefined : await readTextCheckpoint(settings.resume, identity);

  /** An encoder with some share of an update; not fingerprinted, which costs more than a step. */
  const merged = (update: Named<HostTensor>): Encoder => ({
    ...encoder,
    weights: { ...encoder.weights, ...mergeLora(frozen, update, alpha / rank) },
  });
  // Half a round of looks could not be gone on from: with a checkpoint to be kept it is ended before the interrupt.
  const look = (update: Named<HostTensor>) =>
    episodeAccuracy(merged(update), validation!, { threads, ...(!checkpoint && { signal }) });
  const { interpolation } = settings;
  const shares = interpolation === 'auto' ? SHARES : [interpolation];

  let kept: Kept = resumed?.kept ?? { step: 0, share: 0, params, looks: [] };
  if (validation && !resumed) kept = { ...kept, looks: [{ step: 0, share: 0, accuracy: await look(params) }] };
  const every = settings.validateEvery ?? steps;
  const keepEvery = checkpoint?.every ?? Math.max(1, Math.ceil(steps / 4));
  const started = performance.now();
  let last = resumed?.step ?? 0;
  const keep = async (step: number, state: StageState) => {
    if (checkpoint)
      await writeTextCheckpoint(checkpoint.path, identity, { step, kept, snapshot: await state.snapshot() });
  };

  const onStep = async (step: number, metrics: { loss: number; lr: number }, state: StageState) => {
    last = step;
    const looking = validation !== undefined && (step % every === 0 || step === steps);
    const found = looking ? await state.params() : params;
    let accuracy: number | undefined;
    for (const share of looking ? shares : []) {
      const one = { step, share, accuracy: await look(scaled(found, share)) };
      accuracy = Math.max(accuracy ?? 0, one.accuracy);
      const best = Math.max(...kept.looks.map((entry) => entry.accuracy));
      const looks = [...kept.looks, one];
      kept = one.accuracy > best ? { step, share, params: found, looks } : { ...kept, looks };
    }
    const sinceBest = new Set(kept.looks.flatMap((entry) => (entry.step > kept.step ? [entry.step] : []))).size;
    const stop = looking && sinceBest >= (settings.patience ?? Number.POSITIVE_INFINITY);
    // Where it stopped a resumed run would go on: it comes to the same end from an earlier step.
    if (step % keepEvery === 0 && !stop) await keep(step, state);
    const elapsedMs = performance.now() - started;
    emit({ step, steps, ...metrics, elapsedMs, ...(accuracy === undefined ? {} : { validation: accuracy }) });
    return stop ? 'stop' : undefined;
  };

  const end = await contrastiveStage(
    encoder,
    { params, frozen, linear: (traced) => loraLinear(traced, alpha / rank) },
    source.texts.map((text) => encoder.tokenizer.encode(text)),
    source.labels,
    encoder.tokenizer.padId,
    { ...settings, ...batchOf(settings, source), warmup: 0.1, clipNorm: 1 },
    {
      ...{ random, threads, signal, onStep, onInterrupt: keep },
      ...(resumed && { from: { step: resumed.step, snapshot: resumed.snapshot } }),
    },
  );
  if (!validation) {
    kept = { step: last, share: interpolation === 'auto' ? BLIND_SHARE : interpolation, params: end, looks: [] };
  }
  const { id, revision, fingerprint } = encoder;
  const adapter: LoraAdapter = {
    method: 'lora',
    rank,
    alpha,
    targets: modules,
    weights: scaled(kept.params, kept.share),
    base: { id, ...(revision && { revision }), fingerprint },
  };
  return {
    adapter,
    encoder: adaptEncoder(encoder, adapter),
    steps: last,
    keptStep: kept.step,
    keptShare: kept.share,
    validation: kept.looks,
    classes: source.classes,
  };
}

function batchOf({ classesPerBatch, perClass }: MetaTextSettings, { classes }: EpisodeSource) {
  const width = Math.min(classesPerBatch, classes.length);
  return {
    classesPerBatch: width,
    perClass: perClass === 'auto' ? Math.max(2, Math.round(BATCH_ROWS / width)) : perClass,
  };
}

/** W + share · ΔW: the share goes to B. */
function scaled(params: Named<HostTensor>, share: number): Record<string, HostTensor> {
  const entries = Object.entries(params).map(([name, tensor]): [string, HostTensor] => {
    if (share === 1 || !name.endsWith('.lora_B.weight')) return [name, tensor];
    const data = (tensor.data as Float32Array).map((value) => share * value);
    return [name, hostTensor('float32', tensor.shape, data)];
  });
  return Object.fromEntries(entries);
}

/** Everything that must be the same for a resumed run to be the run it goes on from. */
function identityOf(encoder: Encoder, source: EpisodeSource, settings: MetaTextSettings): Record<string, unknown> {
  const { checkpoint, resume, signal, threads, validation, ...plain } = settings;
  const digest = (of: EpisodeSource | undefined) =>
    of === undefined
      ? null
      : createHash('sha256')
          .update(JSON.stringify([of.texts, [...of.labels], of.classes]))
          .digest('hex');
  return { ...plain, encoder: encoder.fingerprint, data: digest(source), validation: digest(validation) };
}
