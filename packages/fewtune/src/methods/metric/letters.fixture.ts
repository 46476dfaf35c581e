import type { EpisodeSource } from '../../data/meta-dataset.js';
import { createRandom } from '../../data/random.js';

/** Sentences of a class hold its two letters among letters that say nothing: always a to e. */
export function letters(marks: readonly string[], each: number, seed: number): EpisodeSource {
  const random = createRandom(seed);
  const labels = Int32Array.from({ length: marks.length * each }, (_, row) => Math.floor(row / each));
  const texts = [...labels].map((label) => {
    const filler = Array.from({ length: 4 }, () => 'abcde'[random.int(5)]!);
    return random.shuffle([...marks[label]!, ...filler]).join(' ');
  });
  return { texts, labels, classes: marks };
}

export const train = letters(['fg', 'hi', 'jk', 'lm', 'no', 'pq', 'rs', 'fh', 'gi', 'jl', 'km', 'np'], 12, 1);
export const unseen = letters(['oq', 'pr', 'qs', 'fi', 'gh', 'jm'], 20, 2);
