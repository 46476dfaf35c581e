/** Tags of entities in words: outside, or the begin and the inside of each label. */
export const bioTags = (labels: readonly string[]): string[] => [
  'O',
  ...labels.flatMap((label) => [`B-${label}`, `I-${label}`]),
];

/** The labels that some tags are of; undefined where they are no BIO tags in our order. */
export function labelsOfTags(tags: readonly string[]): string[] | undefined {
  const labels = tags.filter((tag) => tag.startsWith('B-')).map((tag) => tag.slice(2));
  return tags.join('\n') === bioTags(labels).join('\n') ? labels : undefined;
}

/** 0 is O, 2k + 1 the begin of label k, 2k + 2 its inside. */
const isInside = (tag: number): boolean => tag > 0 && tag % 2 === 0;
const mayFollow = (tag: number, before: number): boolean => !isInside(tag) || before === tag || before === tag - 1;

/**
 * The most probable tags of some words, in which no inside stands at the start, after O, or after another label: Viterbi
 * (1967) over the words' own probabilities, with forbidden steps and no others weighed.
 *
 * @param logProbabilities [words, tags]
 * @returns a tag of each word
 */
export function bestTags(logProbabilities: ArrayLike<number>, tags: number): Int32Array {
  const words = logProbabilities.length / tags;
  const from = new Int32Array(words * tags);
  let best = Float64Array.from({ length: tags }, (_, tag) => (mayFollow(tag, 0) ? logProbabilities[tag]! : -Infinity));
  for (let word = 1; word < words; word++) {
    // Whatever is no inside follows the best of all; an inside follows its own begin or inside.
    let top = 0;
    for (let tag = 1; tag < tags; tag++) if (best[tag]! > best[top]!) top = tag;
    const next = new Float64Array(tags);
    for (let tag = 0; tag < tags; tag++) {
      const before = !isInside(tag) ? top : best[tag]! >= best[tag - 1]! ? tag : tag - 1;
      from[word * tags + tag] = before;
      next[tag] = best[before]! + logProbabilities[word * tags + tag]!;
    }
    best = next;
  }
  const path = new Int32Array(words);
  if (words === 0) return path;
  let tag = 0;
  for (let other = 1; other < tags; other++) if (best[other]! > best[tag]!) tag = other;
  for (let word = words - 1; word >= 0; word--) {
    path[word] = tag;
    tag = from[word * tags + tag]!;
  }
  return path;
}

/** Runs of words that are one entity: [first, last] and its label's index. */
export function spansOfTags(tags: ArrayLike<number>): { first: number; last: number; label: number }[] {
  const spans: { first: number; last: number; label: number }[] = [];
  for (let word = 0; word < tags.length; word++) {
    const tag = tags[word]!;
    if (tag === 0) continue;
    const label = (tag - 1) >> 1;
    if (isInside(tag)) spans[spans.length - 1]!.last = word;
    else spans.push({ first: word, last: word, label });
  }
  return spans;
}
