/** The names most like one that is not there, as the end of a message: by the pairs of letters they share. */
export function near(wanted: string, names: readonly string[], count = 5): string {
  if (names.length === 0) return '; there are none';
  const pairs = (text: string) =>
    new Set(Array.from({ length: Math.max(0, text.length - 1) }, (_, i) => text.slice(i, i + 2).toLowerCase()));
  const own = pairs(wanted.slice(0, 200));
  const likeness = (name: string) => {
    const other = pairs(name.slice(0, 200));
    const shared = [...own].filter((pair) => other.has(pair)).length;
    return shared / Math.max(1, own.size + other.size - shared);
  };
  const best = names.map((name) => ({ name, score: likeness(name) })).sort((a, b) => b.score - a.score);
  const shown = best.slice(0, count).map(({ name }) => name);
  return `; near are ${shown.join(', ')}`;
}
