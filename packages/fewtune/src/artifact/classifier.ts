import { FewtuneError } from '../errors.js';
import { headLogits, type LinearHead } from './linear-head.js';
import type { Manifest } from './manifest.js';
import { type Neighbour, nearestSupports } from './neighbours.js';
import type { ClassifierSession, RunOptions } from './session.js';
import type { KeptSupport } from './support.js';

/** What is known about a model: everything in its manifest but the list of files. */
export type ModelReport = Omit<Manifest, 'files'>;

export interface Prediction {
  readonly label: string;
  /** Calibrated probability of `label`. */
  readonly confidence: number;
  /** Calibrated probability of every label. Has no prototype, so that any string is a safe key. */
  readonly scores: Readonly<Record<string, number>>;
  /** The kept examples nearest to the text, nearest first; with `explain` only. */
  readonly nearest?: readonly Neighbour[];
}

export interface PredictOptions extends RunOptions {
  /** How many of the nearest kept examples each prediction is to show. Default: none. */
  readonly explain?: number;
}

/** What a model is at one time: these belong together. */
export interface ModelState {
  readonly report: ModelReport;
  readonly session: ClassifierSession;
  /** Absent for methods without features and for folders of version 0.1.0. */
  readonly learned?: {
    readonly support: KeptSupport;
    /** Before the calibration temperature. */
    readonly head: LinearHead;
    /** Whether it is another than the one in the session's graph. */
    readonly isChanged: boolean;
  };
}

/**
 * A text classifier that runs. Just trained or loaded from its folder, it answers through the same ONNX graph; once
 * classes were learned or forgotten, through the graph's features and the new head, as it will be saved.
 *
 * @example
 * const model = await load('models/tickets');
 * const [top] = await model.predict(['my card was swallowed']); // { label, confidence, scores }
 */
export class Classifier {
  /** Replaced as a whole, so that whoever read it before goes on with the model as it was. */
  protected state: ModelState;

  constructor(state: ModelState) {
    this.state = state;
  }

  get report(): ModelReport {
    return this.state.report;
  }

  get labels(): readonly string[] {
    return this.report.labels;
  }

  /**
   * Calibrated logits [texts.length, labels.length], row-major: a softmax gives the confidences.
   *
   * @throws FewtuneError INTERRUPTED
   */
  logits(texts: readonly string[], options?: RunOptions): Promise<Float32Array> {
    const { state } = this;
    return state.session.run(texts, options).then((outputs) => currentLogits(state, outputs));
  }

  /**
   * The most probable label of each text, with calibrated confidences; with `explain: n` also the n kept examples that
   * lie nearest.
   *
   * @throws FewtuneError TEXT_BLANK, INTERRUPTED; with `explain` OPTION_INVALID, MODEL_UNSUPPORTED (no examples kept)
   */
  async predict(texts: readonly string[], options: PredictOptions = {}): Promise<Prediction[]> {
    const { explain, ...runOptions } = options;
    const { state } = this;
    const { report, session } = state;
    refuseBlank(texts, 'classify');
    const support = explain === undefined ? undefined : this.supportFor('explain predictions', explain);
    const outputs = await session.run(texts, runOptions);
    const logits = currentLogits(state, outputs);
    const nearest = support && nearestSupports(outputs.features!, support, report.labels, explain!);
    const classes = report.labels.length;
    return texts.map((_, row) => ({
      ...prediction(logits.subarray(row * classes, (row + 1) * classes), report.labels),
      ...(nearest && { nearest: nearest[row]! }),
    }));
  }

  /**
   * The kept examples that lie nearest to each text, nearest first: what the model knows that is like it.
   *
   * @throws FewtuneError TEXT_BLANK, OPTION_INVALID, MODEL_UNSUPPORTED (no examples kept), INTERRUPTED
   * @example const [[first]] = await model.explain(['my card was swallowed']); // { label, similarity, text }
   */
  async explain(
    texts: readonly string[],
    { nearest = 3, ...options }: RunOptions & { nearest?: number } = {},
  ): Promise<Neighbour[][]> {
    const { report, session } = this.state;
    refuseBlank(texts, 'explain');
    const support = this.supportFor('explain predictions', nearest);
    const { features } = await session.run(texts, options);
    return nearestSupports(features!, support, report.labels, nearest);
  }

  async dispose(): Promise<void> {
    await this.state.session.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /** @throws FewtuneError MODEL_UNSUPPORTED, saying why there is none; OPTION_INVALID for a count that is no count */
  protected supportFor(purpose: string, count = 1): KeptSupport {
    const { report, learned } = this.state;
    if (!Number.isSafeInteger(count) || count < 1) {
      throw new FewtuneError('OPTION_INVALID', `${count} nearest examples: give a whole number, 1 or more.`);
    }
    if (learned !== undefined) return learned.support;
    const why =
      report.encoder === undefined
        ? `the method ${report.method.name} has no sentence features. Train with one that has an encoder, such as prototype, linear or lora`
        : 'it keeps no examples, as models of fewtune 0.1.0. Train it again';
    throw new FewtuneError('MODEL_UNSUPPORTED', `this model cannot ${purpose}: ${why}.`);
  }
}

function currentLogits({ report, learned }: ModelState, outputs: Readonly<Record<string, Float32Array>>): Float32Array {
  if (!learned?.isChanged) return outputs.logits!;
  return headLogits(learned.head, outputs.features!).map((logit) => logit / report.temperature);
}

function refuseBlank(texts: readonly string[], purpose: string): void {
  const blank = texts.findIndex((value) => value.trim() === '');
  if (blank === -1) return;
  throw new FewtuneError(
    'TEXT_BLANK',
    `text ${blank + 1} of ${texts.length} is blank; there is nothing to ${purpose}. Leave it out.`,
  );
}

/** The most probable label of one row of logits. */
export function prediction(logits: Float32Array, labels: readonly string[]): Prediction {
  const highest = logits.reduce((a, b) => Math.max(a, b));
  const exponentials = Array.from(logits, (value) => Math.exp(value - highest));
  const total = exponentials.reduce((a, b) => a + b);
  const scores: Record<string, number> = Object.create(null);
  for (const [i, label] of labels.entries()) {
    scores[label] = exponentials[i]! / total;
  }
  const label = labels[exponentials.indexOf(Math.max(...exponentials))]!;
  return { label, confidence: scores[label]!, scores };
}
