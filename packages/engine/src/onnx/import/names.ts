import { EngineError } from '../../errors.js';

/** Which names are meant: exact ones, or with `*` for any characters, or regular expressions. */
export type NamePattern = string | RegExp | readonly (string | RegExp)[];

function tester(pattern: string | RegExp): (name: string) => boolean {
  if (pattern instanceof RegExp)
    return (name) => new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, '')).test(name);
  if (!pattern.includes('*')) return (name) => name === pattern;
  // Piece by piece, so that no pattern takes longer than its length times the name's.
  const [head, ...rest] = pattern.split('*') as [string, ...string[]];
  const tail = rest.pop()!;
  return (name) => {
    if (name.length < head.length + tail.length || !name.startsWith(head) || !name.endsWith(tail)) return false;
    let at = head.length;
    for (const piece of rest) {
      const found = name.indexOf(piece, at);
      if (found < 0) return false;
      at = found + piece.length;
    }
    return at <= name.length - tail.length;
  };
}

/**
 * The names that a pattern means.
 *
 * @throws EngineError ARGUMENT_INVALID when a pattern means none of them, with near ones
 */
export function namesMatching(pattern: NamePattern, names: readonly string[], what: string): Set<string> {
  const list = (Array.isArray(pattern) ? pattern : [pattern]) as readonly (string | RegExp)[];
  const found = new Set<string>();
  for (const one of list) {
    const hits = names.filter(tester(one));
    if (hits.length === 0)
      throw new EngineError('ARGUMENT_INVALID', `no ${what} matches ${show(one)}${near(String(one), names)}`);
    for (const name of hits) found.add(name);
  }
  return found;
}

const show = (pattern: string | RegExp) => (pattern instanceof RegExp ? String(pattern) : `"${pattern}"`);

/** The names most like one that is not there, as an end of a message. */
export function near(wanted: string, names: readonly string[], count = 5): string {
  if (names.length === 0) return '; there are none';
  const plain = wanted.replace(/[*^$\\/]/g, '').slice(0, 200);
  const grams = (text: string) => new Set(Array.from({ length: text.length - 1 }, (_, i) => text.slice(i, i + 2)));
  const own = grams(plain.toLowerCase());
  const score = (name: string) => {
    const other = grams(name.slice(0, 200).toLowerCase());
    let shared = 0;
    for (const gram of own) if (other.has(gram)) shared++;
    return shared / Math.max(1, own.size + other.size - shared);
  };
  const best = [...names].map((name) => ({ name, score: score(name) })).sort((a, b) => b.score - a.score);
  return `; near are ${best
    .slice(0, count)
    .map(({ name }) => name)
    .join(', ')}`;
}
