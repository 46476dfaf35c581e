import { type HostTensor, hostTensor } from '@fewtune/engine';

const table = 'embeddings.word_embeddings.weight';

/** The word embeddings of an encoder, cut down to the rows that some texts use. */
export interface UsedVocabulary {
  /** The same token ids counted in the cut table. */
  readonly ids: number[][];
  readonly padId: number;
  readonly weights: Record<string, HostTensor>;
  /** Puts trained rows back into the whole table. */
  restore(trained: Readonly<Record<string, HostTensor>>): Record<string, HostTensor>;
}

/**
 * Rows that no training text uses get no gradient, so training needs neither them nor their optimiser state: a step
 * then touches a few hundred rows instead of thirty thousand.
 */
export function usedVocabulary(
  weights: Readonly<Record<string, HostTensor>>,
  ids: readonly (readonly number[])[],
  padId: number,
): UsedVocabulary {
  const whole = weights[table]!;
  const width = whole.shape[1]!;
  const source = whole.data as Float32Array;
  const used = [...new Set([padId, ...ids.flat()])].sort((a, b) => a - b);
  const place = new Map(used.map((id, row) => [id, row]));
  const cut = new Float32Array(used.length * width);
  for (const [row, id] of used.entries()) cut.set(source.subarray(id * width, (id + 1) * width), row * width);
  return {
    ids: ids.map((row) => row.map((id) => place.get(id)!)),
    padId: place.get(padId)!,
    weights: { ...weights, [table]: hostTensor('float32', [used.length, width], cut) },
    restore: (trained) => {
      const rows = trained[table];
      if (!rows) return { ...trained };
      const data = Float32Array.from(source);
      const values = rows.data as Float32Array;
      for (const [row, id] of used.entries()) data.set(values.subarray(row * width, (row + 1) * width), id * width);
      return { ...trained, [table]: hostTensor('float32', whole.shape, data) };
    },
  };
}
