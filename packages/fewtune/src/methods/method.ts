import type { Encoder } from '@fewtune/models';
import type { z } from 'zod';
import type { ClassifierGraph } from '../artifact/graph.js';
import type { RowLearner } from './class-row.js';
import type { TextMamlStart } from './meta/text-maml-start.js';
import type { Adapter } from './peft/adapter.js';

export const methodNames = [
  'tfidf',
  'prototype',
  'linear',
  'maml',
  'lora',
  'full',
  'ia3',
  'bitfit',
  'vera',
  'bottleneck',
  'loreft',
  'prefix',
  'prompt',
] as const;
export type MethodName = (typeof methodNames)[number];

const byName: readonly string[] = ['maml', 'ia3', 'bitfit', 'vera', 'bottleneck', 'loreft', 'prefix', 'prompt'];

/** Those that `auto` tries. MAML is worth its time from a meta-trained start only; others were not compared yet. */
export const racedMethods: readonly MethodName[] = methodNames.filter((name) => !byName.includes(name));

/** Training examples: `labels[i]` is an index into `classes`. */
export interface Labelled {
  readonly texts: readonly string[];
  readonly labels: Int32Array;
  readonly classes: readonly string[];
}

/** Sentence features by content: each distinct text is encoded once, kept in memory and on disk. */
export interface FeatureSource {
  readonly hidden: number;
  /** L2-normalised rows [texts.length, hidden]. */
  features(
    texts: readonly string[],
    options?: { signal?: AbortSignal; onProgress?: (fraction: number) => void },
  ): Promise<Float32Array>;
}

export interface FitContext {
  /** Loaded on first use: `tfidf` never asks. */
  encoder(): Promise<Encoder>;
  features(): Promise<FeatureSource>;
  /** What MAML begins with, where a meta-trained start was given. */
  mamlStart?(): Promise<TextMamlStart>;
  readonly seed: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  /** `fraction` of this fit in 0..1, with whatever there is to show (loss, lr, step). */
  onProgress?(fraction: number, metrics: Readonly<Record<string, number>>): void;
}

/** Examples as the fitted head reads them. */
export interface FittedSupport {
  readonly hidden: number;
  /** [examples, hidden], rows of length 1. */
  readonly features: Float32Array;
  /** [classes, hidden]: the labels' own words, where the head learned from them. */
  readonly names?: Float32Array;
}

/** A fitted method. */
export interface Fitted {
  /** Uncalibrated logits [texts.length, classes], row-major. */
  logits(texts: readonly string[], signal?: AbortSignal): Promise<Float32Array>;
  graph(): Promise<ClassifierGraph>;
  /** What a head on features was fitted on, in the order of the data; absent for methods without features. */
  readonly support?: FittedSupport;
  /**
   * What was trained, apart from the encoder: for `writeAdapter`, and for Python's PEFT. `adaptEncoder` of it gives the
   * encoder under this model's head. Absent for methods without one, and for DoRA between base and tuned weights.
   */
  readonly adapter?: Adapter;
  /** What was chosen during the fit (C, steps, trainable parameters …), for the report. */
  readonly details: Readonly<Record<string, number | string | boolean>>;
  dispose?(): Promise<void>;
}

/** A way of learning a classifier. `options` is validated by the method's own zod schema. */
export interface Method<Options> {
  readonly name: MethodName;
  readonly defaults: Options;
  /** What a user may set: reads `{}` as the defaults and refuses unknown keys. */
  readonly schema: z.ZodType<Options>;
  fit(data: Labelled, options: Options, context: FitContext): Promise<Fitted>;
  /** How a class is learned into a fitted head; absent for methods whose models cannot. */
  readonly classRow?: RowLearner;
  /** Seconds that one fit would take, from a short trial or a formula; the race asks methods that train the encoder. */
  estimateSeconds?(data: Labelled, options: Options, context: FitContext): Promise<number> | number;
}
