import { adamW, type HostTensor, hostTensor, l2Normalize, linearDecay, type Named, trainStep } from '@fewtune/engine';
import { type Encoder, encode, packBatch, packedSpecs, packingOf, pool, tracedWeights } from '@fewtune/models';
import type { Random } from '../../data/random.js';
import { FewtuneError, throwIfAborted } from '../../errors.js';
import { type Adaptation, decays, heldFrozen } from './adaptation.js';
import { classBatches } from './class-batches.js';
import { supervisedContrastive } from './supervised-contrastive.js';

export interface ContrastiveOptions {
  readonly steps: number;
  readonly classesPerBatch: number;
  readonly perClass: number;
  readonly lr: number;
  /** τ of the loss. */
  readonly temperature: number;
  readonly weightDecay: number;
  /** Probability with which a token is left out, drawn anew for every batch. */
  readonly tokenDropout: number;
  /** Share of the steps in which the rate rises. */
  readonly warmup: number;
  readonly clipNorm: number;
}

/** What is trained, what is not, and how they are joined. */
export type Trainable = Pick<Adaptation, 'params' | 'frozen' | 'linear' | 'hooks' | 'lrScale'>;

export interface StageContext {
  readonly random: Random;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  /** The next step waits for it; `stop` makes this one the last. */
  onStep?(step: number, metrics: { loss: number; lr: number }, state: StageState): unknown;
  /** The signal was heard between two steps, `done` of them taken: a last look before the stage ends by INTERRUPTED. */
  onInterrupt?(done: number, state: StageState): unknown;
  /** What a run with the same seed had after `step` steps: its result is this one's, to the bit. */
  readonly from?: { readonly step: number; readonly snapshot: Named<HostTensor> };
}

/** A look at a stage between two steps. Copies. */
export interface StageState {
  params(): Promise<Record<string, HostTensor>>;
  snapshot(): Promise<Record<string, HostTensor>>;
}

/**
 * Pulls sentences of one class together and others apart, with every positive of each batch at once. Batches are drawn
 * as they are needed and run packed, without padding.
 *
 * @param ids token ids of each sentence
 * @returns the trained weights
 * @throws FewtuneError LOSS_NOT_FINITE, INTERRUPTED
 */
export async function contrastiveStage(
  encoder: Pick<Encoder, 'config' | 'pooling'>,
  trainable: Trainable,
  ids: readonly (readonly number[])[],
  labels: Int32Array,
  padId: number,
  options: ContrastiveOptions,
  context: StageContext,
): Promise<Record<string, HostTensor>> {
  const { steps, lr, temperature, weightDecay, clipNorm } = options;
  const step = await trainStep({
    params: trainable.params,
    ...heldFrozen(trainable.frozen),
    batch: { ...packedSpecs, labels: { dtype: 'int64', shape: ['batch'] } } as const,
    loss: (params, { frozen: held, batch }) => {
      const frozen = tracedWeights(trainable.frozen, held);
      const hidden = encode(encoder.config, { ...frozen, ...params }, batch, {
        linear: trainable.linear?.(params, frozen),
        hooks: trainable.hooks?.(params, frozen),
        packing: packingOf(batch),
      });
      const z = l2Normalize(pool(hidden, batch.attentionMask, encoder.pooling));
      return supervisedContrastive(z, batch.labels, temperature);
    },
    optimizer: adamW({ weightDecay, decays, lrScale: (name) => trainable.lrScale?.(name) ?? 1 }),
    schedule: linearDecay({ lr, steps, warmup: Math.round(steps * options.warmup) }),
    clipNorm,
    threads: context.threads,
  });
  try {
    const batches = classBatches(
      labels,
      { classes: options.classesPerBatch, perClass: options.perClass },
      context.random,
    );
    if (context.from) await step.restore(context.from.snapshot);
    for (let i = 0; i < steps; i++) {
      if (context.signal?.aborted) await context.onInterrupt?.(Math.max(i, context.from?.step ?? 0), step);
      throwIfAborted(context.signal);
      const rows = batches.next().value as number[];
      const sentences = rows.map((row) => dropTokens(ids[row]!, options.tokenDropout, context.random));
      if (i < (context.from?.step ?? 0)) continue; // drawn all the same: the next batch follows from it
      const metrics = await step.run({
        ...packBatch(sentences, padId),
        labels: hostTensor(
          'int64',
          [rows.length],
          rows.map((row) => labels[row]!),
        ),
      });
      if (!Number.isFinite(metrics.loss)) {
        throw new FewtuneError(
          'LOSS_NOT_FINITE',
          `the loss became ${metrics.loss} in step ${i + 1} of ${steps} at learning rate ${metrics.lr.toPrecision(2)}; ` +
            `try a lower rate than ${lr}, e.g. ${(lr / 10).toPrecision(1)}`,
        );
      }
      if ((await context.onStep?.(i + 1, metrics, step)) === 'stop') break;
    }
    return await step.params();
  } finally {
    await step.dispose();
  }
}

/**
 * A sentence with some of its tokens left out: no two epochs see the same sentence, and shorter ones cost less. Word
 * deletion as in CLEAR (Wu et al. 2020, arXiv:2012.15466). The special tokens at both ends stay.
 */
export function dropTokens(ids: readonly number[], probability: number, random: Random): readonly number[] {
  if (probability === 0) return ids;
  const kept = ids.filter((_, i) => i === 0 || i === ids.length - 1 || random.next() >= probability);
  return kept.length > 2 ? kept : ids;
}
