import { basename } from 'node:path';
import type { Candidate, OutOfFold } from '../advisor/cross-validate.js';
import { race } from '../advisor/race.js';
import type { ModelReport } from '../artifact/classifier.js';
import type { EvaluatedOn, Metrics } from '../artifact/manifest.js';
import { readHead } from '../artifact/onnx-head.js';
import { packModel } from '../artifact/pack.js';
import { sha256Of } from '../artifact/sealed.js';
import { ClassifierSession } from '../artifact/session.js';
import { describeSupport, type KeptSupport, thinSupport } from '../artifact/support.js';
import { requireTrainable, type TextDataset } from '../data/dataset.js';
import { foldCountFor, stratifiedFolds } from '../data/split.js';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { fitTemperature } from '../evaluation/calibration.js';
import type { Fitted, Labelled, MethodName } from '../methods/method.js';
import { type Run, startRun } from '../run.js';
import { version } from '../version.js';
import { candidatesFor } from './candidates.js';
import { checkOptions } from './check-options.js';
import { openContext } from './context.js';
import { describeSeen } from './describe.js';
import { StageLog, type TrainEvent } from './events.js';
import { divide } from './hold-out.js';
import { crossFittedMetrics, describeFolds, metricsOf } from './measure.js';
import { type MetaTrained, openMetaTrained } from './meta-trained.js';
import { TrainedModel } from './trained-model.js';

export interface TrainOptions {
  /** Default `auto`: race all methods and keep the best. */
  readonly method?: 'auto' | MethodName;
  /** Options of the named method, as that method's page lists them. */
  readonly options?: Readonly<Record<string, unknown>>;
  /** Rows to measure on: another dataset, or the fraction of the rows (of every class) that is put aside. */
  readonly test?: TextDataset | number;
  /** Default 7. */
  readonly seed?: number;
  /** Hub id or folder of the encoder; default: the embedded one. */
  readonly encoder?: string;
  /** Folder of a meta-trained start (or an opened one): every method then works on its encoder. Not with `encoder`. */
  readonly from?: string | MetaTrained;
  /** Seconds for the race and the last fit together; default 120. */
  readonly budget?: number;
  /**
   * Whether the folder keeps the training texts, so that predictions can be explained with them; default true. Their
   * features are kept in any case: without them no class could be learned later.
   */
  readonly keepExamples?: boolean;
  readonly threads?: number;
  readonly signal?: AbortSignal;
}

export type TrainRun = Run<TrainEvent, TrainedModel>;

export const trainDefaults = { method: 'auto', seed: 7, budget: 120, keepExamples: true } as const;

/**
 * Learns a text classifier from labelled examples, measures it and calibrates its confidences.
 *
 * Measured on `test` if given (the model is then fitted on the other rows only), else by stratified cross-validation
 * (the model is then fitted on all rows).
 *
 * @throws (through `result` and through iteration) FewtuneError CLASS_SINGLE, CLASS_TOO_SMALL, OPTION_INVALID,
 *   LABEL_UNKNOWN, LOSS_NOT_FINITE, INTERRUPTED
 * @example
 * const data = await readTable('tickets.csv', { text: 'message', label: 'intent' });
 * const run = train(data, { method: 'auto', seed: 7 });
 * for await (const event of run) console.log(event.stage, event.fraction, event.metrics);
 * const model = await run.result;
 */
export function train(data: TextDataset, options: TrainOptions = {}): TrainRun {
  return startRun((emit) =>
    learn(data, options, new StageLog(emit)).catch((cause: unknown) => {
      throw interruptedOr(cause, options.signal);
    }),
  );
}

/**
 * Finds wrong options before any work is done; `train` does so itself.
 *
 * @returns the methods that would be tried
 * @throws FewtuneError OPTION_INVALID
 */
export function checkTrainOptions(options: TrainOptions): readonly Candidate[] {
  checkOptions(options);
  const { method = trainDefaults.method, from, encoder } = options;
  if (from !== undefined && encoder !== undefined) {
    throw new FewtuneError(
      'OPTION_INVALID',
      'from and encoder were both given; a meta-trained start brings its own encoder. Give one of them.',
    );
  }
  if (from !== undefined && method === 'tfidf') {
    throw new FewtuneError(
      'OPTION_INVALID',
      'from: the method tfidf has no encoder to start from. Name another method.',
    );
  }
  return candidatesFor(method, options.options);
}

/** Whatever an abort made fail is an interruption, in whichever package it surfaced. */
function interruptedOr(cause: unknown, signal?: AbortSignal): unknown {
  const known = cause instanceof FewtuneError || signal?.aborted !== true;
  return known ? cause : new FewtuneError('INTERRUPTED', 'interrupted before it finished', { cause });
}

