import type { HostTensor } from '@fewtune/engine';
import { lengthBatches } from '@fewtune/models';
import { FewtuneError } from '../../errors.js';
import { CachedFeatures } from '../features.js';
import { headGraph } from '../head.js';
import { headLogits, type LinearHead } from '../linear/logistic.js';
import type { Fitted, Labelled } from '../method.js';
import { adaptEncoder, type LoraAdapter } from '../peft/adapter.js';
import { labelTensor } from './lora-encoder.js';
import { Maml } from './maml.js';
import { learnsRates } from './task-loss.js';
import { bilevelOf, mamlEncoder } from './text-maml.js';
import type { TextMamlStart } from './text-maml-start.js';

export interface AdaptTextOptions {
  /** Inner steps; as many as were meta-trained when left out. */
  readonly innerSteps?: number;
  /** Inner rate; that of meta-training when left out. Refused where the start has learned its rates. */
  readonly innerLr?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (fraction: number, metrics: Readonly<Record<string, number>>) => void;
}

/** Tokens of one part of the examples: memory is that of one part, and its products are large enough. */
const tokensPerPart = 1024;

/**
 * An ordinary text classifier from labelled examples: the inner loop of MAML, on all of them at once. What comes out is an
 * encoder with the adapted LoRA weights merged into it and a linear head on its features, so it predicts, saves and
 * serves like any other.
 *
 * @throws FewtuneError LOSS_NOT_FINITE when it diverges and lower rates do not help; CLASS_TOO_SMALL, OPTION_INVALID,
 *   INTERRUPTED
 */
export async function adaptText(
  start: TextMamlStart,
  data: Labelled,
  { innerSteps, innerLr, threads, signal, onProgress }: AdaptTextOptions = {},
): Promise<Fitted> {
  requireEveryClass(data);
  const { variant } = start.settings;
  if (innerLr !== undefined && learnsRates(variant)) {
    throw new FewtuneError(
      'OPTION_INVALID',
      `innerLr is ${innerLr}, but this start has learned its rates (${variant}), and they are what it adapts with. Leave innerLr out.`,
    );
  }
  const settings = { ...start.settings, ...(innerLr !== undefined && { innerLr }) };
  const model = mamlEncoder({ encoder: start.encoder, settings }, data.classes.length);
  const steps = innerSteps ?? settings.innerSteps;
  await using maml = new Maml({ model, ...bilevelOf(settings), start: start.params, threads });
  const { tokenizer } = start.encoder;
  const order = lengthBatches(
    data.texts.map((text) => tokenizer.encode(text)),
    { tokensPerBatch: tokensPerPart },
  );
  const support = order.map((rows) => ({
    x: model.tokens(rows.map((row) => data.texts[row]!)),
    y: labelTensor(rows.map((row) => data.labels[row]!)),
  }));
  const adapted = await maml.adapt(
    { support },
    { steps, signal, onStep: (step, loss) => onProgress?.((0.95 * step) / (steps + 1), { step, loss }) },
  );
  const { 'head.weight': weight, 'head.bias': bias, ...lora } = adapted.weights;
  const { rank, alpha } = settings;
  const adapter: LoraAdapter = { method: 'lora', rank, alpha, weights: lora };
  const encoder = adaptEncoder(start.encoder, adapter);
  const head: LinearHead = { weight: scaled(weight!, model.scale), bias: bias!.data as Float32Array };
  const features = new CachedFeatures(encoder, { threads, cache: false });
  const shown = await features.features(data.texts, { signal }).catch(async (error) => {
    await features.dispose();
    throw error;
  });
  onProgress?.(1, { loss: adapted.supportLoss.after });
  return {
    logits: async (texts, signal) => headLogits(head, await features.features(texts, { signal })),
    graph: async () => headGraph(encoder, head),
    support: { hidden: encoder.hidden, features: shown },
    details: {
      variant: settings.variant,
      innerSteps: steps,
      supportLoss: adapted.supportLoss.after,
      supportLossBefore: adapted.supportLoss.before,
      rateHalvings: adapted.rateHalvings,
      scale: model.scale,
    },
    dispose: () => features.dispose(),
  };
}

const scaled = ({ data }: HostTensor, by: number): Float32Array =>
  Float32Array.from(data as Float32Array, (value) => value * by);

/** A class without an example has no prototype. */
function requireEveryClass({ labels, classes }: Labelled): void {
  const seen = new Set(labels);
  const missing = classes.filter((_, c) => !seen.has(c));
  if (missing.length === 0) return;
  throw new FewtuneError('CLASS_TOO_SMALL', `these classes have no example: ${missing.slice(0, 5).join(', ')}.`);
}
