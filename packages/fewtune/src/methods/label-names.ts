/** A label as a sentence: `Card_notArrived` becomes `card not arrived`. */
export function labelText(label: string): string {
  return label
    .replaceAll(/(\p{Ll})(\p{Lu})/gu, '$1 $2')
    .replaceAll(/[_\-./:|]+/gu, ' ')
    .replaceAll(/\s+/gu, ' ')
    .trim()
    .toLowerCase();
}

/** Whether a label says something: at least one word of two letters, so not `1`, `B` or `c_3`. */
export function hasWords(label: string): boolean {
  return /\p{L}{2}/u.test(label);
}
