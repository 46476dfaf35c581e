import type { Entity } from '../data/entity.js';
import type { ClassReport } from './metrics.js';

/** How good found entities are: one counts when start, end and label are all right. As seqeval and CoNLL-2003 have it. */
export interface EntityScores {
  /** Of all entities together (seqeval's micro average). */
  readonly precision: number;
  readonly recall: number;
  readonly f1: number;
  /** Mean of the labels' F1. */
  readonly macroF1: number;
  readonly perLabel: readonly ClassReport[];
}

/** Entities of one row that were right, found and there: all that F1 is made of. */
export interface EntityCounts {
  readonly hits: number;
  readonly found: number;
  readonly support: number;
}

const keyOf = ({ start, end, label }: Entity): string => `${start}:${end}:${label}`;

export function entityCounts(found: readonly Entity[], truth: readonly Entity[]): EntityCounts {
  const known = new Set(truth.map(keyOf));
  return {
    hits: found.filter((entity) => known.has(keyOf(entity))).length,
    found: found.length,
    support: truth.length,
  };
}

/** F1 of some rows' counts together; 0 where nothing was found and nothing there. */
export function entityF1(counts: readonly EntityCounts[]): number {
  const sum = (of: (counts: EntityCounts) => number): number => counts.reduce((total, one) => total + of(one), 0);
  const below = sum(({ found }) => found) + sum(({ support }) => support);
  return below === 0 ? 0 : (2 * sum(({ hits }) => hits)) / below;
}

/** @param found entities of each row @param truth the same */
export function entityScores(
  found: readonly (readonly Entity[])[],
  truth: readonly (readonly Entity[])[],
): EntityScores {
  const labels = [...new Set([...found.flat(), ...truth.flat()].map(({ label }) => label))].sort();
  const ratio = (above: number, below: number): number => (below === 0 ? 0 : above / below);
  const report = (label: string | undefined): ClassReport => {
    const own = (entities: readonly Entity[]) =>
      entities.filter((entity) => label === undefined || entity.label === label);
    const counts = truth.map((entities, row) => entityCounts(own(found[row]!), own(entities)));
    const sum = (of: keyof EntityCounts): number => counts.reduce((total, one) => total + one[of], 0);
    return {
      label: label ?? '',
      precision: ratio(sum('hits'), sum('found')),
      recall: ratio(sum('hits'), sum('support')),
      f1: entityF1(counts),
      support: sum('support'),
    };
  };
  const perLabel = labels.map(report);
  const { precision, recall, f1 } = report(undefined);
  const macroF1 = ratio(
    perLabel.reduce((sum, one) => sum + one.f1, 0),
    labels.length,
  );
  return { precision, recall, f1, macroF1, perLabel };
}
