import type { Measured } from '../artifact/task-manifest.js';
import type { TaskDataset } from '../data/task-dataset.js';
import { FewtuneError } from '../errors.js';
import { checkLabels } from './divide-task.js';
import { measureAnswers, truthOf } from './task-answers.js';
import { answersOf } from './task-of.js';
import type { TunedModel } from './tuned-model.js';

export interface TunedEvaluation {
  readonly examples: number;
  readonly score: Measured;
}

/**
 * Measures a fine-tuned model on labelled rows of its task.
 *
 * @throws FewtuneError OPTION_INVALID (rows of another task), LABEL_UNKNOWN, INTERRUPTED
 */
export async function evaluateTuned(
  model: TunedModel,
  data: TaskDataset,
  { signal, seed = 7 }: { signal?: AbortSignal; seed?: number } = {},
): Promise<TunedEvaluation> {
  const { kind, pairs } = model.report;
  const names = model.labels;
  if (data.targets.kind !== kind || (data.pairs !== undefined) !== pairs) {
    const what = (of: string, both: boolean) => `${of}${both ? ' of pairs' : ''}`;
    throw new FewtuneError(
      'OPTION_INVALID',
      `${data.source} was read for ${what(data.targets.kind, data.pairs !== undefined)}; the model is for ${what(kind, pairs)}.`,
    );
  }
  checkLabels(data, names, 'the model');
  const texts = data.pairs ? data.texts.map((text, i) => [text, data.pairs![i]!] as const) : data.texts;
  const { thresholds } = model.report;
  const answers = answersOf(
    data,
    await model.logits(texts, { signal }),
    names,
    model.tokenizer,
    thresholds && Float32Array.from(thresholds),
  );
  return { examples: data.texts.length, score: measureAnswers(answers, truthOf(data, names), names, seed) };
}
