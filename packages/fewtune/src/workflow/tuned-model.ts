import type { Tokenizer } from '@fewtune/models';
import type { ModelReport } from '../artifact/classifier.js';
import { writeFolder } from '../artifact/folder.js';
import { completeFolder } from '../artifact/pack.js';
import type { ModelFiles, RunOptions } from '../artifact/session.js';
import type { TunedReport } from '../artifact/task-manifest.js';
import { completeTaskFolder } from '../artifact/task-pack.js';
import type { TaskSession } from '../artifact/task-session.js';
import { FewtuneError, throwIfAborted } from '../errors.js';
import { labelsOfTags } from '../methods/tune/tasks/bio.js';
import { sigmoids } from '../methods/tune/tasks/multi-label.js';
import { tokenRow } from '../methods/tune/tasks/token-words.js';
import { type FoundEntity, findEntities } from '../methods/tune/tasks/tokens.js';

/** What a fine-tuned model says of a text, by its task. Scores have no prototype, so that any label is a safe key. */
export type TunedPrediction =
  | {
      readonly kind: 'classification' | 'ordinal';
      readonly label: string;
      /** Probability of `label`. */
      readonly confidence: number;
      readonly scores: Readonly<Record<string, number>>;
    }
  | {
      readonly kind: 'multi-label';
      /** Those whose probability reaches their threshold, the most probable first. */
      readonly labels: readonly string[];
      readonly scores: Readonly<Record<string, number>>;
    }
  | { readonly kind: 'regression'; readonly value: number; readonly values: Readonly<Record<string, number>> }
  | {
      readonly kind: 'tokens';
      readonly entities: readonly FoundEntity[];
      /** Whether the text goes on where the model's reading ends. */
      readonly truncated: boolean;
    };

export interface TunedModelState {
  readonly report: TunedReport;
  readonly session: TaskSession;
  /** The running parts, for saving. */
  files(): Promise<ModelFiles>;
  /** Of one label for one text: the report of an ordinary classifier, as which it is saved. */
  readonly classifier?: ModelReport;
}

/**
 * A fine-tuned encoder with a head for its task, just tuned or loaded: it runs through its ONNX file and saves itself.
 *
 * @example
 * const model = await loadTuned('models/entities');
 * const [found] = await model.predict(['Ada Lovelace was born in London']);
 */
export class TunedModel {
  constructor(private readonly state: TunedModelState) {}

  get report(): TunedReport {
    return this.state.report;
  }

  get tokenizer(): Tokenizer {
    return this.state.session.tokenizer;
  }

  /** What it tells apart: labels of texts or of entities; of values, their names. */
  get labels(): readonly string[] {
    const { kind, outputs } = this.report;
    return kind === 'tokens' ? labelsOfTags(outputs)! : outputs;
  }

  /**
   * @param texts of pairs, `[first, second]` each
   * @throws FewtuneError TEXT_BLANK, OPTION_INVALID (pairs for texts, or the reverse), INTERRUPTED
   */
  async predict(
    texts: readonly string[] | readonly (readonly [string, string])[],
    options: RunOptions = {},
  ): Promise<TunedPrediction[]> {
    const { labels } = this;
    const { kind, outputs, thresholds } = this.report;
    const { first, second } = this.split(texts);
    const logits = await this.state.session.run(first, { ...options, pairs: second });
    return first.map((text, row): TunedPrediction => {
      const own = logits[row]!;
      switch (kind) {
        case 'tokens': {
          const tokens = tokenRow(this.tokenizer, text);
          return { kind, entities: findEntities(tokens, own, labels), truncated: tokens.truncated };
        }
        case 'regression':
          return { kind, value: own[0]!, values: named(outputs, own) };
        case 'multi-label': {
          const chances = sigmoids(own);
          const given = outputs
            .map((label, i) => ({ label, chance: chances[i]!, given: chances[i]! >= thresholds![i]! }))
            .filter((one) => one.given)
            .sort((a, b) => b.chance - a.chance);
          return { kind, labels: given.map(({ label }) => label), scores: named(outputs, chances) };
        }
        case 'classification':
        case 'ordinal': {
          const chances = softmax(own);
          const best = chances.indexOf(Math.max(...chances));
          return { kind, label: outputs[best]!, confidence: chances[best]!, scores: named(outputs, chances) };
        }
        default:
          return kind satisfies never;
      }
    });
  }

  /** Logits of each text: [outputs], or [tokens, outputs]; what the ONNX file gives. @throws FewtuneError as `predict` */
  async logits(
    texts: readonly string[] | readonly (readonly [string, string])[],
    options: RunOptions = {},
  ): Promise<Float32Array[]> {
    const { first, second } = this.split(texts);
    return this.state.session.run(first, { ...options, pairs: second });
  }

  /**
   * Writes the model folder; a model that stands there is replaced as a whole. A classifier of single texts is written
   * as `train` writes one, and `load` opens it; any other model is opened by `loadTuned`.
   *
   * @throws FewtuneError OUTPUT_UNWRITABLE, INTERRUPTED
   */
  async save(folder: string, options: { signal?: AbortSignal } = {}): Promise<void> {
    throwIfAborted(options.signal);
    const { classifier, report } = this.state;
    const files = await this.state.files();
    await writeFolder(folder, classifier ? completeFolder(files, classifier) : completeTaskFolder(files, report));
  }

  async dispose(): Promise<void> {
    await this.state.session.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  private split(texts: readonly string[] | readonly (readonly [string, string])[]) {
    const { pairs } = this.report;
    const rows = texts.map((text, i) => {
      if ((typeof text === 'string') === pairs) {
        throw new FewtuneError(
          'OPTION_INVALID',
          pairs
            ? `text ${i + 1}: the model reads pairs of texts; give [first, second].`
            : `text ${i + 1}: the model reads one text at a time; give a string.`,
        );
      }
      const both: readonly string[] = typeof text === 'string' ? [text] : text;
      if (both.some((one) => one.trim() === '')) {
        throw new FewtuneError('TEXT_BLANK', `text ${i + 1} of ${texts.length} is blank. Leave it out.`);
      }
      return both;
    });
    return { first: rows.map((row) => row[0]!), ...(pairs && { second: rows.map((row) => row[1]!) }) };
  }
}

function named(names: readonly string[], values: ArrayLike<number>): Record<string, number> {
  const all: Record<string, number> = Object.create(null);
  for (const [i, name] of names.entries()) all[name] = values[i]!;
  return all;
}

function softmax(logits: Float32Array): number[] {
  const highest = logits.reduce((a, b) => Math.max(a, b));
  const exponentials = Array.from(logits, (value) => Math.exp(value - highest));
  const total = exponentials.reduce((a, b) => a + b);
  return exponentials.map((value) => value / total);
}
