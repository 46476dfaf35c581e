import { FewtuneError } from '../errors.js';
import { quoteSome } from './dataset.js';

/** Column names taken without being asked, best first; within a row of the list two hits are ambiguous. */
const recognised = {
  text: [
    ['text'],
    ['sentence', 'utterance'],
    ['review', 'message', 'query', 'question', 'content', 'comment', 'tweet', 'post', 'document', 'body', 'input'],
    ['title', 'subject', 'headline', 'description', 'summary'],
  ],
  label: [
    ['label_text', 'label_name'],
    ['label'],
    ['category', 'intent', 'class', 'target'],
    ['sentiment', 'topic', 'tag', 'output'],
  ],
} as const;

export type ColumnRole = keyof typeof recognised;

/** Edit distance (Levenshtein), for "did you mean". */
export function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      current.push(Math.min(previous[j]! + 1, current[j - 1]! + 1, substitution));
    }
    previous = current;
  }
  return previous[b.length]!;
}

/** The candidates that look like a slip of `wanted`, nearest first. */
export function nearNames(wanted: string, candidates: readonly string[], limit = 3): string[] {
  const target = wanted.toLowerCase();
  return candidates
    .map((name) => ({ name, distance: editDistance(target, name.trim().toLowerCase()) }))
    .filter(({ name, distance }) => distance <= Math.max(1, Math.floor(Math.max(target.length, name.length) / 3)))
    .sort((a, b) => a.distance - b.distance)
    .slice(0, limit)
    .map(({ name }) => name);
}

const hint: Record<ColumnRole, string> = {
  text: 'Name the column that holds the sentences with --text.',
  label: 'Name the column that holds the classes with --label.',
};

/**
 * Index of the text or label column: the one asked for, else the one whose name is recognised.
 * @throws FewtuneError COLUMN_UNKNOWN, COLUMN_AMBIGUOUS
 */
export function chooseColumn(source: string, columns: readonly string[], role: ColumnRole, wanted?: string): number {
  const found = columns.length > 0 ? `The columns are ${quoteSome(columns, 20)}.` : 'The file has no columns.';
  const named = (name: string) => columns.flatMap((column, i) => (column === name ? [i] : []));
  if (wanted !== undefined) {
    const exact = named(wanted);
    const hits = exact.length > 0 ? exact : columns.flatMap((c, i) => (c.trim() === wanted.trim() ? [i] : []));
    if (hits.length === 1) return hits[0]!;
    if (hits.length > 1) {
      throw new FewtuneError(
        'COLUMN_AMBIGUOUS',
        `${source}: ${hits.length} columns are called ${JSON.stringify(wanted)}. ${found} Rename one of them.`,
      );
    }
    const near = nearNames(wanted, columns);
    const meant = near.length > 0 ? ` Did you mean ${near.map((name) => JSON.stringify(name)).join(' or ')}?` : '';
    throw new FewtuneError('COLUMN_UNKNOWN', `${source}: no column ${JSON.stringify(wanted)}.${meant} ${found}`);
  }
  const lower = columns.map((name) => name.trim().toLowerCase());
  for (const tier of recognised[role]) {
    const hits = lower.flatMap((name, i) => ((tier as readonly string[]).includes(name) ? [i] : []));
    if (hits.length === 1) return hits[0]!;
    if (hits.length > 1) {
      throw new FewtuneError(
        'COLUMN_AMBIGUOUS',
        `${source}: several columns could hold the ${role}: ${quoteSome(hits.map((i) => columns[i]!))}. ${hint[role]}`,
      );
    }
  }
  throw new FewtuneError(
    'COLUMN_UNKNOWN',
    `${source}: no column is recognised as the ${role} (such as ${quoteSome(recognised[role].flat(), 6)}). ${found} ` +
      `${hint[role]} The first line of a CSV file must name its columns.`,
  );
}
