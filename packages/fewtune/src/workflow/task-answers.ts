import type { Measured } from '../artifact/task-manifest.js';
import type { Entity } from '../data/entity.js';
import type { TaskDataset } from '../data/task-dataset.js';
import { bootstrapScore } from '../evaluation/bootstrap-score.js';
import { type EntityCounts, entityCounts, entityF1, entityScores } from '../evaluation/entities.js';
import { accuracy, macroF1 } from '../evaluation/metrics.js';
import { multiLabelScores } from '../evaluation/multi-label.js';
import { ordinalScores } from '../evaluation/ordinal.js';
import { regressionScores } from '../evaluation/regression.js';

/** Answers to a task's questions, row by row: what is true, or what something says. */
export type Answers =
  | { readonly kind: 'classification' | 'ordinal'; readonly classes: ArrayLike<number> }
  /** 0 or 1, [rows, labels] */
  | { readonly kind: 'multi-label'; readonly flags: ArrayLike<number> }
  | { readonly kind: 'regression'; readonly values: ArrayLike<number> }
  | { readonly kind: 'tokens'; readonly entities: readonly (readonly Entity[])[] };

/** What is true of a dataset's rows; labels as indices into `outputs`, -1 for one that is not there. */
export function truthOf({ targets }: TaskDataset, outputs: readonly string[]): Answers {
  const index = new Map(outputs.map((name, i) => [name, i]));
  switch (targets.kind) {
    case 'regression':
      return { kind: targets.kind, values: targets.values };
    case 'tokens':
      return { kind: targets.kind, entities: targets.entities };
    case 'multi-label': {
      const flags = new Uint8Array(targets.labels.length * outputs.length);
      for (const [row, labels] of targets.labels.entries()) {
        for (const label of labels) flags[row * outputs.length + index.get(label)!] = 1;
      }
      return { kind: targets.kind, flags };
    }
    case 'classification':
    case 'ordinal':
      return { kind: targets.kind, classes: Int32Array.from(targets.labels, (label) => index.get(label) ?? -1) };
    default:
      return targets satisfies never;
  }
}

/** Answers held against the truth: the task's score with its interval over the rows, and other figures. */
export function measureAnswers(answers: Answers, truth: Answers, outputs: readonly string[], seed: number): Measured {
  const measured = (
    name: string,
    rows: number,
    of: (rows: Int32Array) => number,
    others: Record<string, number>,
  ): Measured => ({
    name,
    value: of(Int32Array.from({ length: rows }, (_, i) => i)),
    interval: bootstrapScore(rows, of, { seed }),
    others,
  });
  const take = (values: ArrayLike<number>, rows: Int32Array): Float64Array =>
    Float64Array.from(rows, (row) => values[row]!);
  if (answers.kind === 'multi-label' && truth.kind === 'multi-label') {
    const { microF1, microPrecision, microRecall, subsetAccuracy, ...all } = multiLabelScores(
      answers.flags,
      truth.flags,
      outputs,
    );
    const width = outputs.length;
    const counts = Array.from({ length: truth.flags.length / width }, (_, row): EntityCounts => {
      let [hits, found, support] = [0, 0, 0];
      for (let i = row * width; i < (row + 1) * width; i++) {
        hits += answers.flags[i]! * truth.flags[i]!;
        found += answers.flags[i]!;
        support += truth.flags[i]!;
      }
      return { hits, found, support };
    });
    const others = {
      'macro F1': all.macroF1,
      precision: microPrecision,
      recall: microRecall,
      'all right': subsetAccuracy,
    };
    return measured('micro F1', counts.length, (rows) => entityF1(Array.from(rows, (row) => counts[row]!)), others);
  }
  if (answers.kind === 'tokens' && truth.kind === 'tokens') {
    const { macroF1, precision, recall } = entityScores(answers.entities, truth.entities);
    const counts = truth.entities.map((entities, row) => entityCounts(answers.entities[row]!, entities));
    const of = (rows: Int32Array): number => entityF1(Array.from(rows, (row) => counts[row]!));
    return measured('entity F1', counts.length, of, { precision, recall, 'macro F1': macroF1 });
  }
  if (answers.kind === 'regression' && truth.kind === 'regression') {
    const { pearson, spearman, mae } = regressionScores(answers.values, truth.values);
    const of = (rows: Int32Array): number => regressionScores(take(answers.values, rows), take(truth.values, rows)).r2;
    return measured('R²', truth.values.length, of, { Pearson: pearson, Spearman: spearman, MAE: mae });
  }
  if (answers.kind === 'ordinal' && truth.kind === 'ordinal') {
    const { accuracy, mae } = ordinalScores(answers.classes, truth.classes, outputs.length);
    const of = (rows: Int32Array): number =>
      ordinalScores(take(answers.classes, rows), take(truth.classes, rows), outputs.length).quadraticKappa;
    return measured('quadratic kappa', truth.classes.length, of, { accuracy, MAE: mae });
  }
  if (answers.kind === 'classification' && truth.kind === 'classification') {
    const of = (rows: Int32Array): number => accuracy(take(answers.classes, rows), take(truth.classes, rows));
    const others = { 'macro F1': macroF1(answers.classes, truth.classes, outputs.length) };
    return measured('accuracy', truth.classes.length, of, others);
  }
  throw new Error(`answers of ${answers.kind} for questions of ${truth.kind}`);
}