async function learn(data: TextDataset, options: TrainOptions, log: StageLog): Promise<TrainedModel> {
  const started = performance.now();
  const candidates = checkTrainOptions(options);
  const { method = trainDefaults.method, seed = trainDefaults.seed, budget = trainDefaults.budget, signal } = options;
  requireTrainable(data);
  const { learned, test } = divide(data, options.test, seed);
  log.emit('read', 1, { examples: learned.texts.length, classes: learned.classes.length });

  const from = typeof options.from === 'string' ? await openMetaTrained(options.from, { signal }) : options.from;
  const start = from?.describeFor(learned.classes);
  const warn = (warning: string) => log.emit('features', 0, { warning });
  if (start !== undefined && start.seen.length > 0) warn(describeSeen(start));
  const encoder = from?.encoder ?? options.encoder;
  await using context = openContext({
    ...options,
    encoder,
    ...(from && { mamlStart: async () => from.mamlStart() }),
    seed,
    onWarning: warn,
  });
  if (candidates.some((candidate) => candidate.method.name !== 'tfidf')) {
    const source = await context.features();
    await source.features(learned.texts, { signal, onProgress: (fraction) => log.emit('features', fraction) });
  }
  const foldCount = foldCountFor(learned.labels);
  const folds = stratifiedFolds(learned.labels, foldCount, seed);
  const { winner, outOfFold, advice } = await race(learned, candidates, {
    folds,
    foldCount,
    budgetSeconds: budget,
    context,
    requested: method,
    // With a test set the folds only choose and calibrate; for one named method a single fold is enough.
    ...(test !== undefined && candidates.length === 1 ? { maxCostlyFolds: 1 } : {}),
    onProgress: (fraction, metrics) => log.emit('race', fraction, metrics),
  });

  const name = winner.method.name;
  log.emit('fit', 0, { method: name });
  const fitted = await winner.method.fit(learned, winner.options, {
    ...context,
    onProgress: (fraction, metrics) => log.emit('fit', fraction, { method: name, ...metrics }),
  });
  throwIfAborted(signal);
  const held = heldOutLogits(learned, folds, outOfFold);
  const temperature = fitTemperature(held.logits, held.labels, learned.classes.length);
  const support = keptSupport(fitted, learned, options.keepExamples ?? trainDefaults.keepExamples);
  const packed = packModel(await fitted.graph(), learned.classes, temperature, support);
  await fitted.dispose?.();

  const learnedState = support && {
    support,
    head: readHead(packed.get('onnx/model.onnx') as Uint8Array),
    isChanged: false,
  };
  const session = await ClassifierSession.open(packed, { threads: options.threads });
  log.emit('evaluate', 0);
  const measured = await measure().catch(async (error: unknown) => {
    await session.dispose();
    throw error;
  });
  log.emit('evaluate', 1, { accuracy: measured.metrics.accuracy });
  const usedEncoder = name === 'tfidf' ? undefined : await context.encoder();
  const report: ModelReport = {
    schemaVersion: 1,
    task: 'text-classification',
    library: { name: 'fewtune', version },
    created: new Date().toISOString(),
    method: { name, options: { ...(winner.options as object) }, details: { ...fitted.details } },
    ...(usedEncoder === undefined
      ? {}
      : {
          encoder: {
            id: usedEncoder.id,
            revision: usedEncoder.revision,
            fingerprint: usedEncoder.fingerprint,
            ...(start && { start }),
          },
        }),
    preprocessing: { maxLength: session.tokenizer.maxLength, padId: session.tokenizer.padId },
    labels: [...learned.classes],
    temperature,
    trainingData: {
      source: basename(data.source), // a path would tell strangers about this machine
      fingerprint: fingerprintOf(learned),
      examples: learned.texts.length,
      classes: learned.classes.length,
      repairs: data.repairs.map(({ kind, count, remedy }) => ({ kind, count, remedy })),
    },
    ...(support && { support: describeSupport(support) }),
    seed,
    seconds: (performance.now() - started) / 1000,
    ...measured,
    advice,
  };
  return new TrainedModel({ report, session, ...(learnedState && { learned: learnedState }) }, async () => packed);

  async function measure(): Promise<{ metrics: Metrics; evaluatedOn: EvaluatedOn }> {
    if (test === undefined) {
      const metrics = crossFittedMetrics(held.logits, held.labels, held.folds, learned.classes.length, seed);
      const raced = advice.tried.length;
      return { metrics, evaluatedOn: describeFolds(held.labels.length, outOfFold.foldsDone, foldCount, raced) };
    }
    const onProgress = (fraction: number) => log.emit('evaluate', 0.99 * fraction);
    const logits = await session.logits(test.texts, { signal, onProgress });
    const calibrated =
      `The confidences were calibrated on ${held.labels.length} out-of-fold training rows` +
      `${outOfFold.foldsDone < foldCount ? ` (${outOfFold.foldsDone} of ${foldCount} folds)` : ''}.`;
    return {
      metrics: metricsOf(logits, test.labels, learned.classes.length, seed),
      evaluatedOn: {
        kind: 'test',
        examples: test.texts.length,
        how: `${test.how} The saved model was fitted on the ${learned.texts.length} others. ${calibrated}`,
      },
    };
  }
}

/** What the folder keeps of the examples. */
function keptSupport(fitted: Fitted, { texts, labels }: Labelled, withTexts: boolean): KeptSupport | undefined {
  if (fitted.support === undefined) return undefined;
  const { hidden, features, names } = fitted.support;
  return thinSupport({
    hidden,
    features,
    labels,
    ...(names && { names }),
    ...(withTexts && { texts }),
    learnedFrom: texts.length,
  });
}

/** The out-of-fold rows that were predicted, without gaps. */
function heldOutLogits(data: Labelled, folds: Int32Array, outOfFold: OutOfFold) {
  const rows = outOfFold.rows();
  const classes = data.classes.length;
  const logits = new Float32Array(rows.length * classes);
  for (const [i, row] of rows.entries()) {
    logits.set(outOfFold.logits.subarray(row * classes, (row + 1) * classes), i * classes);
  }
  return {
    logits,
    labels: Int32Array.from(rows, (row) => data.labels[row]!),
    folds: Int32Array.from(rows, (row) => folds[row]!),
  };
}

/** SHA-256 over the rows that were learned from, in order. */
export function fingerprintOf({ texts, labels, classes }: Labelled): string {
  return sha256Of(JSON.stringify(texts.map((text, row) => [text, classes[labels[row]!]])));
}
