import type { EpisodeSource } from '../../data/meta-dataset.js';
import { FewtuneError } from '../../errors.js';
import { checkCount } from '../checks.js';
import type { LoraOptions } from '../peft/lora-layer.js';

/** How a text encoder is meta-trained; see `metaTrainText` for what the defaults are and reach. */
export interface MetaTextOptions extends Partial<LoraOptions> {
  readonly steps?: number;
  /** Peak rate of AdamW, after a tenth of the steps; it then falls to 0. */
  readonly lr?: number;
  /** Classes in a batch of about 72 sentences, and examples of each; `auto` fills it. */
  readonly classesPerBatch?: number;
  readonly perClass?: number | 'auto';
  /** τ of the contrastive loss. */
  readonly temperature?: number;
  /** Probability with which a token is left out, drawn anew for every batch. */
  readonly tokenDropout?: number;
  readonly weightDecay?: number;
  /** Share of the trained update that is kept, 0 to 1; `auto`: what the validation classes choose, without them a half. */
  readonly interpolation?: number | 'auto';
  /** Classes that are not trained on: their episodes choose what is kept, and when to stop. */
  readonly validation?: EpisodeSource;
  /** Steps between two looks at the validation classes; at the end only when left out. */
  readonly validateEvery?: number;
  /** Looks without a new best after which the run stops; never when left out. */
  readonly patience?: number;
  /** A safetensors file for the run's state, written every so many steps (a quarter of the run when left out) and on an interrupt. */
  readonly checkpoint?: { readonly path: string; readonly every?: number };
  /** A checkpoint of a run with the same options, data and encoder; the result is that of a run without a break. */
  readonly resume?: string;
  readonly seed?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

export const metaTextDefaults = {
  rank: 8,
  alpha: 16,
  targets: 'all-linear',
  steps: 120,
  lr: 4e-4,
  classesPerBatch: 32,
  perClass: 'auto',
  temperature: 0.05,
  tokenDropout: 0.25,
  weightDecay: 0.01,
  interpolation: 'auto',
  seed: 7,
} as const satisfies MetaTextOptions;

export type MetaTextSettings = MetaTextOptions & Required<Pick<MetaTextOptions, keyof typeof metaTextDefaults>>;

/** Options of meta-training in their ranges. @throws FewtuneError OPTION_INVALID */
export function checkMetaText(settings: MetaTextSettings): void {
  const { perClass, interpolation, validateEvery, patience, checkpoint } = settings;
  checkCount('steps', settings.steps, 1);
  checkCount('rank', settings.rank, 1);
  checkCount('classesPerBatch', settings.classesPerBatch, 2);
  if (perClass !== 'auto') checkCount('perClass', perClass, 2); // one example of a class has nothing to lie near to
  if (validateEvery !== undefined) checkCount('validateEvery', validateEvery, 1);
  if (patience !== undefined) checkCount('patience', patience, 1);
  if (checkpoint?.every !== undefined) checkCount('checkpoint.every', checkpoint.every, 1);
  const { alpha, lr, temperature, tokenDropout, weightDecay } = settings;
  const within = (name: string, value: number, fits: boolean, range: string) => {
    if (Number.isFinite(value) && fits) return;
    throw new FewtuneError('OPTION_INVALID', `${name} is ${value}; it must be ${range}.`);
  };
  within('alpha', alpha, alpha > 0, 'a number above 0');
  within('lr', lr, lr >= 0, 'a number from 0 up');
  within('temperature', temperature, temperature > 0, 'a number above 0');
  within('tokenDropout', tokenDropout, tokenDropout >= 0 && tokenDropout < 1, 'from 0 to below 1');
  within('weightDecay', weightDecay, weightDecay >= 0, 'a number from 0 up');
  if (interpolation === 'auto') return;
  within('interpolation', interpolation, interpolation >= 0 && interpolation <= 1, 'from 0 to 1, or "auto"');
}

/** The loss compares classes, and examples of one class. @throws FewtuneError CLASS_SINGLE */
export function requirePairs({ labels, classes }: EpisodeSource): void {
  const counts = new Int32Array(classes.length);
  for (const label of labels) counts[label]!++;
  const able = counts.filter((count) => count >= 2).length;
  if (able >= 2) return;
  throw new FewtuneError(
    'CLASS_SINGLE',
    `meta-training needs at least two classes with two examples each; of ${classes.length} classes ${able} ${able === 1 ? 'has' : 'have'} them.`,
  );
}
