import type { Measured } from '../artifact/task-manifest.js';
import type { TaskDataset } from '../data/task-dataset.js';
import { FewtuneError } from '../errors.js';
import { checkLabels } from './divide-task.js';
import { type Answers, measureAnswers, truthOf } from './task-answers.js';
import type { TunedModel, TunedPrediction } from './tuned-model.js';

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
  const answers = answersIn(await model.predict(texts, { signal }), names);
  return { examples: data.texts.length, score: measureAnswers(answers, truthOf(data, names), names, seed) };
}

/** Predictions of one kind, side by side. */
function answersIn(predictions: readonly TunedPrediction[], names: readonly string[]): Answers {
  const of = <K extends TunedPrediction['kind']>(...kinds: readonly K[]) =>
    predictions.filter((one): one is Extract<TunedPrediction, { kind: K }> =>
      (kinds as readonly string[]).includes(one.kind),
    );
  const { kind } = predictions[0]!;
  switch (kind) {
    case 'classification':
    case 'ordinal':
      return { kind, classes: of('classification', 'ordinal').map(({ label }) => names.indexOf(label)) };
    case 'multi-label':
      return { kind, flags: of(kind).flatMap(({ labels }) => names.map((name) => Number(labels.includes(name)))) };
    case 'regression':
      return { kind, values: of(kind).map(({ value }) => value) };
    case 'tokens':
      return { kind, entities: of(kind).map(({ entities }) => entities) };
    default:
      return kind satisfies never;
  }
}
