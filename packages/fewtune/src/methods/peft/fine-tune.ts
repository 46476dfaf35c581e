import { compile, elementCount, type HostTensor, hostTensor, matMul, type Named } from '@fewtune/engine';
import type { Encoder } from '@fewtune/models';
import { z } from 'zod';
import { createRandom } from '../../data/random.js';
import { CachedFeatures } from '../features.js';
import { headGraph } from '../head.js';
import { labelText } from '../label-names.js';
import { createLogisticSolver, headLogits, headOf } from '../linear/logistic.js';
import type { FitContext, Fitted, Labelled } from '../method.js';
import { embedSupport, withNames } from '../support.js';
import { type Adapt, refuseAddition, withoutPooler } from './adaptation.js';
import { adaptEncoder, baseOf } from './adapter.js';
import { isAdded } from './additions.js';
import { type ContrastiveOptions, contrastiveStage } from './contrastive-stage.js';
import { partOfAdapter } from './shared-part.js';

/** Options that every way of fine-tuning shares. */
export const fineTuneFields = (lr: number) => ({
  /** Largest learning rate; it rises for the first tenth of the steps and falls to 0. */
  lr: z.number().positive().default(lr),
  /** Steps of the contrastive stage; `auto` follows the number of examples. */
  steps: z.union([z.number().int().positive(), z.literal('auto')]).default('auto'),
  /** Classes in a batch, and examples of each; `auto` fills a batch of about 96. */
  classesPerBatch: z.number().int().min(2).default(32),
  perClass: z.union([z.number().int().min(2), z.literal('auto')]).default('auto'),
  /** τ of the contrastive loss. */
  temperature: z.number().positive().default(0.1),
  /** Probability with which a token is left out, drawn anew for every batch. */
  tokenDropout: z.number().min(0).max(0.9).default(0.25),
  weightDecay: z.number().min(0).default(0.01),
  /** Where the kept weights lie between the base (0) and the tuned ones (1). */
  interpolation: z.number().min(0).max(1).default(0.8),
  /** Inverse strength of the head's penalty, as scikit-learn's C. */
  C: z.number().positive().default(30),
  /** The label's own words as one example more of its class; `auto` where they agree with the examples. */
  labelNames: z.union([z.boolean(), z.literal('auto')]).default('auto'),
});

export type FineTuneOptions = z.infer<z.ZodObject<ReturnType<typeof fineTuneFields>>>;

/**
 * Fine-tunes the encoder with a supervised contrastive stage, then fits logistic regression on the features of the
 * tuned encoder: SetFit's two stages (Tunstall et al. 2022, arXiv:2209.11055), with every positive of a batch at once
 * instead of sampled pairs. Between them the weights are moved back towards the base, which keeps what a handful of
 * examples cannot teach (WiSE-FT: Wortsman et al. 2022, arXiv:2109.01903).
 */
export async function fineTune(
  data: Labelled,
  options: FineTuneOptions,
  context: FitContext,
  adapt: Adapt,
): Promise<Fitted> {
  const { signal, threads } = context;
  const encoder = await context.encoder();
  refuseAddition(encoder);
  const random = createRandom(context.seed);
  const base = await embedSupport(data, options.labelNames, { ...context, onProgress: undefined });
  const named = base.names !== undefined;
  const texts = named ? [...data.texts, ...data.classes.map(labelText)] : data.texts;
  const labels = named ? Int32Array.from([...data.labels, ...data.classes.keys()]) : data.labels;
  const weights = withoutPooler(encoder.weights);
  const ids = texts.map((text) => encoder.tokenizer.encode(text));
  const adaptation = await adapt({ ...encoder, weights }, ids, random, threads);
  const stage = stageOptions(options, labels.length, data.classes.length);
  const trained = await contrastiveStage(encoder, adaptation, adaptation.ids, labels, adaptation.padId, stage, {
    random,
    threads,
    signal,
    onStep: (step, metrics) => context.onProgress?.((0.95 * step) / stage.steps, { step, ...metrics }),
  });

  const whole = adaptation.adapter?.(trained);
  const adapter = whole && partOfAdapter(whole, weights, options.interpolation);
  const tuned =
    adapter && isAdded(adapter)
      ? adaptEncoder({ ...encoder, weights }, adapter)
      : {
          ...encoder,
          weights: interpolate(adaptation.base ?? weights, adaptation.merge(trained), options.interpolation),
        };
  const features = new CachedFeatures(tuned, { threads, cache: false });
  const tunedContext = { ...context, features: async () => features, onProgress: undefined };
  const { support, fit } = await fitHead(data, named, options.C, tunedContext).catch(async (error: unknown) => {
    await features.dispose();
    throw error;
  });
  const head = headOf(fit.parameters, support.classes);
  context.onProgress?.(1, { loss: fit.loss });
  const trainable = Object.values(adaptation.params).reduce((sum, { shape }) => sum + elementCount(shape), 0);
  return {
    logits: async (texts, signal) => headLogits(head, await features.features(texts, { signal })),
    graph: async () => headGraph(tuned, head),
    support,
    ...(adapter && {
      adapter: { ...adapter, base: baseOf(encoder, adaptation.base ?? weights) },
    }),
    details: { steps: stage.steps, lr: options.lr, trainableParameters: trainable, labelNames: named },
    dispose: () => features.dispose(),
  };
}

