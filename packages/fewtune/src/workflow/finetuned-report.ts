import { basename } from 'node:path';
import { pick } from '../advisor/cross-validate.js';
import type { ModelReport } from '../artifact/classifier.js';
import type { ClassifierSession } from '../artifact/session.js';
import type { TextDataset } from '../data/dataset.js';
import { stratifiedSplit } from '../data/split.js';
import { FewtuneError } from '../errors.js';
import { accuracy, argmaxRows } from '../evaluation/metrics.js';
import type { Labelled } from '../methods/method.js';
import { type Run, startRun } from '../run.js';
import { version } from '../version.js';
import { metricsOf } from './measure.js';
import { fingerprintOf } from './train.js';

/** Where the fine-tuning of a classifier is, whether of an encoder or of an ONNX model. */
export interface FinetuneEvent {
  readonly stage: 'read' | 'fit' | 'evaluate';
  /** Of the whole run, 0..1. */
  readonly fraction: number;
  readonly elapsedMs: number;
  readonly metrics: Readonly<Record<string, number | string>>;
}

export type ShowFinetune = (
  stage: FinetuneEvent['stage'],
  fraction: number,
  metrics?: FinetuneEvent['metrics'],
) => void;

/** A run of `work`, which is given what shows its events. Whatever an abort made fail is an interruption. */
export function startFinetune<Result>(
  work: (show: ShowFinetune) => Promise<Result>,
  signal?: AbortSignal,
): Run<FinetuneEvent, Result> {
  return startRun((emit) => {
    const started = performance.now();
    return work((stage, fraction, metrics = {}) =>
      emit({ stage, fraction, elapsedMs: performance.now() - started, metrics }),
    ).catch((cause: unknown) => {
      if (cause instanceof FewtuneError || signal?.aborted !== true) throw cause;
      throw new FewtuneError('INTERRUPTED', 'interrupted before it finished', { cause });
    });
  });
}

/** What merging did, measured on texts that nothing was learned from. */
export interface MergeReport {
  /** False where adapters stay nodes of their own, beside weights that are quantised or used twice. */
  readonly merged: boolean;
  readonly texts: number;
  /** Largest |difference| of a logit, before the temperature, between adapters beside the weights and the written file. */
  readonly largestDifference: number;
  readonly accuracyBefore: number;
  readonly accuracyAfter: number;
}

/** Differences of uncalibrated logits, and how many rows are right by each. */
export function compareLogits(
  before: Float32Array,
  after: Float32Array,
  temperature: number,
  labels: Int32Array,
  classes: number,
): Omit<MergeReport, 'merged'> {
  const largestDifference = before.reduce(
    (most, value, i) => Math.max(most, Math.abs(value - temperature * after[i]!)),
    0,
  );
  const right = (logits: Float32Array) => accuracy(argmaxRows(logits, classes), labels);
  return { texts: labels.length, largestDifference, accuracyBefore: right(before), accuracyAfter: right(after) };
}

/**
 * Puts a share of every class aside; each keeps a row to learn from.
 *
 * @throws FewtuneError CLASS_TOO_SMALL
 */
export function holdOut(
  all: Labelled,
  share: number,
  seed: number,
  source: string,
): { learned: Labelled; held: Labelled } {
  const { train, test } = stratifiedSplit(all.labels, share, seed);
  if (test.length > 0) return { learned: pick(all, [...train]), held: pick(all, [...test]) };
  throw new FewtuneError(
    'CLASS_TOO_SMALL',
    `${source}: ${all.texts.length} rows are too few to hold ${share} of them back, which the weights are chosen on. Add rows, or ` +
      'give a larger share with --set validation=0.4.',
  );
}

export interface FinetunedParts {
  /** By `performance.now()`. */
  readonly started: number;
  readonly method: ModelReport['method'];
  readonly encoder: NonNullable<ModelReport['encoder']>;
  readonly session: Pick<ClassifierSession, 'tokenizer'>;
  readonly labels: readonly string[];
  readonly temperature: number;
  readonly data: TextDataset;
  readonly learned: Labelled;
  /** Rows that the weights and the temperature were chosen on. */
  readonly held: number;
  /** What was measured on: logits of the written file, and labels as it counts them. */
  readonly logits: Float32Array;
  readonly truth: Int32Array;
  /** How the test rows were come by; left out, the held ones were measured on. */
  readonly how?: string;
  readonly seed: number;
}

/** The report of a classifier that was fine-tuned as it was asked for. */
export function finetunedReport(parts: FinetunedParts): ModelReport {
  const { method, encoder, session, labels, temperature, data, learned, held, logits, truth, how, seed } = parts;
  return {
    schemaVersion: 1,
    task: 'text-classification',
    library: { name: 'fewtune', version },
    created: new Date().toISOString(),
    method,
    encoder,
    preprocessing: { maxLength: session.tokenizer.maxLength, padId: session.tokenizer.padId },
    labels: [...labels],
    temperature,
    trainingData: {
      source: basename(data.source),
      fingerprint: fingerprintOf(learned),
      examples: learned.texts.length,
      classes: learned.classes.length,
      repairs: data.repairs.map(({ kind, count, remedy }) => ({ kind, count, remedy })),
    },
    seed,
    seconds: (performance.now() - parts.started) / 1000,
    metrics: metricsOf(logits, truth, labels.length, seed),
    evaluatedOn: {
      kind: 'test',
      examples: truth.length,
      how:
        how === undefined
          ? `${held} rows that were not learned from, but that the weights and the temperature were chosen on: slightly ` +
            'optimistic. Give --test for rows that nothing was chosen on.'
          : `${how} The model was fitted on ${learned.texts.length} others; its weights and temperature were chosen on ${held} more.`,
    },
    advice: { requested: method.name, chosen: method.name, rule: 'Named, not chosen.', tried: [], skipped: [] },
  };
}
