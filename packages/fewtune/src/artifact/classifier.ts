import { FewtuneError } from '../errors.js';
import type { Manifest } from './manifest.js';
import type { ClassifierSession, PredictOptions } from './session.js';

/** What is known about a model: everything in its manifest but the list of files. */
export type ModelReport = Omit<Manifest, 'files'>;

export interface Prediction {
  readonly label: string;
  /** Calibrated probability of `label`. */
  readonly confidence: number;
  /** Calibrated probability of every label. Has no prototype, so that any string is a safe key. */
  readonly scores: Readonly<Record<string, number>>;
}

/**
 * A text classifier that runs. Just trained or loaded from its folder, it answers through the same ONNX graph.
 *
 * @example
 * const model = await load('models/tickets');
 * const [top] = await model.predict(['my card was swallowed']); // { label, confidence, scores }
 */
export class Classifier {
  readonly report: ModelReport;
  private readonly session: ClassifierSession;

  constructor(report: ModelReport, session: ClassifierSession) {
    this.report = report;
    this.session = session;
  }

  get labels(): readonly string[] {
    return this.report.labels;
  }

  /**
   * Calibrated logits [texts.length, labels.length], row-major: a softmax gives the confidences.
   *
   * @throws FewtuneError INTERRUPTED
   */
  logits(texts: readonly string[], options?: PredictOptions): Promise<Float32Array> {
    return this.session.logits(texts, this.labels.length, options);
  }

  /**
   * The most probable label of each text, with calibrated confidences.
   *
   * @throws FewtuneError TEXT_BLANK, INTERRUPTED
   */
  async predict(texts: readonly string[], options?: PredictOptions): Promise<Prediction[]> {
    const blank = texts.findIndex((value) => value.trim() === '');
    if (blank !== -1) {
      throw new FewtuneError(
        'TEXT_BLANK',
        `text ${blank + 1} of ${texts.length} is blank; there is nothing to classify. Leave it out.`,
      );
    }
    const logits = await this.logits(texts, options);
    const classes = this.labels.length;
    return texts.map((_, row) => this.prediction(logits.subarray(row * classes, (row + 1) * classes)));
  }

  async dispose(): Promise<void> {
    await this.session.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  private prediction(logits: Float32Array): Prediction {
    const highest = logits.reduce((a, b) => Math.max(a, b));
    const exponentials = Array.from(logits, (value) => Math.exp(value - highest));
    const total = exponentials.reduce((a, b) => a + b);
    const scores: Record<string, number> = Object.create(null);
    for (const [i, label] of this.labels.entries()) {
      scores[label] = exponentials[i]! / total;
    }
    const label = this.labels[exponentials.indexOf(Math.max(...exponentials))]!;
    return { label, confidence: scores[label]!, scores };
  }
}
