import type { Repair } from './dataset.js';
import type { Entity } from './entity.js';

/** What each row of a file is to teach. */
export type Targets =
  | { readonly kind: 'classification'; readonly labels: readonly string[]; readonly classes: readonly string[] }
  /** Classes from the lowest to the highest. */
  | { readonly kind: 'ordinal'; readonly labels: readonly string[]; readonly classes: readonly string[] }
  | {
      readonly kind: 'multi-label';
      readonly labels: readonly (readonly string[])[];
      readonly classes: readonly string[];
    }
  | { readonly kind: 'regression'; readonly values: readonly number[]; readonly name: string }
  | { readonly kind: 'tokens'; readonly entities: readonly (readonly Entity[])[]; readonly classes: readonly string[] };

export type TargetKind = Targets['kind'];

/** Texts, or pairs of them, with their targets, as they came from a file, cleaned. */
export interface TaskDataset {
  readonly source: string;
  readonly texts: readonly string[];
  /** Second texts, one for each text. */
  readonly pairs?: readonly string[];
  /** Where each row starts: line of a text file (1 is the first), or row number for JSON arrays and Parquet. */
  readonly lines: readonly number[];
  readonly targets: Targets;
  readonly repairs: readonly Repair[];
}

/** Some rows of a dataset, in this order. */
export function takeTaskRows(data: TaskDataset, rows: readonly number[]): TaskDataset {
  const take = <T>(values: readonly T[]): T[] => rows.map((row) => values[row]!);
  const { targets, pairs } = data;
  return {
    ...data,
    texts: take(data.texts),
    lines: take(data.lines),
    ...(pairs && { pairs: take(pairs) }),
    targets: takeTargets(targets, take),
  };
}

function takeTargets(targets: Targets, take: <T>(values: readonly T[]) => T[]): Targets {
  switch (targets.kind) {
    case 'regression':
      return { ...targets, values: take(targets.values) };
    case 'tokens':
      return { ...targets, entities: take(targets.entities) };
    case 'multi-label':
      return { ...targets, labels: take(targets.labels) };
    case 'classification':
    case 'ordinal':
      return { ...targets, labels: take(targets.labels) };
    default:
      return targets satisfies never;
  }
}
