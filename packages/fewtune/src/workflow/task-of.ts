import type { Tokenizer } from '@fewtune/models';
import { labelIndices, quoteSome } from '../data/dataset.js';
import type { Targets, TaskDataset } from '../data/task-dataset.js';
import { fitTemperature } from '../evaluation/calibration.js';
import { argmaxRows } from '../evaluation/metrics.js';
import { chooseThresholds } from '../evaluation/multi-label.js';
import { joined } from '../methods/tune/logits.js';
import type { Task } from '../methods/tune/task.js';
import { classification } from '../methods/tune/tasks/classification.js';
import { multiLabel, sigmoids } from '../methods/tune/tasks/multi-label.js';
import { ordinal } from '../methods/tune/tasks/ordinal.js';
import { regression, type ValueScale } from '../methods/tune/tasks/regression.js';
import { tokenRow } from '../methods/tune/tasks/token-words.js';
import { findEntities, tokenClassification } from '../methods/tune/tasks/tokens.js';
import type { FinetuneTaskOptions } from './finetune-task-options.js';
import { type Answers, truthOf } from './task-answers.js';

/** Labels from whose indices a task is made; the name of a value. */
export const outputsOf = (targets: Targets): readonly string[] =>
  targets.kind === 'regression' ? [targets.name] : targets.classes;

/** A task for some rows of a dataset. */
export function taskOf(
  { texts, targets }: TaskDataset,
  names: readonly string[],
  tokenizer: Tokenizer,
  loss: FinetuneTaskOptions['loss'],
  scale?: ValueScale,
): Task & { readonly scale?: ValueScale } {
  switch (targets.kind) {
    case 'classification':
      return classification(labelIndices(targets.labels, names), names);
    case 'ordinal':
      return ordinal(labelIndices(targets.labels, names), names, { loss: loss as 'likelihood' | 'coral' | undefined });
    case 'multi-label':
      return multiLabel(
        targets.labels.map((labels) => Array.from(labelIndices(labels, names))),
        names,
      );
    case 'regression':
      return regression(targets.values, names, { loss: loss as 'mse' | 'huber' | undefined, scale });
    case 'tokens':
      return tokenClassification(tokenizer, texts, targets.entities, names);
    default:
      return targets satisfies never;
  }
}

/** What the task told of its targets, for the report. */
export function notesOf(task: Task): string[] {
  const report = (task as Partial<ReturnType<typeof tokenClassification>>).report;
  if (!report) return [];
  const { widened, lost } = report;
  const some = (of: typeof widened): string =>
    quoteSome(
      of.map(({ entity, row }) => `${entity.label} in row ${row + 1}`),
      3,
    );
  return [
    ...(widened.length > 0
      ? [`${widened.length} entities begin or end inside a word and were learned as the whole of it: ${some(widened)}`]
      : []),
    ...(lost.length > 0 ? [`${lost.length} entities stand after the last token that is read: ${some(lost)}`] : []),
  ];
}

/** Of probabilities that are a softmax. */
export function temperatureOf({ targets }: TaskDataset, names: readonly string[], logits: Float32Array): number {
  if (targets.kind !== 'classification' && targets.kind !== 'ordinal') return 1;
  return fitTemperature(logits, labelIndices(targets.labels, names), names.length);
}

export function thresholdsOf(
  held: TaskDataset,
  names: readonly string[],
  logits: Float32Array,
): Float32Array | undefined {
  const truth = truthOf(held, names);
  return truth.kind === 'multi-label' ? chooseThresholds(sigmoids(logits), truth.flags, names.length) : undefined;
}

export function answersOf(
  { texts, targets: { kind } }: TaskDataset,
  logits: readonly Float32Array[],
  names: readonly string[],
  tokenizer: Tokenizer,
  thresholds: Float32Array | undefined,
): Answers {
  switch (kind) {
    case 'regression':
      return { kind, values: logits.map((row) => row[0]!) };
    case 'multi-label': {
      const chances = sigmoids(joined(logits));
      return {
        kind,
        flags: Uint8Array.from(chances, (chance, i) => (chance >= thresholds![i % names.length]! ? 1 : 0)),
      };
    }
    case 'tokens':
      return { kind, entities: texts.map((text, i) => findEntities(tokenRow(tokenizer, text), logits[i]!, names)) };
    case 'classification':
    case 'ordinal':
      return { kind, classes: argmaxRows(joined(logits), names.length) };
    default:
      return kind satisfies never;
  }
}