/** Logistic regression on the features of the context. */
async function fitHead(data: Labelled, labelNames: boolean, C: number, context: FitContext) {
  const support = await embedSupport(data, labelNames, context);
  const solver = await createLogisticSolver(support.hidden, support.classes, { threads: context.threads });
  const fit = await solver
    .fit(withNames(support, support.names), { C, signal: context.signal })
    .finally(() => solver.dispose());
  return { support, fit };
}

/** Rows of a batch: enough partners for every sentence, and large enough products for two cores. */
const batchRows = 96;
/** How often each example is seen, and the bounds of that: fewer steps do not move the encoder, more bring nothing. */
const epochs = 16;
const [fewestSteps, mostSteps] = [40, 300];

function stageOptions(options: FineTuneOptions, rows: number, classes: number): ContrastiveOptions {
  const width = Math.min(options.classesPerBatch, classes);
  const perClass = options.perClass === 'auto' ? Math.max(3, Math.round(batchRows / width)) : options.perClass;
  const wanted = Math.ceil((epochs * rows) / (width * perClass));
  const steps = options.steps === 'auto' ? Math.min(mostSteps, Math.max(fewestSteps, wanted)) : options.steps;
  return { ...options, perClass, steps, warmup: 0.1, clipNorm: 1 };
}

/** base + share · (tuned − base), weight by weight. */
function interpolate(base: Named<HostTensor>, tuned: Named<HostTensor>, share: number): Record<string, HostTensor> {
  const between = ([name, { shape, data }]: [string, HostTensor]): [string, HostTensor] => {
    const from = base[name]!.data as Float32Array;
    if (data === from || share === 1) return [name, tuned[name]!];
    const mixed = Float32Array.from(data as Float32Array, (value, i) => from[i]! + share * (value - from[i]!));
    return [name, hostTensor('float32', shape, mixed)];
  };
  return Object.fromEntries(Object.entries(tuned).map(between));
}

/**
 * Seconds of one fit: the floating-point operations of its matrix products at the speed a matrix product has here and
 * now, with what a step does besides on top.
 *
 * @param passes matrix products of a step as multiples of the forward pass: 2 with frozen weights, 3 with trained ones
 */
export async function estimateFineTune(
  data: Labelled,
  options: FineTuneOptions,
  context: FitContext,
  passes: number,
): Promise<number> {
  const { steps, perClass } = stageOptions(options, data.texts.length, data.classes.length);
  const rows = Math.min(options.classesPerBatch, data.classes.length) * perClass;
  const forward = passes * rows * steps + data.texts.length;
  return estimatePasses(await context.encoder(), data.texts, forward, context.threads);
}

/** Seconds of as many forward passes of a text through an encoder, opening it included. */
export async function estimatePasses(
  encoder: Encoder,
  texts: readonly string[],
  passes: number,
  threads?: number,
): Promise<number> {
  const sample = texts.filter((_, i) => i % Math.ceil(texts.length / 100) === 0);
  const tokens = sample.reduce((sum, text) => sum + encoder.tokenizer.encode(text).length, 0) / sample.length;
  const linearWeights = Object.entries(encoder.weights)
    .filter(([name, { shape }]) => shape.length === 2 && !/embedding|pooler/.test(name))
    .reduce((sum, [, { shape }]) => sum + elementCount(shape), 0);
  const flops = 2 * linearWeights * tokens * passes;
  const overhead = 1.6; // attention, normalisation, activations, optimiser: measured on MiniLM
  const opening = 3;
  return opening + (overhead * flops) / (await matrixSpeed(threads));
}

const speeds = new Map<number | undefined, Promise<number>>();

/** `measureMatrixSpeed`, once a process: two methods must not be told apart by the noise of two measurements. */
export function matrixSpeed(threads?: number): Promise<number> {
  const known = speeds.get(threads) ?? measureMatrixSpeed(threads);
  speeds.set(threads, known);
  return known;
}

/** Floating-point operations a second of a matrix product of the encoder's kind. */
async function measureMatrixSpeed(threads?: number): Promise<number> {
  const [m, k, n] = [512, 384, 1536] as const;
  const spec = (shape: number[]) => ({ dtype: 'float32', shape }) as const;
  const program = await compile(({ a, b }) => matMul(a, b), { a: spec([m, k]), b: spec([k, n]) }, { threads });
  const inputs = {
    a: hostTensor('float32', [m, k], new Float32Array(m * k)),
    b: hostTensor('float32', [k, n], new Float32Array(k * n)),
  };
  await program.run(inputs);
  // The fastest of some runs: what else the machine does only ever makes one slower.
  let fastest = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 15; i++) {
    const start = performance.now();
    await program.run(inputs);
    fastest = Math.min(fastest, performance.now() - start);
  }
  await program.dispose();
  return (2 * m * k * n) / (fastest / 1000);
}
